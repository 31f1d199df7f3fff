"""Kills a command wherever it touches the file system, restarts it, and compares what it leaves byte by byte.

A case is a script, its arguments, and what must be there before it starts. To add one:

    CASE = Case(
        name="make_pairs",
        script="recipes/make_pairs.py",
        arguments=("--config", "config.yaml"),
        prepare=write_inputs,  # fills an empty directory, in which the command runs
        may_differ={"outputs/log.txt": "holds times"},
    )

    @pytest.mark.crash
    def test_make_pairs(tmp_path): assert_survives(CASE, tmp_path)

Every trial runs in the same path, on a fresh copy of the prepared directory, so that paths in outputs do not differ.
`CRASH_KILLS` sets how many events of a case are tried, evenly spread (40; 0: every one), and `CRASH_RANDOM` how many
random delays (5). What a disk may do to files that are there already, `assert_notices_damage` does to each of them.
"""

import atexit
import contextlib
import fnmatch
import multiprocessing
import os
import random
import re
import runpy
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
_HOOK = Path(__file__).parent / "hook"
_TIME_LIMIT = 600  # seconds of one run
_RESTARTS = 3
_PAGES = (".md", ".png")
_HEAVY = (
    "torch",
    "transformers",
    "datasets",
    "sentence_transformers",
    "accelerate",
    "recipes.steps.stage1",
    "recipes.shared.contrastive",
    "evaluation.harness.commands",
    "evaluation.glue.command",
)

tallies: dict[str, tuple[int, int]] = {}  # case -> kills or damages tried, survived; printed at the end of the session


@dataclass(frozen=True)
class Case:
    """A command that must survive being killed.

    Attributes:
        name: for people.
        script: path of a Python script, from the root of the repository.
        arguments: of its command line; paths are relative to the directory that it runs in.
        prepare: fills that directory.
        is_heavy: whether it imports torch and the like, which a server then does once for all trials, forking each.
        may_differ: pattern of paths -> the reason why their bytes may differ. Such a file must be there all the same.
        not_compared: pattern of paths -> regular expression of the parts that no two runs share, such as seconds.
        says_finished: what it prints, in place of ending well, where it has nothing left to do.
    """

    name: str
    script: str
    arguments: tuple[str, ...]
    prepare: Callable[[Path], None]
    is_heavy: bool = True
    may_differ: Mapping[str, str] = field(default_factory=dict)
    not_compared: Mapping[str, bytes] = field(default_factory=dict)
    says_finished: str | None = None


class Trials:
    """The runs of one case.

    Args:
        case: what to run.
        scratch: an empty directory.
    """

    def __init__(self, case: Case, scratch: Path) -> None:
        self.case = case
        self.work, self._prepared = scratch / "work", scratch / "prepared"
        self._counter, self._log = scratch / "events", scratch / "log.txt"
        self._prepared.mkdir()
        case.prepare(self._prepared)
        self._context = multiprocessing.get_context("forkserver" if case.is_heavy else "spawn")
        self._context.set_forkserver_preload([__name__, *_HEAVY])

    def reset(self) -> None:
        """A fresh copy of what the case prepared."""
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self._prepared, self.work)

    def run(self, kill_at: int = 0, kill_after: float | None = None) -> tuple[int, int, float]:
        """Run the command once.

        Args:
            kill_at: the event before which it is killed; 0: none.
            kill_after: seconds after which it is killed; None: never.

        Returns:
            Exit code (negative: the signal), events, and seconds.
        """
        self._counter.write_bytes(b"")
        environment = {
            "CRASH_WATCH": self.work,
            "CRASH_COUNTER": self._counter,
            "CRASH_AT": kill_at,
            "PYTHONPATH": _HOOK,
        }
        settings = {name: str(value) for name, value in environment.items()}
        command = [str(ROOT / self.case.script), *self.case.arguments]
        started = time.monotonic()
        process = self._context.Process(target=_run_script, args=(command, self.work, self._log, settings))
        process.start()
        process.join(_TIME_LIMIT if kill_after is None else kill_after)
        if process.is_alive():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.join()
            assert kill_after is not None, f"{self.case.name} did not end in {_TIME_LIMIT} s: {self._printed()}"
        assert process.exitcode is not None
        return process.exitcode, self._counter.stat().st_size, time.monotonic() - started

    def finish(self) -> None:
        """Start the command until it ends well."""
        for _ in range(_RESTARTS):
            code, _, _ = self.run()
            if code == 0 or (self.case.says_finished and self.case.says_finished in self._printed()):
                return
        raise AssertionError(f"{self.case.name} fails with {code} when it is started again: {self._printed()}")

    def files(self) -> dict[str, bytes]:
        """Path -> content, of all that is there, hidden files included; empty directories end in a slash."""
        found = {}
        for folder, directories, names in os.walk(self.work):
            where = Path(folder).relative_to(self.work)
            for name in names:
                path = str(where / name)
                excused = any(fnmatch.fnmatch(path, pattern) for pattern in self.case.may_differ)
                found[path] = b"" if excused else self._compared(path, Path(folder, name).read_bytes())
            if not directories and not names:
                found[f"{where}/"] = b""
        return found

    def _compared(self, path: str, content: bytes) -> bytes:
        for pattern, parts in self.case.not_compared.items():
            if fnmatch.fnmatch(path, pattern):
                content = re.sub(parts, b"", content)
        return content

    def _printed(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]


def assert_survives(case: Case, scratch: Path, kills: int | None = None, delays: int | None = None) -> None:
    """Kill a command at its file-system events and at random times; started again, it must leave the same files.

    Args:
        case: what to run.
        scratch: an empty directory.
        kills: events to try, evenly spread; 0: every one; None: `CRASH_KILLS`, or 40.
        delays: random delays to try; None: `CRASH_RANDOM`, or 5.

    Raises:
        AssertionError: names the kills that were not survived, and how.
    """
    kills = int(os.environ.get("CRASH_KILLS", "40")) if kills is None else kills
    delays = int(os.environ.get("CRASH_RANDOM", "5")) if delays is None else delays
    trials = Trials(case, scratch)
    trials.reset()
    code, events, seconds = trials.run()
    assert code == 0, f"{case.name} fails by itself: {trials._printed()}"
    expected = trials.files()
    assert events, f"{case.name} writes nothing"
    chosen = random.Random(0)
    tries = [(f"before event {event} of {events}", {"kill_at": event}) for event in _spread(events, kills)]
    tries += [("after {kill_after:.2f} s", {"kill_after": chosen.uniform(0, seconds)}) for _ in range(delays)]
    failures = []
    for what, how in tries:
        trials.reset()
        trials.run(**how)
        try:
            trials.finish()
            difference = _difference(expected, trials.files())
        except AssertionError as error:
            difference = str(error)
        if difference:
            failures.append(f"killed {what.format(**how)}: {difference}")
    tallies[case.name] = (len(tries), len(tries) - len(failures))
    assert not failures, f"{len(failures)} of {len(tries)} kills were not survived:\n" + "\n".join(failures[:10])


def assert_notices_damage(case: Case, scratch: Path, interruptions: int = 2) -> None:
    """Empty each file that an interrupted or a finished run has left, or cut it in half, and start the command again.

    It must make what is lost again, or end in an error. Pages for people (`_PAGES`) are spared; nothing reads them.

    Args:
        case: what to run.
        scratch: an empty directory.
        interruptions: how many times it is killed, from the middle to the last event; one more state is its end.

    Raises:
        AssertionError: names the damages that went unnoticed.
    """
    trials = Trials(case, scratch)
    trials.reset()
    code, events, _ = trials.run()
    assert code == 0, f"{case.name} fails by itself: {trials._printed()}"
    expected, inputs = trials.files(), {path.relative_to(trials._prepared) for path in trials._prepared.rglob("*")}
    kept, tried, failures = scratch / "state", 0, []
    for event in [events - place * events // (2 * interruptions) for place in range(interruptions)] + [0]:
        trials.reset()
        trials.run(kill_at=event)
        shutil.rmtree(kept, ignore_errors=True)
        os.replace(trials.work, kept)
        found = sorted(path.relative_to(kept) for path in kept.rglob("*") if path.is_file() and path.stat().st_size)
        damaged = [path for path in found if path not in inputs and path.suffix not in _PAGES]
        for path, size in [(path, size) for path in damaged for size in (0, 0.5)]:
            shutil.rmtree(trials.work, ignore_errors=True)
            shutil.copytree(kept, trials.work)
            os.truncate(trials.work / path, int(size * (kept / path).stat().st_size))
            tried += 1
            code, _, _ = trials.run()
            difference = _difference(expected, trials.files())
            if code == 0 and difference:
                what = "emptied" if size == 0 else "cut in half"
                state = f"killed before event {event} of {events}" if event else "finished"
                failures.append(f"{path} {what} when {state}: {difference}")
    tallies[f"{case.name}, emptied or cut files"] = (tried, tried - len(failures))
    assert not failures, f"{len(failures)} of {tried} damages went unnoticed:\n" + "\n".join(failures)


def _spread(events: int, kills: int) -> Iterator[int]:
    if not kills or kills >= events:
        yield from range(1, events + 1)
    else:
        yield from sorted({1 + place * (events - 1) // max(1, kills - 1) for place in range(kills)})


def _difference(expected: Mapping[str, bytes], found: Mapping[str, bytes]) -> str:
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    other = sorted(path for path in expected.keys() & found.keys() if expected[path] != found[path])
    parts = {"missing": missing, "left behind": extra, "other bytes": other}
    return ", ".join(f"{what}: {' '.join(paths)}" for what, paths in parts.items() if paths)


def _run_script(command: list[str], work: Path, log: Path, settings: dict[str, str]) -> None:
    """In the forked process: a process group of its own, then the script as if it were started there."""
    os.setpgid(0, 0)
    os.environ.update(settings)
    os.chdir(work)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    tempfile.tempdir = None
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    if "datasets" in sys.modules:  # copies of the sources count as the command's files
        sys.modules["datasets"].config.HF_DATASETS_CACHE = work / "cache"
    sys.argv = command
    sys.path.insert(0, str(ROOT))
    runpy.run_path(str(_HOOK / "sitecustomize.py"))
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # as at the end of any program; multiprocessing leaves them out
