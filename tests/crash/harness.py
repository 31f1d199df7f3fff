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

SIGKILL leaves the files as they are at that moment, and no lock. So one run, whose directory is copied before each of
its events, gives what a kill at each of them leaves, at the price of one run; events between which nothing changed are
restarted once. `test_harness.py` checks that such copies are what kills leave. At random times the command is killed.

Every run is in the same path, on a fresh copy of the prepared directory, so that paths in outputs do not differ.
`CRASH_KILLS` sets how many events of a case are tried, evenly spread (40; 0: every one), and `CRASH_RANDOM` how many
random delays (5). `damage.py` does to files what a disk may do; `CRASH_DAMAGES` says how many of a case's damages are
tried, evenly spread (0: every one).
"""

import atexit
import contextlib
import fnmatch
import functools
import multiprocessing
import os
import random
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.crash.reading import read
from tests.processes import HEAVY

ROOT = Path(__file__).parents[2]
_HOOK = Path(__file__).parent / "hook"
_READING = Path(__file__).parent / "reading.py"
_TIME_LIMIT = 600  # seconds of one run
_RESTARTS = 3
_IMPORTED = (  # by some command; beside what tests/processes.py names
    *("evaluation.harness.commands", "evaluation.glue.command", "evaluation.report.facts", "mteb"),
    *("publishing.directory", "publishing.upload", "recipes.steps.quickstart", "recipes.steps.mine_negatives"),
    *("recipes.steps.filter_pairs", "recipes.steps.pack_corpus", "recipes.steps.embed", "recipes.steps.make_pairs"),
    *("recipes.steps.audit", "matplotlib.figure", "bokeh.plotting", "openTSNE", "sklearn.linear_model"),
)

tallies: dict[str, str] = {}  # case -> what was tried and survived; printed at the end of the session


@dataclass(frozen=True)
class Case:
    """A command that must survive being killed.

    Attributes:
        name: for people.
        script: path of a Python script, from the root of the repository.
        arguments: of its command line; paths are relative to the directory that it runs in.
        prepare: fills that directory.
        is_heavy: whether it imports torch and the like, which a server then does once for all trials, forking each.
        has_readers: whether it lets other programs read what it publishes, which another server forks.
        may_differ: pattern of paths -> the reason why their bytes may differ. Such a file must be there all the same.
        not_compared: pattern of paths -> regular expression of the parts that no two runs share, such as seconds.
        says_finished: what it prints, in place of ending well, where it has nothing left to do.
    """

    name: str
    script: str
    arguments: tuple[str, ...]
    prepare: Callable[[Path], None]
    is_heavy: bool = True
    has_readers: bool = False
    may_differ: Mapping[str, str] = field(default_factory=dict)
    not_compared: Mapping[str, bytes] = field(default_factory=dict)
    says_finished: str | None = None


class Trials:
    """The runs of one case.

    Args:
        case: what to run.
        scratch: an empty directory.

    Attributes:
        work: where the command runs.
        events: of a run that nobody disturbed.
        seconds: that it took.
        expected: files that it left, as `files` gives them.
    """

    def __init__(self, case: Case, scratch: Path) -> None:
        self.case = case
        self.work, self._prepared, self._copies = scratch / "work", scratch / "prepared", scratch / "copies"
        self._counter, self._log = scratch / "events", scratch / "log.txt"
        self._prepared.mkdir()
        case.prepare(self._prepared)
        self._readers = _reading_server() if case.has_readers else ""
        self.inputs = {path.relative_to(self._prepared) for path in self._prepared.rglob("*")}
        self._context: Any = multiprocessing.get_context("forkserver" if case.is_heavy else "spawn")
        self._context.set_forkserver_preload([__name__, *HEAVY, *_IMPORTED])
        self.reset()
        code, self.events, self.seconds = self.run()
        assert code == 0, f"{case.name} fails by itself: {self.printed()}"
        assert self.events, f"{case.name} writes nothing"
        self.expected = self.files()

    def reset(self, state: Path | None = None) -> None:
        """A fresh copy of a state of the directory; of what the case prepared, if there is none."""
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(state or self._prepared, self.work, symlinks=True)

    def states(self, events: Iterable[int]) -> dict[int, Path]:
        """What a kill before each of some events leaves, by one run, which must leave what the first one left."""
        shutil.rmtree(self._copies, ignore_errors=True)
        self._copies.mkdir()
        self.reset()
        code, _, _ = self.run(copy_at=events)
        difference = difference_of(self.expected, self.files())
        assert code == 0 and not difference, f"two runs of {self.case.name} are not the same: {difference}"
        return {int(path.name): path for path in sorted(self._copies.iterdir(), key=lambda path: int(path.name))}

    def run(
        self, kill_at: int = 0, kill_after: float | None = None, copy_at: Iterable[int] = ()
    ) -> tuple[int, int, float]:
        """Run the command once.

        Args:
            kill_at: the event before which it is killed; 0: none.
            kill_after: seconds after which it is killed; None: never.
            copy_at: events before which the directory is copied, for `states`.

        Returns:
            Exit code (negative: the signal), events, and seconds.
        """
        self._counter.write_bytes(b"")
        environment = {
            "CRASH_WATCH": self.work,
            "CRASH_COUNTER": self._counter,
            "CRASH_AT": kill_at,
            "CRASH_COPY_AT": ",".join(map(str, copy_at)),
            "CRASH_COPIES": self._copies,
            "CRASH_READERS": self._readers,
            "PYTHONPATH": _HOOK,
        }
        settings = {name: str(value) for name, value in environment.items()}
        command = [str(ROOT / self.case.script), *self.case.arguments]
        self._log.write_bytes(b"")
        started = time.monotonic()
        process = self._context.Process(target=_run_script, args=(command, self.work, self._log, settings))
        process.start()
        process.join(_TIME_LIMIT if kill_after is None else kill_after)
        if process.is_alive():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.join()
            assert kill_after is not None, f"{self.case.name} did not end in {_TIME_LIMIT} s: {self.printed()}"
        assert process.exitcode is not None
        return process.exitcode, self._counter.stat().st_size, time.monotonic() - started

    def finish(self) -> None:
        """Start the command until it ends well."""
        for _ in range(_RESTARTS):
            code, _, _ = self.run()
            if code == 0 or (self.case.says_finished and self.case.says_finished in self.printed()):
                return
        raise AssertionError(f"{self.case.name} fails with {code} when it is started again: {self.printed()}")

    def files(self) -> dict[str, bytes]:
        """Path -> content, of all that is there, hidden files included; empty directories end in a slash."""
        found = contents_of(self.work)
        for path, content in found.items():
            excused = any(fnmatch.fnmatch(path, pattern) for pattern in self.case.may_differ)
            found[path] = b"" if excused else self._compared(path, content)
        return found

    def _compared(self, path: str, content: bytes) -> bytes:
        for pattern, parts in self.case.not_compared.items():
            if fnmatch.fnmatch(path, pattern):
                content = re.sub(parts, b"", content)
        return content

    def printed(self, most: int = 2000) -> str:
        """The end of what the last run printed, in characters."""
        return self._log.read_text(errors="replace")[-most:]


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
    failures: list[str] = []
    chosen, restarted, previous = spread(trials.events, kills), 0, None
    for event, state in trials.states(chosen).items():
        content = contents_of(state)
        if content != previous:
            trials.reset(state)
            _restart(trials, f"before event {event} of {trials.events}", failures)
            restarted, previous = restarted + 1, content
    times = random.Random(0)
    for seconds in [times.uniform(0, trials.seconds) for _ in range(delays)]:
        trials.reset()
        trials.run(kill_after=seconds)
        _restart(trials, f"after {seconds:.2f} s", failures)
    tried = f"{len(chosen)} of {trials.events} events ({restarted} different states) and {delays} random times"
    tallies[case.name] = f"{tried}; {len(failures)} not survived"
    assert not failures, f"{len(failures)} kills were not survived:\n" + "\n".join(failures[:10])


def _restart(trials: Trials, killed: str, failures: list[str]) -> None:
    try:
        trials.finish()
        difference = difference_of(trials.expected, trials.files())
    except AssertionError as error:
        difference = str(error)
    if difference:
        failures.append(f"killed {killed}: {difference}")


@functools.cache
def _reading_server() -> str:
    """Start the server of readers, once for all cases; the socket that it listens on."""
    place = tempfile.mkdtemp()
    socket = os.path.join(place, "readers")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": os.path.join(place, "modules")}
    server = subprocess.Popen([sys.executable, "-I", str(_READING), socket], env=environment)
    atexit.register(server.kill)
    deadline = time.monotonic() + _TIME_LIMIT
    while not os.path.exists(socket):
        assert server.poll() is None and time.monotonic() < deadline, "the server of readers did not start"
        time.sleep(0.1)
    return socket


def spread(events: int, number: int) -> list[int]:
    """Events from the first to the last, evenly spread; every one if the number is 0."""
    if not number or number >= events:
        return list(range(1, events + 1))
    return sorted({1 + place * (events - 1) // max(1, number - 1) for place in range(number)})


def contents_of(directory: Path) -> dict[str, bytes]:
    """Path -> content of all files below a directory; empty directories end in a slash."""
    found = {}
    for folder, directories, names in os.walk(directory):
        where = Path(folder).relative_to(directory)
        found.update({str(where / name): Path(folder, name).read_bytes() for name in names})
        if not directories and not names:
            found[f"{where}/"] = b""
    return found


def difference_of(expected: Mapping[str, bytes], found: Mapping[str, bytes]) -> str:
    """What is missing, left over or other; empty if nothing is."""
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    other = sorted(path for path in expected.keys() & found.keys() if expected[path] != found[path])
    parts = {"missing": missing, "left behind": extra, "other bytes": other}
    return ", ".join(f"{what}: {' '.join(paths)}" for what, paths in parts.items() if paths)


def _run_script(command: Sequence[str], work: Path, log: Path, settings: dict[str, str], group: int = 0) -> None:
    """In the forked process: a process group of its own, then the script as if it were started there."""
    os.setpgid(0, group)
    os.environ.update(settings)
    os.chdir(work)
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    tempfile.tempdir = None
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115
    if "datasets" in sys.modules:  # copies of the sources count as the command's files
        sys.modules["datasets"].config.HF_DATASETS_CACHE = work / "cache"
    sys.argv = list(command)
    sys.path.insert(0, str(ROOT))
    if "torch" in sys.modules:
        _fork_recipes(work, log, settings)
    if settings["CRASH_READERS"]:
        _fork_readers(settings["CRASH_READERS"])
    runpy.run_path(str(_HOOK / "sitecustomize.py"))
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # as at the end of any program; multiprocessing leaves them out


def _fork_recipes(work: Path, log: Path, settings: dict[str, str]) -> None:
    """Let the recipes that a command runs come from the same server, in its process group, without their imports."""
    commands: Any = __import__("textfiles.commands", fromlist=["run_child"])

    def run_child(command: Sequence[str]) -> int:
        arguments = (command[1:], work, log, settings, os.getpgid(0))
        child = multiprocessing.get_context("forkserver").Process(target=_run_script, args=arguments)
        child.start()
        child.join()
        return child.exitcode or 0

    commands.run_child = run_child


def _fork_readers(socket: str) -> None:
    """Let the programs that read what a command publishes come from their server, without their imports."""
    readers: Any = __import__("publishing.readers", fromlist=["subprocess"])

    def run(command: Sequence[str], env: Mapping[str, str], cwd: str, **_: Any) -> subprocess.CompletedProcess:
        return subprocess.CompletedProcess(command, read(socket, list(command[1:]), dict(env), cwd), stderr="see above")

    readers.subprocess = SimpleNamespace(run=run)
