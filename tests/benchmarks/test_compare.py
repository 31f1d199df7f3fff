import argparse
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import compare
from benchmarks.compare import Measurement, Row


def _before_and_after_half_a_gibibyte() -> tuple[int, int]:
    before = compare.peak_memory(torch.device("cpu"))
    np.ones(2**26)
    return before, compare.peak_memory(torch.device("cpu"))


def _fail(what: str) -> None:
    raise LookupError(what)


def test_sides_take_turns_and_all_so_far_is_handed_on_after_each() -> None:
    order: list[str] = []
    handed: list[dict] = []

    def side(name: str) -> int:
        order.append(name)
        return len(order)

    outcomes = compare.take_turns(
        {name: lambda name=name: side(name) for name in ("ours", "theirs")},
        3,
        lambda so_far: handed.append({name: list(values) for name, values in so_far.items()}),
    )
    assert order == ["ours", "theirs"] * 3
    assert outcomes == {"ours": [1, 3, 5], "theirs": [2, 4, 6]}
    assert handed == [{"ours": [1, 3, 5][: (n + 1) // 2], "theirs": [2, 4, 6][: n // 2]} for n in range(1, 7)]
    words = [compare.describe_rounds(so_far) for so_far in handed]
    assert words == [
        "Stopped in round 1",
        "1 round, sides in turn",
        "Stopped in round 2",
        "2 rounds, sides in turn",
        "Stopped in round 3",
        "3 rounds, sides in turn",
    ]


def test_a_benchmark_that_sigterm_stops_has_handed_on_what_it_measured() -> None:
    """As `timeout` stops it: in its first round, while a side is measured."""
    program = """
import os, signal
from benchmarks import compare
def main(argv):
    sides = {"first": lambda: 5, "second": lambda: os.kill(os.getpid(), signal.SIGTERM), "third": lambda: 7}
    compare.take_turns(sides, 1, lambda so_far: print(so_far, compare.describe_rounds(so_far), flush=True))
compare.start(main)
"""
    root = Path(compare.__file__).parents[1]
    ended = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert ended.stdout == "{'first': [5], 'second': [], 'third': []} Stopped in round 1\n"
    assert ended.returncode == 128 + signal.SIGTERM


def test_a_fresh_process_does_not_count_this_ones_memory_and_passes_errors_on() -> None:
    ballast = np.ones(2**27)  # 1 GiB here, which a forked or badly read child would report as its own
    before, after = compare.in_fresh_process(_before_and_after_half_a_gibibyte)
    assert compare.peak_memory(torch.device("cpu")) > ballast.nbytes > after > before + 2**28
    with pytest.raises(LookupError, match="gone"):
        compare.in_fresh_process(_fail, "gone")


def test_a_side_that_fails_is_an_outcome(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("no room\nfor more")

    monkeypatch.setattr(compare, "in_fresh_process", fail)
    assert compare.try_in_fresh_process("theirs", dict) == {"error": "MemoryError: no room"}
    assert capsys.readouterr().out == "theirs: MemoryError: no room\n"


ROWS = [
    Row(side="ours", workload="mixed", reference="ours", ours=True, tokens=200, flops=100),
    Row(side="theirs", workload="mixed", reference="ours", tokens=200, flops=100, notes={"extra": "7"}),
    Row(side="broken", workload="mixed", reference="ours", tokens=200, flops=100),
    Row(side="products", workload="search", flops=60, matmul="products"),
    Row(side="ours", workload="search", flops=60, matmul="products"),
    Row(side="late", workload="search", reference="ours"),
]


def outcomes() -> dict:
    return {
        ("mixed", "ours"): [{"seconds": each, "peak_memory": each * 2**20, "loss": each} for each in (2.0, 9.0, 4.0)],
        ("mixed", "theirs"): [
            {"seconds": each, "batch_size": size, "difference": gap, "profile": {"matmul": each, "rest": 1.0}}
            for each, size, gap in ((10.0, 8, 1e-7), (5.0, 4, 3e-5), (11.0, 8, None))
        ],
        ("mixed", "broken"): [{"seconds": 1.0}, {"error": "MemoryError: a | b"}],
        ("search", "products"): [{"seconds": 2.0}],
        ("search", "ours"): [{"seconds": 3.0}],
    }


def test_medians_ratios_and_shares_by_hand() -> None:
    figures = compare.summarize(ROWS, outcomes(), rate=50.0)
    ours, theirs = figures["mixed", "ours"], figures["mixed", "theirs"]
    assert ours["seconds"] == {"median": 4.0, "min": 2.0, "max": 9.0} and ours["repeats"] == [2.0, 9.0, 4.0]
    assert (ours["tokens_per_second"], ours["flops_per_second"], ours["share_of_matmul"]) == (50.0, 25.0, 0.5)
    assert ours["peak_memory"] == 9 * 2**20 and ours["loss"]["median"] == 4.0 and ours["times_reference"] == 1.0
    assert theirs["times_reference"] == 2.5 and theirs["batch_sizes"] == [4, 8] and theirs["difference"] == 3e-5
    assert theirs["profile"] == {"matmul": 11.0, "rest": 1.0} and "profile" not in ours
    assert figures["mixed", "broken"] == {"error": "MemoryError: a | b"} and figures["search", "late"] == {}
    # of a workload whose matrix products are a side, these are the rate
    assert figures["search", "ours"]["share_of_matmul"] == pytest.approx(2 / 3)
    assert figures["search", "products"]["share_of_matmul"] == 1


def test_the_table_leaves_out_empty_columns_and_shows_failures() -> None:
    figures = compare.summarize(ROWS, outcomes(), rate=50.0)
    lines = compare.render(ROWS, figures, exact=True).splitlines()
    header = [title.strip() for title in lines[0].strip("|").split("|")]
    cells = [
        dict(zip(header, (cell.strip() for cell in line.strip("|").split("|")), strict=True)) for line in lines[2:]
    ]
    assert cells[0]["ours is faster by"] == "1.00" and cells[0]["peak memory, MiB"] == "9"
    assert cells[1]["min to max"] == "5.00 to 11.0" and cells[1]["batch size"] == "4 or 8" and cells[1]["extra"] == "7"
    assert "not equal" in cells[1]["largest difference"] and cells[2]["s, median"] == "failed: MemoryError: a / b"
    assert cells[5]["s, median"] == compare.NOT_MEASURED
    assert "not equal" not in compare.render(ROWS, figures, exact=False)
    plain = compare.render(ROWS[4:], figures, exact=True).splitlines()[0]
    assert not any(title in plain for title in ("loss", "peak memory", "extra", "batch size", "tokens/s"))


def arguments(tmp_path: Path, repeats: int = 2) -> argparse.Namespace:
    typed = ["--repeats", str(repeats), "--results", str(tmp_path)]
    return compare.new_parser("").parse_args(typed)


def test_a_run_writes_what_it_prints_and_fails_where_results_differ(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "in_fresh_process", lambda *_: 50.0)  # the rate of matrix products
    rows = [Row(side=side, workload=what, reference="ours", ours=side == "ours", tokens=8, flops=100)
            for what in ("short", "long") for side in ("ours", "theirs")]  # fmt: skip
    gap = 1e-7

    def measure(seconds: float) -> dict:
        return {what: {"seconds": seconds, "difference": gap} for what in ("short", "long")}

    measurements = [
        Measurement(side=side, workloads=("short", "long"), measure=lambda seconds=seconds: measure(seconds))
        for side, seconds in (("ours", 2.0), ("theirs", 3.0))
    ]
    compare.run("name", rows, measurements, arguments(tmp_path), {"setting": 1}, "About this.")
    page = next(tmp_path.glob("*-name.md")).read_text()
    assert page[page.index("| workload") :].strip() in capsys.readouterr().out
    assert re.search(r"^\| long \| theirs \| 3\.00 \| 3\.00 to 3\.00 \| 1\.50 \| 3 \| 0 \| 67% \|", page, re.M)
    assert "About this. 2 rounds, sides in turn. Matmul rate: 0.000 TFLOP/s" in page
    result = json.loads(next(tmp_path.glob("*-name.json")).read_text())["result"]
    assert result["setting"] == 1 and result["matmul_flops"] == [50.0, 50.0] and len(result["rows"]) == 4
    assert next(tmp_path.glob("*-name.png")).stat().st_size > 2_000
    gap = 1e-3
    with pytest.raises(SystemExit, match="error: short, ours: not the same result; .*; see the table above"):
        compare.run("name", rows, measurements, arguments(tmp_path), {}, "")


def test_a_run_that_is_stopped_shows_what_it_measured(tmp_path: Path) -> None:
    def stop() -> dict:
        raise SystemExit(143)

    rows = [Row(side=side, reference="ours", tokens=5) for side in ("ours", "theirs")]
    measurements = [
        Measurement(side="ours", measure=lambda: {"": {"seconds": 2.0}}),
        Measurement(side="theirs", measure=stop),
    ]
    with pytest.raises(SystemExit):
        compare.run("name", rows, measurements, arguments(tmp_path), {}, "")
    page = next(tmp_path.glob("*-name.md")).read_text()
    assert "| ours | 2.00 |" in page and "| theirs | not measured |" in page and "Stopped in round 1." in page
    assert not list(tmp_path.glob("*.png"))


def test_a_failed_row_of_ours_fails_the_run_and_one_of_theirs_does_not(tmp_path: Path) -> None:
    def measurements(ours: dict, theirs: dict) -> list[Measurement]:
        return [
            Measurement(side="ours", measure=lambda: {"": ours}),
            Measurement(side="theirs", measure=lambda: {"": theirs}),
        ]

    rows = [Row(side="ours", ours=True), Row(side="theirs")]
    good, bad = {"seconds": 1.0}, {"error": "MemoryError"}
    compare.run("name", rows, measurements(good, bad), arguments(tmp_path), {}, "")
    with pytest.raises(SystemExit, match="error: ours failed"):
        compare.run("name", rows, measurements(bad, good), arguments(tmp_path), {}, "")
