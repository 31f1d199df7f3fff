"""Settings of a recipe: YAML files, then the command line, into dataclasses.

The libraries that do this (jsonargparse, tyro, simple-parsing, HfArgumentParser) need the dataclasses themselves, and
one that extends TrainingArguments imports torch: their `--help` takes seconds. Here `recipes.shared.help` reads the
sources instead, and what remains is short: keys without a prefix over several dataclasses, several config files,
entries of a mapping set one by one, and unknown keys refused with the nearest known one.
"""

import dataclasses
import enum
import math
import os
import types
import typing
from collections.abc import Sequence
from typing import Any, NamedTuple

import yaml

from textfiles.commands import one_line_errors
from textfiles.paths import file_fault, output_fault
from textfiles.settings import did_you_mean
from textfiles.yaml_files import parse_yaml, read_yaml

# Keys of directories; what holds data paths expands them itself.
_PATHS = {"output_dir", "model_name_or_path", "tokenizer", "train_data", "map_model", "resume_from_checkpoint"}


class _Setting(NamedTuple):
    """A value, where it was given, and, of the command line, the text as typed."""

    value: Any
    where: str
    typed: str | None = None


def parse_arguments(kinds: Sequence[type], argv: Sequence[str]) -> tuple[Any, ...]:
    """Read `--config FILE.yaml [--key value ...]` into one instance of each dataclass.

    A key goes to the dataclass that has a field of that name. Of several config files, a later one wins, and
    `--key value` wins over all. `--key.inner value` sets one entry of a mapping. Values of the command line are read
    as YAML (`null`, `[1, 2]`, `2e-4`), except for text, which arrives as typed. `dry_run: true` sets `use_cpu` too,
    where there is such a key: describing a run asks nothing of the machine.

    Args:
        kinds: dataclasses without common field names.
        argv: the command line, without the program's name.

    Raises:
        SystemExit: a missing file, an unknown or missing key, or a value of the wrong type, with one line that names
            it.
    """
    with one_line_errors():
        fields = {name: hint for kind in kinds for name, hint in _fields(kind).items()}
        settings = _read(list(argv))
        for key, setting in settings.items():
            if key not in fields:
                hint = did_you_mean(str(key), fields, otherwise="--help lists the keys.")
                raise ValueError(f"{setting.where}: unknown key {key!r}; {hint}")
        values = {key: _convert(setting, fields[key], key) for key, setting in settings.items()}
        for key in _PATHS & values.keys():  # the shell does not do it in a file, nor in --key=~/here
            if isinstance(values[key], str) and values[key].startswith("~"):
                values[key] = os.path.expanduser(values[key])
        for key, value in values.items():
            if isinstance(value, float) and math.isnan(value):  # every comparison with it would be false
                raise ValueError(f"{settings[key].where}: {key} must be a number, not {value}.")
            if key == "seed" and isinstance(value, int) and value < 0:  # NumPy would refuse it without a name
                raise ValueError(f"{settings[key].where}: seed must be at least 0, not {value}.")
            if key == "output_dir" and isinstance(value, str) and (fault := output_fault(value)):
                raise ValueError(f"{settings[key].where}: the output_dir {fault}")
        if values.get("dry_run") and "use_cpu" in fields:
            values["use_cpu"] = True
        return tuple(_build(kind, values) for kind in kinds)


def _read(argv: list[str]) -> dict[str, _Setting]:
    settings: dict[str, _Setting] = {}
    pairs = _pairs(argv)
    for _, file in [pair for pair in pairs if pair[0] == "config"]:
        if file is None:
            raise ValueError("--config needs a file; write --config FILE.yaml.")
        if fault := file_fault(file):
            raise ValueError(f"--config: {fault}")
        settings |= {key: _Setting(value, file) for key, value in read_config(file).items()}
    for key, text in [pair for pair in pairs if pair[0] != "config"]:
        outer, _, inner = key.partition(".")
        value = True if text is None else _value(text)
        if not inner:
            settings[outer] = _Setting(value, f"--{key}", text)
            continue
        before = settings[outer].value if outer in settings else None
        if not isinstance(before, dict | None):
            raise ValueError(f"--{key}: {outer} is {before!r}, not a mapping; give it as a whole with --{outer}.")
        settings[outer] = _Setting({**(before or {}), inner: value}, f"--{key}")
    return settings


def read_config(file: str) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ValueError: it is not valid YAML, or not a mapping.
        OSError: it cannot be read.
    """
    loaded = read_yaml(file)
    if not isinstance(loaded, dict):
        raise ValueError(f"{file}: a config must be a mapping of keys to values.")
    return loaded


def _value(text: str) -> Any:
    """A text of the command line as YAML reads it; unchanged if it is not YAML, because a text field takes any text."""
    try:
        return parse_yaml(text)
    except (yaml.YAMLError, RecursionError):
        return text


def _pairs(argv: list[str]) -> list[tuple[str, str | None]]:
    """(key, value) as typed; the value is None where a key stands alone, which means true."""
    pairs: list[tuple[str, str | None]] = []
    while argv:
        word = argv.pop(0)
        if not word.startswith("--"):
            raise ValueError(f"{word!r} is not a key; write --key value.")
        key, equals, value = word[2:].partition("=")
        alone = not equals and (not argv or argv[0].startswith("--"))
        pairs.append((key.replace("-", "_"), value if equals else None if alone else argv.pop(0)))
    return pairs


def _fields(kind: type) -> dict[str, Any]:
    """The type of each field that can be given."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}


def _build(kind: type, values: dict[str, Any]) -> Any:
    own = {name: values[name] for name in _fields(kind) if name in values}
    for field in dataclasses.fields(kind):
        has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if field.init and field.name not in own and not has_default:
            raise ValueError(f"the key {field.name!r} is missing; add it to the config or give --{field.name}.")
    return kind(**own)


def _convert(setting: _Setting, hint: Any, key: str) -> Any:
    """A setting as its field's type; YAML reads 2e-4 as text, and 1 as an integer where a float is meant."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    options = {typing.get_origin(option) or option for option in (typing.get_args(hint) if union else (hint,))}
    if typing.Literal in options:
        options = options - {typing.Literal} | {str}  # the dataclass itself checks the word
    value, typed = setting.value, setting.typed
    takes_text = any(isinstance(option, type) and issubclass(option, str) for option in options)
    takes_null = types.NoneType in options
    only_text = takes_text and all(
        option is types.NoneType or isinstance(option, type) and issubclass(option, str | enum.Enum)
        for option in options
    )
    if only_text and typed is not None:
        return None if takes_null and typed == "null" else typed
    if float in options and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return value if int in options and isinstance(value, int) else float(value)
        except ValueError:
            pass
    if value is None and takes_null or any(_is(value, option) for option in options):
        return value
    if takes_text and value is False and typed is None:
        return "no"  # YAML reads the word as false; `save_strategy: no` means the word
    if takes_text and typed is not None:
        return typed
    if not takes_text and not options <= {int, float, bool, list, dict, types.NoneType}:
        return value  # a type with a reader of its own, such as an enum of transformers
    expected = " or ".join(sorted("null" if o is types.NoneType else getattr(o, "__name__", str(o)) for o in options))
    quotes = "; write it in quotes" if takes_text and not isinstance(value, list | dict | None) else ""
    raise ValueError(f"{setting.where}: {key} must be {expected}, not {value!r}{quotes}.")


def _is(value: Any, option: Any) -> bool:
    if not isinstance(option, type):
        return True
    return isinstance(value, option) and not (isinstance(value, bool) and option in (int, float))
