import dataclasses
import json

import datasets
import numpy as np
import pytest
import torch
from tqdm.auto import tqdm

from curation.filtering.consistency import (
    RANK_BINS,
    EmbeddedPairs,
    KeepRule,
    Samples,
    SourceFilter,
    count_ranks,
    embed_pairs,
    merge_counts,
)
from curation.filtering.report import summary_table, write_report
from curation.sources import Source, open_pairs
from textfiles.rows import rows_of
from textfiles.writing import write_jsonl


class TableEmbedder:
    """Gives every text of a side a random direction; a text "nN" of either side has direction N. Counts its work."""

    texts_at_once = 7

    def __init__(self):
        self.directions = torch.nn.functional.normalize(torch.randn(1000, 6), dim=1)
        self.encoded = []
        self.model = self
        self.device = "cpu"

    def vector(self, side, text):
        number = int(text[1:]) if text.startswith("n") else sum(map(ord, side + text))
        return self.directions[number % 1000]

    def encode(self, side, texts):
        self.encoded += [(side, text) for text in texts]
        return torch.stack([self.vector(side, text) for text in texts])


def rows():
    """Pairs of which many share a document or a query; some documents have the direction of another one."""
    draw = np.random.default_rng(3)
    pairs = [{"query": f"q{draw.integers(50)}", "document": f"d{draw.integers(70)}"} for _ in range(120)]
    twins = [{"query": "n5", "document": f"n{number}"} for number in (5, 1005, 2005, 3005, 6)]
    return [*pairs, *twins]


def brute_force(pairs, embedder):
    """Rank and cosine of each row, from the definition: distinct documents, those that are nearer."""
    documents = sorted({pair["document"] for pair in pairs})
    found = []
    for pair in pairs:
        query = embedder.vector("query", pair["query"]).numpy()
        own = query @ embedder.vector("document", pair["document"]).numpy()
        nearer = [text for text in documents if query @ embedder.vector("document", text).numpy() > own + 1e-6]
        found.append((1 + len(nearer), own))
    return found


def embedded(pairs, embedder):
    table = datasets.Dataset.from_list(pairs)
    return embed_pairs(table, np.arange(len(pairs)), embedder, tqdm(disable=True))


def test_ranks_are_those_of_the_definition():
    pairs, embedder = rows(), TableEmbedder()
    found, similarities = embedded(pairs, embedder).judge()
    expected = brute_force(pairs, embedder)
    assert found.tolist() == [rank for rank, _ in expected]
    assert np.allclose(similarities, [own for _, own in expected], atol=1e-6)
    assert len(set(found.tolist())) > 20


def test_copies_and_ties_do_not_cost_a_place():
    pairs, embedder = rows(), TableEmbedder()
    found, _ = embedded(pairs, embedder).judge()
    assert found[-5:-1].tolist() == [1, 1, 1, 1]  # four documents in the query's own direction
    copies = embedded(pairs + pairs, embedder).judge()[0]
    assert copies.tolist() == found.tolist() * 2


def test_equal_texts_are_embedded_once():
    pairs, embedder = rows(), TableEmbedder()
    embedded(pairs, embedder)
    assert len(embedder.encoded) == len(set(embedder.encoded))
    assert {text for side, text in embedder.encoded if side == "query"} == {pair["query"] for pair in pairs}


def test_embeddings_on_disk_are_in_half_precision_and_judge_alike(tmp_path):
    pairs = embedded(rows(), TableEmbedder())
    pairs.save(tmp_path / "pairs.npz")
    with np.load(tmp_path / "pairs.npz") as stored:
        assert stored["queries"].dtype == stored["documents"].dtype == np.float16
    again = EmbeddedPairs.load(tmp_path / "pairs.npz")
    assert torch.allclose(again.queries, pairs.queries, atol=2e-3)
    assert torch.allclose(again.judge()[1], pairs.judge()[1], atol=2e-3)
    assert (again.rows == pairs.rows).all() and (again.document_ids == pairs.document_ids).all()
    (tmp_path / "pairs.npz").write_bytes((tmp_path / "pairs.npz").read_bytes()[:-40])
    with pytest.raises(ValueError, match="pairs.npz is damaged .*rerun the filter"):
        EmbeddedPairs.load(tmp_path / "pairs.npz")


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        (KeepRule(), [True, True, False, False]),
        (KeepRule(top_k=3), [True, True, True, False]),
        (KeepRule(top_k=None, min_similarity=0.5), [True, False, True, False]),
        (KeepRule(top_k=2, min_similarity=0.5), [True, False, False, False]),
    ],
)
def test_rule(rule, kept):
    assert rule.keeps(torch.tensor([1, 2, 3, 9]), torch.tensor([0.9, 0.4, 0.5, 0.1])).tolist() == kept


def test_a_rule_that_cannot_be_meant_is_refused():
    with pytest.raises(ValueError, match="both null"):
        KeepRule(top_k=None)
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        KeepRule(top_k=0)
    with pytest.raises(ValueError, match="min_similarity must be from -1 to 1"):
        KeepRule(min_similarity=2)
    with pytest.raises(ValueError, match="sample_size must be at least 2"):
        Samples(10, 1, 0)


def test_every_row_is_in_one_sample_and_samples_are_alike():
    parts = Samples(1003, 100, seed=1).rows()
    assert len(parts) == 11 and {len(part) for part in parts} == {91, 92}
    assert sorted(np.concatenate(parts).tolist()) == list(range(1003))
    assert all((np.diff(part) > 0).all() for part in parts)
    assert abs(np.mean(parts[0]) - 501) < 100  # from all over the source
    assert [part.tolist() for part in Samples(1003, 100, seed=2).rows()] != [part.tolist() for part in parts]


def test_ranks_are_counted_in_their_bins():
    found = torch.tensor([1, 1, 2, 3, 4, 5, 6, 100_000, 100_001])
    counts = dict(zip([*RANK_BINS, "over"], count_ranks(found), strict=True))
    assert counts == {1: 2, 2: 1, 3: 1, 5: 2, 10: 1, 30: 0, 100: 0, 300: 0, 1000: 0, 10000: 0, 100000: 1, "over": 1}


@pytest.fixture
def job(tmp_path):
    """A filter of the rows, with further columns, in three samples."""
    written = [{"ask": row["query"], "reply": row["document"], "id": place, "tags": ["x"]}
               for place, row in enumerate(rows())]  # fmt: skip
    write_jsonl(written, tmp_path / "pairs.jsonl")
    source = Source(
        name="mine", path=str(tmp_path / "pairs.jsonl"), query="ask", document="reply", query_prefix="",
        document_prefix="",
    )  # fmt: skip
    return SourceFilter(
        source=source,
        pairs=open_pairs(source, tmp_path / "cache", others=True),
        directory=tmp_path / "out",
        samples=Samples(125, 50, 0),
        rule=KeepRule(),
        rows_to_read=4,
        write_dropped=True,
        keep_embeddings=False,
    )


def run_all(job, embedder):
    for sample, numbers in enumerate(job.samples.rows()):
        job.run(sample, numbers, embedder, tqdm(disable=True))


def test_rows_are_written_whole_with_rank_and_similarity(job):
    embedder = TableEmbedder()
    run_all(job, embedder)
    for sample, numbers in enumerate(job.samples.rows()):
        members = [rows()[number] for number in numbers]
        expected = dict(zip(numbers.tolist(), brute_force(members, embedder), strict=True))
        seen = {}
        for what, keep in (("kept", True), ("dropped", False)):
            for row in rows_of(job.files(what).path(sample)):
                rank, similarity = expected[row["id"]]
                assert row["rank"] == rank and (rank <= 2) == keep
                assert row["similarity"] == pytest.approx(similarity, abs=1e-5)
                assert row["tags"] == ["x"] and list(row) == ["ask", "reply", "id", "tags", "rank", "similarity"]
                assert rows()[row["id"]] == {"query": row["ask"], "document": row["reply"]}
                seen[row["id"]] = rank
        assert sorted(seen) == sorted(expected)
    kept = Source(name="k", path=str(job.directory / "kept"), query="ask", document="reply", query_prefix="",
                  document_prefix="")  # fmt: skip
    assert 0 < len(open_pairs(kept, job.directory / "cache")) < 125


def test_report_counts_what_was_written(job):
    run_all(job, TableEmbedder())
    report = write_report(job)
    kept = [row for path in job.files("kept").paths() for row in rows_of(path)]
    dropped = [row for path in job.files("dropped").paths() for row in rows_of(path)]
    assert (report["rows"], report["kept"], report["blank"]) == (125, len(kept), 0)
    assert sum(report["ranks"]) == 125 and report["ranks"][0] == sum(row["rank"] == 1 for row in kept)
    assert (sum(report["similarities_of_kept"]), sum(report["similarities_of_dropped"])) == (len(kept), len(dropped))
    assert len(report["dropped_rows"]) == 12 and {row["rank"] > 2 for row in report["dropped_rows"]} == {True}
    bound = report["threshold"]["similarity"]
    above = [sum(row["similarity"] >= edge / 100 for row in kept + dropped) for edge in range(-100, 101)]
    assert abs(report["threshold"]["keeps"] - len(kept)) == min(abs(count - len(kept)) for count in above)
    assert len(kept) != len(dropped)
    assert report["threshold"]["keeps"] == sum(row["similarity"] >= bound for row in kept + dropped)
    assert report["threshold"]["decides_otherwise"] == sum(
        row["similarity"] < bound for row in kept
    ) + sum(row["similarity"] >= bound for row in dropped)  # fmt: skip
    page = (job.directory / "audit.md").read_text()
    assert f"| mine | 125 | {len(kept)} |" in page and "12 dropped rows at random" in page
    assert (job.directory / "audit.png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads((job.directory / "audit.json").read_text()) == json.loads(json.dumps(report))
    assert summary_table([report]) in page


def test_dropped_rows_show_the_document_that_is_nearest(job):
    embedder = TableEmbedder()
    run_all(job, embedder)
    sample = job.samples.rows()[0]
    shown = merge_counts([job.files("audit", ".json").path(0)])["dropped_rows"]
    members = [rows()[number]["document"] for number in sample]
    for row in shown:
        query = embedder.vector("query", row["query"])
        best = max(members, key=lambda text: float(query @ embedder.vector("document", text)))
        assert row["nearest_document"] == best and row["nearest_document"] != row["document"]
        assert rows()[row["row"] - 1] == {"query": row["query"], "document": row["document"]}


def test_rows_whose_query_has_other_documents_are_counted(job):
    run_all(job, TableEmbedder())
    for sample, numbers in enumerate(job.samples.rows()):
        documents = {}
        for number in numbers:
            documents.setdefault(rows()[number]["query"], set()).add(rows()[number]["document"])
        dropped = list(rows_of(job.files("dropped").path(sample)))
        expected = sum(len(documents[row["ask"]]) > 1 for row in dropped)
        assert merge_counts([job.files("audit", ".json").path(sample)])["dropped_with_another_document"] == expected > 0


def test_blank_rows_of_a_hub_data_set_are_left_out_and_named(job, tmp_path, monkeypatch):
    pairs = rows()
    pairs[7]["document"], pairs[11]["query"] = " ", None
    table = datasets.Dataset.from_list(pairs)
    monkeypatch.setattr("curation.sources.load_hub_split", lambda *_: table)
    hub = Source(name="hub", path="someone/pairs", query_prefix="", document_prefix="")
    job = dataclasses.replace(job, source=hub, pairs=open_pairs(hub, others=True), directory=tmp_path / "hub")
    run_all(job, TableEmbedder())
    report = write_report(job)
    assert report["blank"] == 2 and sorted(report["first_blank_rows"]) == [8, 12]
    assert sum(report["ranks"]) == 123
    assert "2 rows with a blank text were left out" in (job.directory / "audit.md").read_text()
