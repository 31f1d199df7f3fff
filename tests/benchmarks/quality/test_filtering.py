import json

import numpy as np
import pytest
import torch
import yaml

from benchmarks.quality import filtering
from benchmarks.quality.filtering_noise import (
    ARMS,
    SAMPLE_SIZES,
    NoisySource,
    _ranks_in_samples,
    caught_and_lost,
    figures,
    read_noisy,
    thresholds_of_sources,
    write_arms,
)
from curation.files import read_jsonl, write_jsonl
from curation.filtering.consistency import EmbeddedPairs
from curation.sources import Source

ROWS = 60


@pytest.fixture
def filtered(tmp_path):
    """What the recipe leaves of a source in which every query has its document's direction, nearly."""
    write_jsonl([{"query": f"q{n}", "document": f"d{n // 2}"} for n in range(ROWS)], tmp_path / "a.jsonl.gz")
    source = Source(name="a", path=str(tmp_path / "a.jsonl.gz"), query_prefix="clustering", document_prefix="")
    documents = torch.nn.functional.normalize(torch.randn(ROWS // 2, 16), dim=1)
    ids = np.arange(ROWS) // 2
    queries = torch.nn.functional.normalize(documents[ids] + 0.1 * torch.randn(ROWS, 16), dim=1)
    directory = tmp_path / "filtered" / "a"
    pairs = EmbeddedPairs(np.arange(ROWS), np.arange(ROWS), ids, queries, documents)
    pairs.save(directory / "embeddings" / "sample-00000-of-00001.npz")
    (directory / "settings.json").write_text(json.dumps({"source": source.identity()}))
    report = {"rows": ROWS, "kept": ROWS, "ranks": [ROWS], "threshold": {}}
    (directory / "audit.json").write_text(json.dumps(report))
    return directory


def test_noise_is_the_documents_of_other_rows_and_is_caught(filtered):
    noisy = read_noisy(filtered, 0.2, seed=0)
    assert noisy.noise.sum() == 12
    assert (noisy.document_rows // 2 != np.arange(ROWS) // 2).tolist() == noisy.noise.tolist()
    assert sorted(noisy.document_rows.tolist()) == list(range(ROWS))
    assert caught_and_lost(noisy.noise, noisy.ranks > 2) == (pytest.approx(1, abs=0.2), 0)
    assert noisy.ranks_in_samples[300].tolist() == noisy.ranks.tolist()  # the source is one sample
    smaller = _ranks_in_samples(EmbeddedPairs.load(next(filtered.glob("embeddings/*"))), 20, seed=0)
    assert (smaller <= noisy.ranks)[~noisy.noise].all() and smaller.max() <= 20
    assert noisy.similarities[~noisy.noise].min() > 0.8 > noisy.similarities[noisy.noise].max()


def two_sources():
    random = np.random.default_rng(0)
    sources = []
    for name, shift in (("low", 0.0), ("high", 0.4)):
        noise = random.random(500) < 0.1
        similarities = np.where(noise, 0.1, 0.35) + shift + 0.1 * random.normal(size=500)
        ranks = np.where(noise, random.integers(1, 400, size=500), random.integers(1, 5, size=500))
        source = Source(name=name, path="x", query_prefix="", document_prefix="")
        in_samples = {size: np.minimum(ranks, size) for size in SAMPLE_SIZES}
        sources.append(NoisySource(source, np.arange(500), np.arange(500), noise, ranks, similarities, in_samples))
    return sources


def test_rules_are_compared_at_equal_loss():
    sources = two_sources()
    result = figures(sources)
    noise, ranks = (np.concatenate([getattr(each, key) for each in sources]) for key in ("noise", "ranks"))
    assert result["all"]["top_k"] == (
        pytest.approx(np.mean(ranks[noise] > 2)),
        pytest.approx(np.mean(ranks[~noise] > 2)),
    )
    assert result["all"]["threshold"][1] == pytest.approx(result["all"]["top_k"][1], abs=2e-3)
    for each in result["sources"].values():
        assert each["own_threshold"][1] == pytest.approx(each["top_k"][1], abs=3e-3)
    # the sources differ in what is similar, so one threshold for both catches less
    assert result["all"]["own_threshold"][0] > result["all"]["threshold"][0] + 0.05
    assert result["top_ks"]["2"] == result["all"]["top_k"]
    lost = [0.1, 0.3]
    dropped = np.split(thresholds_of_sources(sources, lost), 2)
    assert [caught_and_lost(each.noise, part)[1] for each, part in zip(sources, dropped, strict=True)] == pytest.approx(
        lost, abs=3e-3
    )


def test_arms_hold_what_their_rule_keeps(filtered, tmp_path):
    noisy = read_noisy(filtered, 0.2, seed=0)
    counts = write_arms([noisy], tmp_path / "arms")
    kept = int((noisy.ranks <= 2).sum())
    assert {arm: count["a"] for arm, count in counts.items()} == {
        "clean": ROWS, "noisy": ROWS, "top_k": kept, "threshold": kept,
    }  # fmt: skip
    assert 48 <= kept < ROWS
    rows = {arm: list(read_jsonl(tmp_path / "arms" / arm / "a.jsonl.gz")) for arm in ARMS}
    assert rows["clean"] == [{"query": f"q{n}", "document": f"d{n // 2}"} for n in range(ROWS)]
    assert [row["document"] for row in rows["noisy"]] == [f"d{n // 2}" for n in noisy.document_rows]
    assert [row["query"] for row in rows["top_k"]] == [f"q{n}" for n in range(ROWS) if noisy.ranks[n] <= 2]
    for arm in ARMS:
        (entry,) = yaml.safe_load((tmp_path / "arms" / f"{arm}.yaml").read_text())["sources"]
        assert (entry["query_prefix"], entry["document_prefix"]) == ("clustering", "")
        assert list(read_jsonl(entry["path"])) == rows[arm]


def test_noise_command_writes_figures_and_says_what_is_missing(filtered, tmp_path, capsys):
    arguments = ["noise", "--filtered", str(filtered.parent), "--output_dir", str(tmp_path / "arms"), "--share", "0.2"]
    filtering.main(arguments)
    assert "| a | 60 | 100.0 |" in capsys.readouterr().out
    assert json.loads((tmp_path / "arms" / "noise.json").read_text())["share"] == 0.2
    (filtered / "embeddings" / "sample-00000-of-00001.npz").unlink()
    with pytest.raises(SystemExit, match="0 files of embeddings"):
        filtering.main(arguments)
