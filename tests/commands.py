"""What commands say and leave behind."""

from collections.abc import Callable
from pathlib import Path

import pytest


def refusal(main: Callable[..., object], *arguments: object) -> str:
    """The line with which a command ends that refuses its arguments."""
    with pytest.raises(SystemExit) as error:
        main(*arguments)
    return str(error.value)


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below a directory, by its path in it, save the mark of the process that uses it."""
    files = (path for path in directory.rglob("*") if path.is_file() and path.name != ".in-use")
    return {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}
