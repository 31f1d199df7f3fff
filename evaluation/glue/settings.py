"""The settings that a directory of GLUE results was made with; results of other settings are refused."""

import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluation.glue.results import SETTINGS
from textfiles.atomic import read_json, remove_leftovers, write_json
from textfiles.begun import changed_settings
from textfiles.locks import locked

_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "scikit-learn", "scipy")
_REMEDY = "Choose another --output_dir, or remove the directory."


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a score depends on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _PACKAGES}


def begin_directory(directory: Path, settings: Mapping[str, Any]) -> None:
    """Record settings, or check that they are the same as before; data of further tasks are added.

    `textfiles.begun.begin_directory` would refuse further tasks and other versions, which may share a directory here.

    Args:
        directory: OUTPUT/<label>.
        settings: "benchmark", "model", "weights", "protocol", "data" (split -> what it holds) and "versions", which
            may change, since each run records its own.

    Raises:
        ValueError: the directory was begun with other settings, which are named, or holds something else.
    """
    path = directory / SETTINGS
    if not path.is_file() and directory.is_dir() and any(directory.glob("[!.]*")):
        raise ValueError(f"{directory} exists and is not a directory of GLUE results. Choose another --output_dir.")
    remove_leftovers(directory)
    with locked(directory / ".settings.lock"):  # two processes may add tasks at once
        before = read_json(path, _REMEDY) if path.is_file() else {**settings, "data": {}}
        if not isinstance(before, dict) or not isinstance(before.get("data"), dict):
            raise ValueError(f"{path} does not hold the settings of GLUE results. {_REMEDY}")
        if changed := changed_settings(_decisive(before, settings), _decisive(settings, before)):
            raise ValueError(f"{directory} was begun with other settings: {'; '.join(changed)}. {_REMEDY}")
        merged = {**before, "data": {**before["data"], **settings["data"]}}
        if merged != before or not path.is_file():
            write_json(path, merged)


def _decisive(settings: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that must not change, with the data of the splits that the other settings have too."""
    data = {split: facts for split, facts in settings["data"].items() if split in other["data"]}
    return {name: settings.get(name) for name in ("benchmark", "model", "weights", "protocol")} | data
