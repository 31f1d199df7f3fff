"""Settings of a recipe: a YAML file, then command-line overrides, into dataclasses. Unknown keys are refused."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml


def parse_arguments(usage: str | None, kinds: Sequence[type], argv: Sequence[str]) -> tuple[Any, ...]:
    """Read `--config FILE.yaml [--key value ...]` into one instance of each dataclass.

    A key of the file or of the command line goes to the dataclass that has a field of that name. `--key value` wins
    over the file; `--key.inner value` sets one entry of a mapping; values are read as YAML (`null`, `[1, 2]`, `2e-4`).

    Args:
        usage: printed for `--help`, with the list of keys.
        kinds: dataclasses without common field names.
        argv: the command line, without the program's name.

    Raises:
        SystemExit: for `--help`, and for a missing file, an unknown or missing key, or a value of the wrong type,
            with one line that names it.
    """
    if not argv or "-h" in argv or "--help" in argv:
        keys = ", ".join(sorted(name for kind in kinds for name in _fields(kind)))
        raise SystemExit(f"{(usage or '').strip()}\n\n--config FILE.yaml [--key value ...], with the keys: {keys}")
    try:
        settings, where, typed = _read(list(argv))
        _refuse_unknown(kinds, settings, where)
        return tuple(_build(kind, settings, where, typed) for kind in kinds)
    except (ValueError, OSError, yaml.YAMLError) as error:
        raise SystemExit(f"error: {error}") from error


def _read(argv: list[str]) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    """Settings, for each where it was said, and for those of the command line what was typed."""
    settings: dict[str, Any] = {}
    where: dict[str, str] = {}
    typed: dict[str, str] = {}
    overrides = _pairs(argv)
    for value in [value for key, value in overrides if key == "config"]:
        path = Path(value)
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(loaded, dict):
            raise ValueError(f"{path}: a config is a mapping of keys to values.")
        settings |= loaded
        where |= dict.fromkeys(loaded, str(path))
    for key, text in [pair for pair in overrides if pair[0] != "config"]:
        value = yaml.safe_load(text)
        outer, _, inner = key.partition(".")
        settings[outer] = {**(settings.get(outer) or {}), inner: value} if inner else value
        where[outer] = f"--{key}"
        if not inner:
            typed[outer] = text
    return settings, where, typed


def _pairs(argv: list[str]) -> list[tuple[str, str]]:
    pairs = []
    while argv:
        word = argv.pop(0)
        if not word.startswith("--"):
            raise ValueError(f"{word!r} is not a key; write --key value.")
        key, equals, value = word[2:].partition("=")
        if not equals:
            value = argv.pop(0) if argv and not argv[0].startswith("--") else "true"
        pairs.append((key.replace("-", "_"), value))
    return pairs


def _fields(kind: type) -> dict[str, dataclasses.Field]:
    return {field.name: field for field in dataclasses.fields(kind) if field.init}


def _refuse_unknown(kinds: Sequence[type], settings: dict[str, Any], where: dict[str, str]) -> None:
    names = [name for kind in kinds for name in _fields(kind)]
    for key in settings:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            raise ValueError(
                f"{where[key]}: unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else "; see --help.")
            )


def _build(kind: type, settings: dict[str, Any], where: dict[str, str], typed: dict[str, str]) -> Any:
    hints, values = typing.get_type_hints(kind), {}
    for name, field in _fields(kind).items():
        if name in typed and hints[name] in (str, str | None):
            settings[name] = _as_typed(settings[name], typed[name])
        if name in settings:
            values[name] = _convert(settings[name], hints[name], f"{where[name]}: {name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"the key {name!r} is missing; add it to the config or give --{name}.")
    return kind(**values)


def _as_typed(value: Any, text: str) -> Any:
    """A text of the command line that YAML reads as something else: "query: " is a mapping to it, and "" is null."""
    misread = isinstance(value, dict | list) or value == text.strip() or (value is None and not text.strip())
    return text if misread else value


def _convert(value: Any, hint: Any, what: str) -> Any:
    """A YAML value as the field's type; YAML reads 2e-4 as text and 1 as an integer where a float is meant."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    options = {typing.get_origin(option) or option for option in (typing.get_args(hint) if union else (hint,))}
    if float in options and not isinstance(value, bool) and isinstance(value, int | str):
        try:
            return int(value) if int in options and isinstance(value, int) else float(value)
        except ValueError:
            pass
    if value is None and types.NoneType in options or any(_is(value, option) for option in options):
        return value
    if str in options or any(isinstance(option, type) and issubclass(option, str) for option in options):
        if value is False:
            return "no"  # YAML reads the word as false; `save_strategy: no` means the word
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
    elif not options <= {int, float, bool, str, list, dict, types.NoneType}:
        return value  # a type with a reader of its own, such as an enum of transformers
    expected = " or ".join(sorted("null" if o is types.NoneType else getattr(o, "__name__", str(o)) for o in options))
    raise ValueError(f"{what} must be {expected}, not {value!r}.")


def _is(value: Any, option: Any) -> bool:
    if not isinstance(option, type):
        return True
    return isinstance(value, option) and not (isinstance(value, bool) and option in (int, float))
