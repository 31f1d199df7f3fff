import json
import mmap
from pathlib import Path

import numpy as np
import pytest
import yaml
from transformers import AutoTokenizer

from benchmarks import pair_loading
from benchmarks.pair_loading import HUB_ROWS, Layout, main, measure_reading, measure_worker, summarize_worker
from curation.files import write_jsonl
from curation.tokenizer import train_tokenizer
from trainers.sampling import BatchPlan

ROWS = {"large": 2_500, "small": 120}


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_loading, "in_fresh_process", lambda function, *arguments: function(*arguments))


def test_the_sources_are_the_mixture_of_stage_2(repository: Path) -> None:
    config = yaml.safe_load((repository / "recipes/configs/stage2.yaml").read_text())
    assert {entry["split"] for entry in config["sources"]} == set(HUB_ROWS)
    assert sum(HUB_ROWS.values()) == 238_998_494
    assert BatchPlan(HUB_ROWS, 16_384, seed=0).steps_per_epoch == 14_571


@pytest.mark.parametrize(
    ("rows_per_batch", "batches"), [(None, [2_500]), (400, [400, 400, 200, 400, 400, 200, 400, 100])]
)
def test_synthetic_sources_are_opened_as_what_they_stand_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_per_batch: int | None, batches: list[int]
) -> None:
    monkeypatch.setattr(pair_loading, "_ROWS_PER_HUB_FILE", 1_000)
    layout = Layout(tmp_path, rows_per_batch)
    pair_loading.write_sources(layout, ROWS)
    opened = layout.open("large")
    assert opened.column_names == ["query", "document"] and len(opened) == 2_500
    assert [len(batch) for batch in opened.data.to_batches()] == batches
    assert {file["filename"] for file in opened.cache_files} == set(map(str, layout.files("large")))
    assert len(layout.files("large")) == (1 if rows_per_batch is None else 3)
    assert opened[[0, 7]]["document"] == ["text 0", "text 7"]
    assert len(layout.open("small")) == 120


def test_what_is_measured_is_whole_batches_of_the_plan(tmp_path: Path) -> None:
    layout = Layout(tmp_path, None)
    pair_loading.write_sources(layout, ROWS)
    found = measure_reading(layout, list(ROWS), 50)
    assert found["rows"] == 2_620 and found["steps"] == 50 + 2
    assert set(found["phases"]) == {"open", "first", "late"} and 0 < found["pickled_bytes"] < 20_000


def test_private_memory_counts_arrays_but_no_mapped_files(tmp_path: Path) -> None:
    size = 40_000_000
    (tmp_path / "file").write_bytes(b"x" * size)
    before = pair_loading.private_memory()
    with open(tmp_path / "file", "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        pages = np.frombuffer(mapped, np.uint8)[::4096].sum()
        assert pages and abs(pair_loading.private_memory() - before) < size / 4
        del pages
    # not from the heap, which may hold memory that earlier tests have freed
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[:] = b"x" * size
        assert pair_loading.private_memory() - before > 0.75 * size


def test_scale_writes_its_table_and_leaves_no_data(tmp_path: Path, in_this_process: None) -> None:
    sizes = ["--rows_scale", "1e-4", "--batch_size", "1000", "--repeats", "1"]
    main(["scale", "--directory", str(tmp_path / "data"), "--results", str(tmp_path / "results"), *sizes])
    (file,) = (tmp_path / "results").glob("*-pair_loading-copies.json")
    result = json.loads(file.read_text())["result"]
    assert result["sources"] == 5 and result["files"] == 5  # the others have no thousand rows
    assert result["steps"] == sum(round(rows * 1e-4) // 1000 for rows in HUB_ROWS.values())
    assert set(result["outcomes"]) == {"disk", "page cache"}
    assert "open all sources" in file.with_suffix(".md").read_text()
    assert not list((tmp_path / "data").iterdir())


def test_a_directory_that_is_there_is_not_removed(tmp_path: Path) -> None:
    kept = tmp_path / "pair_loading" / "file"
    kept.parent.mkdir()
    kept.write_text("kept")
    with pytest.raises(SystemExit, match="pair_loading exists"):
        main(["scale", "--directory", str(tmp_path), "--rows_scale", "1e-4", "--batch_size", "1000"])
    assert kept.read_text() == "kept"


def test_a_worker_counts_the_tokens_that_the_tokenizer_gives(tmp_path: Path) -> None:
    rows = [{"query": f"word {n}", "document": f"other words {n} " * (1 + n % 5)} for n in range(10)]
    write_jsonl(rows, tmp_path / "pairs.jsonl")
    train_tokenizer((row["document"] for row in rows), 200, tmp_path / "tokenizer")
    outcomes = measure_worker(tmp_path / "pairs.jsonl", str(tmp_path / "tokenizer"), 10, 2, max_length=8)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    lengths = [
        min(8, len(tokenizer(f"search_{key}: {row[key]}")["input_ids"]))
        for row in rows
        for key in ("query", "document")
    ]
    assert [(one["texts"], one["tokens"]) for one in outcomes] == [(20, sum(lengths))] * 2


def test_workers_are_what_the_device_trains_over_what_one_gives() -> None:
    one = {"texts": 100, "tokens": 5_000, "fetch_seconds": 0.1, "collate_seconds": 0.9, "bare_seconds": 0.5}
    found = summarize_worker([one, one, {**one, "fetch_seconds": 1.1}], device_rate=20_000)
    assert found["tokens_per_second"] == {"median": 5_000, "min": 2_500, "max": 5_000}
    assert found["workers_needed"] == 4 and found["tokens_per_text"] == 50
    assert found["bare_tokens_per_second"]["median"] == 10_000
    assert found["shares"] == pytest.approx({"fetch": 1.3 / 4, "collate": 2.7 / 4, "bare": 1.5 / 4})
