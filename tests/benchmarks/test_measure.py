import json
import os
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import measure


def _before_and_after_half_a_gibibyte() -> tuple[int, int]:
    before = measure.peak_memory(torch.device("cpu"))
    np.ones(2**26)
    return before, measure.peak_memory(torch.device("cpu"))


def _fail(what: str) -> None:
    raise LookupError(what)


def test_the_record_names_no_host_no_user_and_no_place() -> None:
    written = json.dumps(measure.record())
    private = [platform.node(), str(Path.home()), os.getcwd(), sys.prefix, str(measure._ROOT)]
    assert [name for name in private if len(name) > 4 and name in written] == []
    assert not re.search(r'"[^"]*(^|[" ])/\w+/', written)


def test_the_record_says_what_a_number_was_measured_on() -> None:
    facts = measure.record()
    assert facts["cpu"] and facts["cpu_cores"] >= 1 and facts["threads"] == torch.get_num_threads()
    assert facts["versions"]["torch"] == torch.__version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", facts["date"])
    assert facts["commit"] is None or re.fullmatch(r"[0-9a-f]{40}", facts["commit"])


def test_results_come_back_as_written_with_command_and_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = str(measure._ROOT / "benchmarks" / "train_mlm.py")
    typed = [program, "--size", "small", "--documents", "/data/private/books.jsonl", "--x=../y/z.txt", "kept/a.txt"]
    monkeypatch.setattr(sys, "argv", typed)
    path = measure.write_results("name", {"speed": [1.5, 2.0]}, "| a |\n| --- |", tmp_path / "new")
    page, written = path.read_text(), json.loads(path.with_suffix(".json").read_text())
    assert written["result"] == {"speed": [1.5, 2.0]} and written["date"] == measure.record()["date"]
    command = "python benchmarks/train_mlm.py --size small --documents .../books.jsonl --x=.../z.txt kept/a.txt"
    assert written["command"] == command
    assert command in page and "| a |\n| --- |" in page and written["cpu"] in page
    assert (written["commit"] or "unknown commit")[:10] in page


def test_an_interrupted_write_leaves_the_earlier_results_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = measure.write_results("name", {"run": 1}, "first", tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def stop(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(measure.os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        measure.write_results("name", {"run": 2}, "second", tmp_path)
    after = {file.name: file.read_bytes() for file in tmp_path.iterdir() if not file.name.startswith(".")}
    assert after == before
    monkeypatch.undo()
    measure.write_results("name", {"run": 3}, "third", tmp_path)
    assert "third" in path.read_text() and json.loads(path.with_suffix(".json").read_text())["result"] == {"run": 3}


def test_sides_take_turns_and_all_so_far_is_handed_on_after_each() -> None:
    order: list[str] = []
    handed: list[dict] = []

    def side(name: str) -> int:
        order.append(name)
        return len(order)

    outcomes = measure.alternate(
        {name: lambda name=name: side(name) for name in ("ours", "theirs")},
        3,
        lambda so_far: handed.append({name: list(values) for name, values in so_far.items()}),
    )
    assert order == ["ours", "theirs"] * 3
    assert outcomes == {"ours": [1, 3, 5], "theirs": [2, 4, 6]}
    assert handed == [{"ours": [1, 3, 5][: (n + 1) // 2], "theirs": [2, 4, 6][: n // 2]} for n in range(1, 7)]
    words = [measure.describe_rounds(so_far) for so_far in handed]
    assert words == [
        "stopped in round 1",
        "1 round",
        "stopped in round 2",
        "2 rounds",
        "stopped in round 3",
        "3 rounds",
    ]


def test_a_benchmark_that_sigterm_stops_has_handed_on_what_it_measured() -> None:
    """As `timeout` stops it: in its first round, while a side is measured."""
    program = """
import os, signal
from benchmarks import measure
measure.exit_at_sigterm()
sides = {"first": lambda: 5, "second": lambda: os.kill(os.getpid(), signal.SIGTERM), "third": lambda: 7}
measure.alternate(sides, 1, lambda so_far: print(so_far, measure.describe_rounds(so_far), flush=True))
"""
    ended = subprocess.run([sys.executable, "-c", program], cwd=measure._ROOT, capture_output=True, text=True)
    assert ended.stdout == "{'first': [5], 'second': [], 'third': []} stopped in round 1\n"
    assert ended.returncode == 128 + signal.SIGTERM


def test_the_spread_is_median_least_and_most() -> None:
    assert measure.spread([5.0, 1.0, 2.0]) == {"median": 2.0, "min": 1.0, "max": 5.0}


def test_a_fresh_process_does_not_count_this_ones_memory_and_passes_errors_on() -> None:
    ballast = np.ones(2**27)  # 1 GiB here, which a forked or badly read child would report as its own
    before, after = measure.in_fresh_process(_before_and_after_half_a_gibibyte)
    assert measure.peak_memory(torch.device("cpu")) > ballast.nbytes > after > before + 2**28
    with pytest.raises(LookupError, match="gone"):
        measure.in_fresh_process(_fail, "gone")


def test_a_table_is_markdown() -> None:
    assert measure.markdown_table(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | ---: |\n| x | 1 |"
