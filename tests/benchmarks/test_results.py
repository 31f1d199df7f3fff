import json
import os
import platform
import re
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import results


def test_the_record_names_no_host_no_user_and_no_place() -> None:
    written = json.dumps(results.record())
    private = [platform.node(), str(Path.home()), os.getcwd(), sys.prefix, str(results._ROOT)]
    assert [name for name in private if len(name) > 4 and name in written] == []
    assert not re.search(r'"[^"]*(^|[" ])/\w+/', written)


def test_the_record_says_what_a_number_was_measured_on() -> None:
    facts = results.record()
    assert facts["cpu"] and facts["cpu_cores"] >= 1 and facts["threads"] == torch.get_num_threads()
    assert facts["versions"]["torch"] == torch.__version__
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", facts["date"])
    assert facts["commit"] is None or re.fullmatch(r"[0-9a-f]{40}", facts["commit"])


def test_results_come_back_as_written_with_command_and_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = str(results._ROOT / "benchmarks" / "train_mlm.py")
    typed = [program, "--size", "small", "--documents", "/data/private/books.jsonl", "--x=../y/z.txt", "kept/a.txt"]
    monkeypatch.setattr(sys, "argv", typed)
    path = results.write_results("name", {"speed": [1.5, 2.0]}, "| a |\n| --- |", tmp_path / "new")
    page, written = path.read_text(), json.loads(path.with_suffix(".json").read_text())
    assert written["result"] == {"speed": [1.5, 2.0]} and written["date"] == results.record()["date"]
    command = "python benchmarks/train_mlm.py --size small --documents .../books.jsonl --x=.../z.txt kept/a.txt"
    assert written["command"] == command
    assert command in page and "| a |\n| --- |" in page and written["cpu"] in page
    assert (written["commit"] or "unknown commit")[:10] in page


def test_an_interrupted_write_leaves_the_earlier_results_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = results.write_results("name", {"run": 1}, "first", tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        results.write_results("name", {"run": 2}, "second", tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    monkeypatch.undo()
    results.write_results("name", {"run": 3}, "third", tmp_path)
    assert "third" in path.read_text() and json.loads(path.with_suffix(".json").read_text())["result"] == {"run": 3}
