"""Sections of a config as dataclasses; keys that are unknown, missing or wrong are named."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

Section = TypeVar("Section")


def is_filled(value: Any) -> bool:
    """Whether a value is a text that is not blank."""
    return isinstance(value, str) and bool(value.strip())


def is_number(value: Any, kind: Any = int) -> bool:
    """Whether a value is a number of a kind; YAML's true and false are none."""
    return isinstance(value, kind) and not isinstance(value, bool)


def read_section(cls: type[Section], mapping: Mapping[str, Any], where: str) -> Section:
    """Build a dataclass from a section of a config.

    Args:
        cls: The dataclass; its fields are the keys.
        mapping: Keys to values.
        where: Where the section stands, put in front of every error.

    Raises:
        ValueError: A key is unknown or missing, or the dataclass refuses a value.
    """
    if not isinstance(mapping, Mapping):
        raise ValueError(f"{where}: {mapping!r} is not a mapping of keys to values.")
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in mapping:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(fields)}."
            raise ValueError(f"{where}: unknown key {key!r}; {hint}")
    for key, field in fields.items():
        if field.default is dataclasses.MISSING and key not in mapping:
            hint = ' (write "" for no prefix)' if key.endswith("_prefix") else ""
            raise ValueError(f"{where}: the key {key!r} is missing; add it{hint}.")
    try:
        return cls(**mapping)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def read_sections(cls: type[Section], entries: Sequence[Mapping[str, Any]], where: str) -> list[Section]:
    """Build a dataclass with a field `name` from each section of a list.

    Args:
        cls: The dataclass.
        entries: The sections.
        where: What the list is called in an error.

    Raises:
        ValueError: As `read_section`; or there is no section, or a name stands twice.
    """
    if not entries:
        raise ValueError(f"{where}: the list is empty; name one at least.")
    sections = []
    for number, entry in enumerate(entries):
        name = f" ({entry['name']})" if isinstance(entry, Mapping) and "name" in entry else ""
        sections.append(read_section(cls, entry, f"{where}[{number}]{name}"))
    names = [section.name for section in sections]  # type: ignore[attr-defined]
    if len(set(names)) < len(names):
        raise ValueError(f"{where}: the name {next(n for n in names if names.count(n) > 1)!r} stands twice.")
    return sections
