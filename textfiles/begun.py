"""Directories that belong to the settings they were begun with: nothing made with other settings goes into them."""

import atexit
import json
import os
import shutil
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .atomic import read_json, remove_leftovers, write_json
from .beir import corpus_file
from .locks import hold, wait

SETTINGS = "settings.json"
_LOCK = ".in-use"
_REMEDY = "Remove the directory, or choose another output_dir."
_locks: dict[Path, int] = {}  # open files; the system closes them, and so ends the locks, with the process


def begin_directory(
    directory: Path,
    settings: Mapping[str, Any],
    *,
    reads: Iterable[str | Path | None] = (),
    work: Path | None = None,
    settings_file: Path | None = None,
) -> bool:
    """Record what the files of a directory are made from, or check that it is the same as before.

    The directory counts as in use until this process ends. Processes with the same settings may share it. As long as
    it holds no results and nobody else uses it, it may be begun anew with other settings, which removes `work`.
    Leftovers of killed writers are removed.

    Args:
        directory: where the files are going to be; made if absent. Check all that can be refused before this call.
        settings: JSON values that decide what the files hold.
        reads: paths that the files are made from, None among them left out. In a directory of these the results would
            be read too, the next time.
        work: directory for what is needed until there are results; it depends on the settings as they do.
        settings_file: where they are recorded; None: `settings.json` in the directory.

    Returns:
        Whether the directory was begun now; else it goes on.

    Raises:
        ValueError: the directory was begun with other settings, holds something else, is in use with other settings,
            or lies inside one that is read; the message names what differs.
    """
    for read in reads:
        if read is not None and _is_inside(directory, Path(read).expanduser()):
            raise ValueError(f"{directory} lies inside {read}, which is read. Choose another output_dir.")
    path = settings_file or directory / SETTINGS
    now = json.loads(json.dumps(settings))  # as they are read again: tuples become lists
    if directory.is_dir() and not path.exists() and _visible_files(directory, path):
        raise ValueError(
            f"{directory} holds other files, and no {path.name} of an earlier run. Choose another output_dir."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    alone = _use(directory)
    if alone:
        remove_leftovers(directory)
    before = read_json(path, _REMEDY) if path.exists() else None
    if before == now:
        return False
    made = _visible_files(directory, path)
    if before is None or (alone and not made):
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
        write_json(path, now)
        return True
    changes = "; ".join(changed_settings(before, now))
    if made:
        raise ValueError(f"{directory} was begun with other settings: {changes} (see {path}). {_REMEDY}")
    raise ValueError(f"{directory} is in use with other settings ({_user(directory)}): {changes}. {_REMEDY}")


def _is_inside(directory: Path, read: Path) -> bool:
    """Whether files in a directory would be read as part of another; in the BEIR layout files have fixed names."""
    return read.is_dir() and corpus_file(read) is None and directory.resolve().is_relative_to(read.resolve())


def abandon_directory(directory: Path, work: Path) -> None:
    """Undo `begin_directory` after a refusal, unless somebody else has begun to use the directory.

    Args:
        directory: it was begun now, with its settings in `settings.json`, and holds no results.
        work: directory for what was made before the refusal.
    """
    if not _use(directory):
        return
    shutil.rmtree(work, ignore_errors=True)
    (directory / SETTINGS).unlink(missing_ok=True)
    _leave(directory.resolve() / _LOCK)
    if not any(directory.iterdir()):
        directory.rmdir()


def clear_finished(directory: Path, work: Path | None = None) -> None:
    """Remove what is needed no more in a finished directory, and what runs that were killed have left there.

    While others use the directory it all stays: the last of them removes it.

    Args:
        directory: its results are complete.
        work: directory for what was needed until then, if there is one.
    """
    if ((work and work.exists()) or (directory / _LOCK).exists()) and _use(directory):
        remove_leftovers(directory)
        if work:
            shutil.rmtree(work, ignore_errors=True)


def use_alone(directory: Path) -> None:
    """Keep a directory for this process until it ends; it is made if absent.

    Raises:
        ValueError: another process uses it; the message names process and host.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if not _use(directory):
        raise ValueError(
            f"{directory} is in use by {_user(directory)}. Wait for it, end it, or choose another output_dir."
        )


def changed_settings(before: Any, now: Any, name: str = "") -> list[str]:
    """What differs between two settings, such as `"sources[0].limit was 10, is 20"`; nested settings by their path."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = list(dict.fromkeys([*before, *now]))
        return [
            change
            for key in keys
            for change in changed_settings(before.get(key), now.get(key), f"{name}.{key}" if name else str(key))
        ]
    if _is_file(before) and _is_file(now) and before[0] == now[0] and before != now:
        return [f"{name}: the file {now[0]} was changed or written anew"]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        parts = zip(before, now, strict=True)
        return [change for i, (old, new) in enumerate(parts) for change in changed_settings(old, new, f"{name}[{i}]")]
    return [] if before == now else [f"{name} was {_shown(before)}, is {_shown(now)}"]


def _is_file(value: Any) -> bool:
    """Whether a value is what `textfiles.rows.file_stats` says of a file: name, size and time of change."""
    return isinstance(value, list) and [type(each) for each in value] == [str, int, int]


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _visible_files(directory: Path, settings_file: Path) -> bool:
    places = {directory, settings_file.parent}
    found = (path for place in places if place.is_dir() for path in place.iterdir())
    return any(not path.name.startswith(".") and path != settings_file for path in found)


def _use(directory: Path) -> bool:
    """Hold a shared lock on the directory until this process ends; returns whether nobody else holds one."""
    if os.name == "nt":  # nor could an open file be removed
        return True
    path = directory.resolve() / _LOCK
    descriptor = _locks.get(path)
    while descriptor is None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        wait(descriptor, path, shared=True)
        if not path.exists() or not os.path.samestat(path.stat(), os.fstat(descriptor)):
            os.close(descriptor)  # its last user has just removed it
            descriptor = None
    alone = hold(descriptor) is not False
    if alone and path not in _locks:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
    if path not in _locks:
        _locks[path] = descriptor
        atexit.register(_leave, path)
    wait(descriptor, path, shared=True)
    return alone


def _leave(path: Path) -> None:
    descriptor = _locks.pop(path, None)
    if descriptor is not None:
        if hold(descriptor) is not False:
            path.unlink(missing_ok=True)
        os.close(descriptor)


def _user(directory: Path) -> str:
    try:
        user = (directory / _LOCK).read_text(encoding="utf-8")
    except OSError:  # it has just ended
        user = ""
    return user or "another process"
