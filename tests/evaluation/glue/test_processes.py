"""Several processes on one list of runs: each run is done once, and the run of a process that dies is taken over."""

import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from tqdm.auto import tqdm

from evaluation.glue import sweep as sweep_module
from evaluation.glue.data import GlueData
from evaluation.glue.protocol import Grid, Protocol
from evaluation.glue.sweep import Sweep
from tests.evaluation.glue.toys import arguments, remove_results, results, run
from tests.processes import Forked

MODULE = "tests.evaluation.glue.run_counted"
GRID = ("--seeds", 1, 2, "--save_steps", 3)
TASKS = ("mnli", "cola", "rte")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no flock")


@pytest.fixture
def expected(place):
    made = run(place, *GRID, tasks=TASKS)
    remove_results(place)
    assert len(made) == 6
    return made


def start(place, hang_at_step):
    return Forked(MODULE, [place / "log", hang_at_step, *arguments(place, *GRID, tasks=TASKS)])


@pytest.mark.slow
def test_the_run_of_a_killed_process_is_finished_by_another(place, expected):
    killed = start(place, hang_at_step=5)
    killed.wait_until(lambda: "hanging\n" in killed.printed)
    other = start(place, hang_at_step=0)
    # its share, but for the run that the first one has and the two that wait for it
    other.wait_until(lambda: len(results(place)) == 3)
    time.sleep(1)
    assert not other.has_ended and len(results(place)) == 3
    killed.kill()
    assert other.wait() == 0 and "MNLI" in other.printed
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
