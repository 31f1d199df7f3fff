"""Paths that a person names: an error names the option, what is wrong and the remedy, not an error number."""

import argparse
import errno
import os
from pathlib import Path

from .settings import near_name

_REASONS = {
    errno.ENOENT: "there is no such file or directory; correct the path.",
    errno.EISDIR: "it is a directory; name a file.",
    errno.ENOTDIR: "a part of this path is a file, not a directory; correct the path.",
    errno.EEXIST: "it exists, and is not a directory; choose another path.",
    errno.EACCES: "permission denied; allow it, or choose another path.",
    errno.EPERM: "permission denied; allow it, or choose another path.",
    errno.EROFS: "it is on a read-only file system; choose another path.",
    errno.ENOSPC: "no space left on its disk; free some, or choose another path.",
    errno.EDQUOT: "the quota of its disk is used up; free some, or choose another path.",
}


def plain_message(error: Exception) -> str:
    """The message of an error; the operating system's, a number and two words, is turned into a sentence."""
    if isinstance(error, OSError) and error.filename is not None and error.errno in _REASONS:
        return f"{os.fsdecode(error.filename)}: {_REASONS[error.errno]}"
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        near = error.object[max(0, error.start - 40) : error.end + 40]
        return (
            f"{near!a} is not valid text: a file's name in another encoding, perhaps. Rename the file, or set "
            "LC_ALL=C.UTF-8 if other programs show the name as it should be."
        )
    return str(error)


def file_fault(path: str | os.PathLike) -> str | None:
    """Why a path cannot be read as a file, with a remedy; None if it can. A pipe can."""
    path = Path(path)
    if os.path.isdir(path):
        return f"{path} is a directory; name a file."
    if os.path.exists(path):
        return None
    folder = path.parent
    names = os.listdir(folder) if folder.is_dir() and os.access(folder, os.R_OK) else []
    # by what is before the ending: all .yaml files are near one another. Of two, the one with the same ending
    stem, ending = _parts(path.name)
    names.sort(key=lambda name: name.endswith(ending))
    stems = {_parts(name)[0]: name for name in names if _may_be_meant(name, stem, ending)}
    near = near_name(stem, stems)
    return f"{path} does not exist; " + (f"did you mean {folder / stems[near]}?" if near else "correct the path.")


def _parts(name: str) -> tuple[str, str]:
    stem, _, ending = name.partition(".")
    return stem, ending


def _may_be_meant(name: str, stem: str, ending: str) -> bool:
    """Whether a file is of a like kind (yml and yaml, jsonl and jsonl.gz), or has the same name with another ending."""
    its_stem, its_ending = _parts(name)
    return its_stem == stem or near_name(ending, [its_ending]) is not None


def output_fault(directory: str | os.PathLike) -> str | None:
    """Why a directory cannot be written to, with a remedy; None if it can, or can be made."""
    directory = Path(directory)
    existing = next((path for path in (directory, *directory.parents) if os.path.exists(path)), directory)
    if os.path.isfile(existing):
        return f"{existing} is a file, not a directory; choose another."
    return None


def existing_file(text: str) -> Path:
    """For argparse's `type`: the path of a file; anything else is refused with the option's name."""
    return _checked(text, file_fault(text))


def output_directory(text: str) -> Path:
    """For argparse's `type`: the path of a directory that exists or can be made."""
    return _checked(text, output_fault(text))


def _checked(text: str, fault: str | None) -> Path:
    if fault is not None:
        raise argparse.ArgumentTypeError(fault)
    return Path(text)
