"""What a disk may do to the files of a command: they are emptied, cut, or one bit is another.

A file that is damaged is made again, or its name and what to do about it are printed. Never is it taken as it is.
"""

import fnmatch
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.crash.harness import Case, Trials, difference_of, tallies

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
    case: Case, scratch: Path, interruptions: int = 2, bits_not_checked: Mapping[str, str] | None = None
) -> None:
    """Damage each file that an interrupted or a finished run has left, and start the command again.

    It must leave the same files as a run that nobody disturbed, or end in an error that names the file and the remedy.
    Where it only says that it is finished, it takes nothing from the file either.

    Args:
        case: what to run.
        scratch: an empty directory.
        interruptions: how many times it is killed, from the middle to the last event; one more state is its end.
        bits_not_checked: pattern of paths -> the reason why a changed bit need not be noticed.

    Raises:
        AssertionError: names the damages that went unnoticed, or were not explained.
    """
    trials = Trials(case, scratch)
    finished = scratch / "finished"
    os.replace(trials.work, finished)
    events = [trials.events - place * trials.events // (2 * interruptions) for place in range(interruptions)]
    states = {f"killed before event {event}": state for event, state in trials.states(sorted(events)).items()}
    tried, failures = 0, []
    for when, state in {**states, "finished": finished}.items():
        found = sorted(path.relative_to(state) for path in state.rglob("*") if path.is_file() and path.stat().st_size)
        for path in (path for path in found if path not in trials.inputs and path.suffix not in _PAGES):
            unchecked = any(fnmatch.fnmatch(str(path), pattern) for pattern in bits_not_checked or {})
            for what, damage in DAMAGES.items():
                if damage is _flip and unchecked:
                    continue
                trials.reset(state)
                damage(trials.work / path)
                tried += 1
                if fault := _fault(trials, path):
                    failures.append(f"{path} {what} when {when}: {fault}")
    tallies[f"{case.name}, damaged files"] = f"{tried} damages; {len(failures)} not noticed or not explained"
    assert not failures, f"{len(failures)} of {tried} damages:\n" + "\n".join(failures)


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
