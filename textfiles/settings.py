"""Settings from YAML or the command line as dataclasses; keys that are unknown, missing or invalid are named."""

import argparse
import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

Section = TypeVar("Section")


def near_name(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant: one with other letters in places, or one that is cut short."""
    by_lower = {each.lower(): each for each in known}
    lower = name.lower()
    if found := difflib.get_close_matches(lower, by_lower, n=1):
        return by_lower[found[0]]
    cut = (
        each
        for each in by_lower
        if min(len(each), len(lower)) >= 3 and (lower.startswith(each) or each.startswith(lower))
    )
    return next((by_lower[each] for each in cut), None)


def did_you_mean(name: str, known: Iterable[str], what: str = "keys", otherwise: str | None = None) -> str:
    """The end of an error about an unknown name: the one that was probably meant, or all there are, or `otherwise`."""
    known = list(known)
    near = near_name(name, known)
    return f"did you mean {near!r}?" if near else otherwise or f"the {what} are {', '.join(known)}."


def is_filled(value: Any) -> bool:
    """Whether a value is a text that is not blank."""
    return isinstance(value, str) and bool(value.strip())


def is_number(value: Any, kind: Any = int) -> bool:
    """Whether a value is a number of a kind. YAML's true and false are not numbers."""
    return isinstance(value, kind) and not isinstance(value, bool)


def require_filled(settings: Any, *keys: str, or_null: bool = False) -> None:
    """Raise a ValueError that names the first of some attributes that is not a text or is blank."""
    for key in keys:
        value = getattr(settings, key)
        if not is_filled(value) and not (or_null and value is None):
            raise ValueError(f"{key} must be a non-empty string{' or null' if or_null else ''}, not {value!r}.")


def require_at_least(least: int, settings: Any, *keys: str) -> None:
    """Raise a ValueError that names the first attribute that is not a whole number or is too small; None passes."""
    for key in keys:
        value = getattr(settings, key)
        if value is not None and not (is_number(value) and value >= least):
            what = f"at least {least}" if is_number(value) else "a whole number"
            raise ValueError(f"{key} must be {what}, not {value!r}.")


def whole_number(least: int) -> Callable[[str], int]:
    """For argparse's `type`: whole numbers from `least`; anything else is refused with the option's name."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {least}, not {text}.")
        return number

    return read


def read_section(cls: type[Section], mapping: Mapping[str, Any], where: str) -> Section:
    """Build a dataclass from a section of a config.

    Args:
        cls: the dataclass; its fields are the keys.
        mapping: keys to values.
        where: the section's place, put before every error.

    Raises:
        ValueError: a key is unknown or missing, or the dataclass refuses a value.
    """
    if not isinstance(mapping, Mapping):
        raise ValueError(f"{where}: {mapping!r} is not a mapping of keys to values.")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in mapping:
        if key not in fields:
            raise ValueError(f"{where}: unknown key {key!r}; {did_you_mean(str(key), fields)}")
    for key, field in fields.items():
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING and key not in mapping:
            hint = ' (write "" for no prefix)' if key.endswith("_prefix") else ""
            raise ValueError(f"{where}: the key {key!r} is missing; add it{hint}.")
    try:
        return cls(**mapping)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def read_sections(cls: type[Section], entries: Sequence[Mapping[str, Any]], where: str) -> list[Section]:
    """Build a dataclass with a field `name` from each section of a list.

    Args:
        cls: the dataclass.
        entries: the sections.
        where: what to call the list in an error.

    Raises:
        ValueError: as `read_section`; or there is no section, or a name is used twice.
    """
    if not isinstance(entries, Sequence) or isinstance(entries, str):
        raise ValueError(f"{where}: {entries!r} is not a list of mappings.")
    if not entries:
        raise ValueError(f"{where}: the list is empty; name at least one.")
    sections = []
    for number, entry in enumerate(entries):
        name = f" ({entry['name']})" if isinstance(entry, Mapping) and "name" in entry else ""
        sections.append(read_section(cls, entry, f"{where}[{number}]{name}"))
    names = [section.name for section in sections]  # type: ignore[attr-defined]
    if len(set(names)) < len(names):
        raise ValueError(f"{where}: the name {next(n for n in names if names.count(n) > 1)!r} is used twice.")
    return sections
