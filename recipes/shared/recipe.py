"""From a recipe's command line to the function that does the work."""

import importlib
import typing
from typing import Any

from recipes.shared.arguments import parse_arguments
from recipes.shared.help import help_page


def run_recipe(usage: str | None, step: str, argv: list[str]) -> Any:
    """Read a recipe's settings from the command line and call its step; with `--help`, print its page instead.

    A step is a function whose parameters are dataclasses: their fields are the recipe's keys. It is named, not given,
    for importing it takes seconds, and `--help` reads its source instead.

    Args:
        usage: docstring of the script.
        step: "module:function".
        argv: the command line, without the program's name.

    Returns:
        What the step returns.

    Raises:
        SystemExit: a setting is invalid, with one line that names it.
    """
    module, _, function = step.partition(":")
    if "-h" in argv or "--help" in argv:
        print(help_page(usage, module, function))
        return None
    call = getattr(importlib.import_module(module), function)
    hints = typing.get_type_hints(call)
    return call(*parse_arguments([kind for name, kind in hints.items() if name != "return"], argv))
