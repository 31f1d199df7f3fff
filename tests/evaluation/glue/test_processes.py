"""Several processes on one list of runs: each run is done once, and the run of a process that dies is taken over."""

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tqdm.auto import tqdm

from evaluation.glue import sweep as sweep_module
from evaluation.glue.data import GlueData
from evaluation.glue.protocol import Grid, Protocol
from evaluation.glue.sweep import Sweep
from tests.evaluation.glue.toys import arguments, remove_results, results, run

ROOT = Path(__file__).parents[3]
MODULE = "tests.evaluation.glue.run_counted"
GRID = ("--seeds", 1, 2, "--save_steps", 3)
TASKS = ("mnli", "cola", "rte")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")


@pytest.fixture
def environment(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def expected(place):
    made = run(place, *GRID, tasks=TASKS)
    remove_results(place)
    assert len(made) == 6
    return made


def start(place, hang_at_step):
    argv = [str(place / "log"), str(hang_at_step), *arguments(place, *GRID, tasks=TASKS)]
    return subprocess.Popen([sys.executable, "-m", MODULE, *argv], stdout=subprocess.PIPE, text=True, cwd=ROOT)


def wait_until(condition, process):
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_the_run_of_a_killed_process_is_finished_by_another(place, expected, environment):
    with start(place, hang_at_step=5) as killed:
        wait_until(lambda: killed.stdout.readline() == "hanging\n", killed)
        with start(place, hang_at_step=0) as other:
            # its share, but for the run that the first one has and the two that wait for it
            wait_until(lambda: len(results(place)) == 3, other)
            time.sleep(1)
            assert other.poll() is None and len(results(place)) == 3
            killed.send_signal(signal.SIGKILL)
            printed, _ = other.communicate(timeout=240)
    assert other.returncode == 0 and "MNLI" in printed
    assert results(place) == expected, "the same as without an interruption"
    log = (place / "log").read_text().splitlines()
    taken_over = [line for line in log if "checkpoint-3" in line]
    assert len(taken_over) == 1 and len(log) == 7
    assert sorted(line.split()[0] for line in log if line not in taken_over) == sorted(expected)


def test_many_processes_never_do_a_run_twice(place, monkeypatch):
    done = []
    monkeypatch.setattr(Sweep, "_train", lambda self, run, bar: (done.append(run.name), write(self, run)))
    grid = Grid(tasks=("cola",), seeds=tuple(range(30)))

    def write(sweep, run):
        time.sleep(0.002)
        sweep_module.write_json(sweep.files.result(run), {})

    def work(_):
        data, directory = GlueData(["cola"], place / "data"), place / "out" / "model"
        sweep = Sweep(
            model="model", directory=directory, grid=grid, protocol=Protocol(), data=data, save_steps=1
        )  # each has its own, as processes have
        with tqdm(disable=True) as bar:
            sweep_module.work(sweep_module.jobs_of([sweep]), bar)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert sorted(done) == sorted(run.name for run in grid.all_runs())
