"""What a directory of GLUE results was made with; results made with other settings do not go into it."""

import importlib.metadata
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evaluation.glue.results import SETTINGS
from textfiles.atomic import read_json, write_json

_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "scikit-learn", "scipy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a score depends on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _PACKAGES}


def begin_directory(directory: Path, settings: Mapping[str, Any]) -> None:
    """Write settings down, or check that they are those of before; data of further tasks are added to them.

    Args:
        directory: OUTPUT/<label>.
        settings: "benchmark", "model", "weights", "protocol", "data" (split -> what it holds) and "versions", which
            may change: each run says its own.

    Raises:
        ValueError: the directory was begun with other settings, with what differs, or holds something else.
    """
    path = directory / SETTINGS
    if path.is_file():
        before = read_json(path, "Choose another --output_dir or remove the directory.")
        changed = [f"{name}: {old} before, {new} now" for name, old, new in _common(before, settings) if old != new]
        if changed:
            raise ValueError(
                f"{directory} was begun with other settings ({'; '.join(changed)}). Choose another --output_dir, or "
                "remove the directory."
            )
        settings = {**before, "data": {**before["data"], **settings["data"]}}
        if settings == before:
            return
    elif directory.is_dir() and any(directory.iterdir()):
        raise ValueError(f"{directory} exists and holds no GLUE results. Choose another --output_dir.")
    write_json(path, settings)


def _common(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """What must not change, by name, with its values before and now; splits that both have."""
    for name in ("benchmark", "model", "weights"):
        yield name, before.get(name), now[name]
    for name, value in now["protocol"].items():
        yield name, before["protocol"].get(name), value
    for name, value in now["data"].items():
        if name in before["data"]:
            yield name, before["data"][name], value
