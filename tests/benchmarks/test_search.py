import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import search


def run(tmp_path: Path, typed: str) -> None:
    search.main([*typed.split(), "--threads", "1", "--repeats", "2", "--results", str(tmp_path)])


def test_a_run_writes_all_sides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embeddings = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float16)
    files = [str(tmp_path / name) for name in ("a.npy", "b.npy")]
    np.save(files[0], embeddings[:120])
    np.save(files[1], embeddings[120:])
    run(tmp_path, f"--embeddings {' '.join(files)} --rows 150 300 --queries 200 --k 5")
    result = json.loads(next(tmp_path.glob("*-search-cpu.json")).read_text())["result"]
    expected = ["`top_k`", "`ranks`", *(["FAISS `IndexFlatIP`"] if search.FAISS_IS_INSTALLED else []),
                "`semantic_search`", "matrix products alone"]  # fmt: skip
    assert result["dim"] == 16 and [row["side"] for row in result["rows"]] == expected * 2
    figures = {(row["workload"], row["side"]): row for row in result["rows"]}
    for rows, queries in ((150, 150), (300, 200)):
        for side in expected:
            each, products = (figures[f"{rows} documents", name] for name in (side, "matrix products alone"))
            seconds = each["seconds"]["median"]
            assert each["flops_per_second"] * seconds == pytest.approx(2 * rows * queries * 16)
            assert each["share_of_matmul"] == pytest.approx(products["seconds"]["median"] / seconds)
        assert figures[f"{rows} documents", "`top_k`"]["times_reference"] == 1
    page = next(tmp_path.glob("*-search-cpu.md")).read_text()
    assert page[page.index("| workload") :].strip() in capsys.readouterr().out and str(tmp_path) not in page
    assert len(re.findall(r"^\| (150|300) documents \| ", page, re.MULTILINE)) == 2 * len(expected)


def test_without_faiss_its_side_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(search, "FAISS_IS_INSTALLED", False)
    run(tmp_path, "--rows 40 --dim 8 --k 3")
    printed = capsys.readouterr().out
    assert "pip install faiss-cpu" in printed and "IndexFlatIP" not in printed


def test_sides_that_disagree_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = search.semantic_search

    def wrong(*args, **kwargs):
        hits = theirs(*args, **kwargs)
        hits[17][1]["corpus_id"] = 39 - hits[17][1]["corpus_id"]
        return hits

    monkeypatch.setattr(search, "semantic_search", wrong)
    with pytest.raises(SystemExit, match="error: `semantic_search` does not find what `top_k` finds"):
        run(tmp_path, "--rows 40 --dim 8 --k 3")
    assert not list(tmp_path.iterdir())


def test_near_ties_may_stand_in_either_order() -> None:
    ours = torch.tensor([[0.9, 0.5, 0.5 - 1e-6, 0.1, 0.1 - 1e-6]]), torch.tensor([[4, 2, 7, 1, 8]])
    scores = ours[0][:, :4]
    assert search.same_documents(ours, (scores, torch.tensor([[4, 7, 2, 8]])))
    assert not search.same_documents(ours, (scores, torch.tensor([[5, 2, 7, 1]])))
    assert not search.same_documents(ours, (scores + torch.tensor([0, 0, 0, 1e-3]), ours[1][:, :4]))


def test_too_few_rows_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((10, 4), dtype=np.float32))
    with pytest.raises(SystemExit, match=r"a\.npy \.\.\.: 10 rows in all"):
        run(tmp_path, f"--embeddings {tmp_path / 'a.npy'} --rows 11")
