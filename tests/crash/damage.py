"""What a disk may do to the files of a command: they are emptied, cut, or one bit is another.

A file that is damaged is made again, or its name and what to do about it are printed. Never is it taken as it is.
"""

import fnmatch
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from tests.crash.harness import Case, Trials, difference_of, spread, tallies

_PAGES = (".md", ".png")  # for people; nothing reads them
_REMEDIES = ("again", "emove", "estore", "erun", "hoose", "orrect", "eplace")


def _empty(file: Path) -> None:
    os.truncate(file, 0)


def _cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _flip(file: Path) -> None:
    """Change one bit in the middle."""
    with open(file, "r+b") as stream:
        stream.seek(file.stat().st_size // 2)
        byte = stream.read(1)
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([byte[0] ^ 1]))


DAMAGES: Mapping[str, Callable[[Path], None]] = {"emptied": _empty, "cut in half": _cut, "with one bit changed": _flip}


def assert_notices_damage(
    case: Case,
    scratch: Path,
    interruptions: int = 2,
    bits_not_checked: Mapping[str, str] | None = None,
    not_read: Mapping[str, str] | None = None,
) -> None:
    """Damage each file that an interrupted or a finished run has left, and start the command again.

    It must leave the same files as a run that nobody disturbed, or end in an error that names the file and the remedy.
    Where it only says that it is finished, it takes nothing from the file either.

    Args:
        case: what to run.
        scratch: an empty directory.
        interruptions: how many times it is killed, from the middle to the last event; one more state is its end.
        bits_not_checked: pattern of paths -> the reason why a changed bit need not be noticed.
        not_read: pattern of paths -> what such a file is for, since the command takes nothing from it.

    Raises:
        AssertionError: names the damages that went unnoticed, or were not explained.
    """
    trials = Trials(case, scratch)
    finished = scratch / "finished"
    os.replace(trials.work, finished)
    events = [trials.events - place * trials.events // (2 * interruptions) for place in range(interruptions)]
    states = {f"killed before event {event}": state for event, state in trials.states(sorted(events)).items()}
    damages = [
        (when, state, path, what)
        for when, state in {**states, "finished": finished}.items()
        for path in sorted(path.relative_to(state) for path in state.rglob("*") if path.is_file())
        for what in DAMAGES
        if (state / path).stat().st_size and path not in trials.inputs and path.suffix not in _PAGES
        if not _is_any_of(path, not_read or {})
        if DAMAGES[what] is not _flip or not _is_any_of(path, bits_not_checked or {})
    ]
    tried = [damages[place - 1] for place in spread(len(damages), int(os.environ.get("CRASH_DAMAGES", "0")))]
    failures = []
    for when, state, path, what in tried:
        trials.reset(state)
        DAMAGES[what](trials.work / path)
        if fault := _fault(trials, path):
            failures.append(f"{path} {what} when {when}: {fault}")
    of = f"{len(tried)} of {len(damages)} damages"
    tallies[f"{case.name}, damaged files"] = f"{of}; {len(failures)} not noticed or not explained"
    assert not failures, f"{len(failures)} of {len(tried)} damages:\n" + "\n".join(failures)


def _is_any_of(path: Path, patterns: Iterable[str]) -> bool:
    return any(fnmatch.fnmatch(str(path), pattern) for pattern in patterns)


def _fault(trials: Trials, path: Path) -> str:
    """What is wrong with how a command took a damaged file; empty if nothing is."""
    code, _, _ = trials.run()
    printed, says = trials.printed(100_000), trials.case.says_finished
    if code == 0:
        return difference_of(trials.expected, trials.files())
    if says and says in printed:
        return ""
    if "Traceback" in printed:
        return f"a traceback: {printed[-600:]}"
    if path.name not in printed or not any(remedy in printed for remedy in _REMEDIES):
        return f"an error without file or remedy: {printed[-600:]}"
    return ""
