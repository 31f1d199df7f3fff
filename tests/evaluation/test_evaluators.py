import gzip
import json

import datasets
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from evaluation.evaluators import EvaluatorSettings, build_evaluator
from nomic_bert.embedder import embedder_around
from tests.trainers.toys import encoder, tokenizer

TEXTS = [f"word{n} word{n + 1} word{2 * n}" for n in range(12)]


@pytest.fixture(scope="module")
def embedder():
    return embedder_around(encoder().eval(), tokenizer(), max_seq_length=32)


def cosines(embedder, one, other):
    return embedder.encode(one) @ embedder.encode(other).T


def test_similarity_reads_tsv_and_prefixes_both_sides(embedder, tmp_path):
    scores = np.arange(11) % 5
    lines = [f'{a}\t{b} "\t{score}' for a, b, score in zip(TEXTS, TEXTS[1:], scores, strict=False)]  # quotes are text
    with gzip.open(tmp_path / "sts.tsv.gz", "wt") as file:
        file.write("\n".join(["sentence1\tsentence2\tscore", *lines]) + "\n")
    settings = EvaluatorSettings(name="sts", kind="similarity", path=str(tmp_path / "sts.tsv.gz"))
    measured = build_evaluator(settings)(embedder)
    assert sorted(settings.metrics) == sorted(measured)
    found = measured[settings.metrics[0]]
    prefixed = [[f"classification: {text}" for text in side] for side in (TEXTS[:11], [f'{t} "' for t in TEXTS[1:]])]
    assert found == pytest.approx(spearmanr(np.diag(cosines(embedder, *prefixed)), scores).statistic, abs=1e-6)


def test_pairs_are_searched_among_all_documents(embedder, tmp_path):
    rows = [{"q": text, "d": text[::-1].replace("drow", "word")} for text in TEXTS]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = EvaluatorSettings(
        name="own",
        kind="pairs",
        path=str(tmp_path / "pairs.jsonl"),
        columns=["q", "d"],
        prefixes=["clustering", ""],
        limit=8,
    )
    found = build_evaluator(settings)(embedder)
    assert sorted(settings.metrics) == sorted(found)
    queries = [f"clustering: {row['q']}" for row in rows[:8]]
    order = np.argsort(-cosines(embedder, queries, [row["d"] for row in rows[:8]]), axis=1)
    ranks = np.array([list(row).index(query) for query, row in enumerate(order)])
    assert found["own_cosine_mrr@10"] == pytest.approx((1 / (ranks + 1)).mean())


def test_retrieval_on_the_hub_is_read_like_a_beir_directory(embedder, tmp_path, monkeypatch, capsys):
    corpus = [{"_id": str(n), "title": "word5", "text": text} for n, text in enumerate(TEXTS)]
    queries = [{"_id": f"q{n}", "text": text} for n, text in enumerate(TEXTS[:5])]
    judged = [{"query-id": f"q{n}", "corpus-id": str(n + 1), "score": 1} for n in range(4)]
    judged.append({"query-id": "q4", "corpus-id": "0", "score": 0})
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    judged.append({"query-id": "q3", "corpus-id": "absent", "score": 2})
    splits = {"test": judged, "dev": judged[:2]}
    (tmp_path / "qrels").mkdir()
    for split, rows in splits.items():
        lines = ["\t".join(judged[0]), *("\t".join(map(str, row.values())) for row in rows)]
        (tmp_path / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n")
    parts = {("corpus", "corpus"): corpus, ("queries", "queries"): queries}
    parts |= {(None, split): rows for split, rows in splits.items()}
    monkeypatch.setattr(
        datasets, "load_dataset", lambda path, name=None, split=None: datasets.Dataset.from_list(parts[name, split])
    )
    scores = {}
    for split in splits:
        local, hub = (
            build_evaluator(EvaluatorSettings(name="x", kind="retrieval", path=path, split=split))
            for path in (str(tmp_path), "owner/name")
        )
        assert len(local.queries) == len(hub.queries) == (4 if split == "test" else 2)
        scores[split] = local(embedder)
        assert hub(embedder) == scores[split] and len(scores[split]) > 3
    assert scores["dev"] != scores["test"]
    assert capsys.readouterr().out.count("1 name an absent document") == 2


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"query": "a"}\n')
    (tmp_path / "bad.jsonl").write_text('{"query": \n')
    for name, message in (
        ("pairs.jsonl", "line 1: no column 'document'; the columns are query.*set the columns of the eval"),
        ("bad.jsonl", "line 1: not valid JSON"),
    ):
        with pytest.raises(ValueError, match=f"evaluator 'x', .*{name}: .*{message}"):
            build_evaluator(EvaluatorSettings(name="x", kind="pairs", path=str(tmp_path / name)))
    (tmp_path / "a.txt").touch()
    with pytest.raises(ValueError, match=r"cannot read this kind of file; use one of \.jsonl"):
        build_evaluator(EvaluatorSettings(name="x", kind="pairs", path=str(tmp_path / "a.txt")))
    with pytest.raises(FileNotFoundError, match=r"evaluator 'x': none\.jsonl is neither a file"):
        build_evaluator(EvaluatorSettings(name="x", kind="pairs", path="none.jsonl"))
    for settings, message in (
        ({"kind": "sts"}, "kind must be one of"),
        ({"kind": "pairs", "columns": ["a"]}, "columns must name 2 columns"),
        ({"kind": "pairs", "prefixes": ["classification"]}, "prefixes must be two"),
        ({"kind": "pairs", "limit": 0}, "limit must be a positive"),
        ({"kind": "pairs", "batch_size": "8"}, "batch_size must be a positive"),
    ):
        with pytest.raises(ValueError, match=message):
            EvaluatorSettings(**{"name": "x", "path": "p", **settings})


@pytest.mark.parametrize(
    ("kind", "column", "value", "message"),
    [
        ("pairs", "query", "null", "null, not a text"),
        ("pairs", "document", "3", "the int '3', not a text"),
        ("pairs", "document", '["a"]', "the list .*, not a text"),
        ("pairs", "query", '" "', "the text is blank"),
        ("pairs", "query", r'"half \ud83d"', "not valid Unicode"),
        ("similarity", "sentence2", "null", "null, not a text"),
        ("similarity", "score", "NaN", "the float 'nan', not a number"),
        ("similarity", "score", '"high"', "the str 'high', not a number"),
        ("similarity", "score", "null", "null, not a number"),
    ],
)
def test_a_bad_value_is_named_with_its_row_when_the_run_is_built(tmp_path, kind, column, value, message):
    columns = {"pairs": ("query", "document"), "similarity": ("sentence1", "sentence2", "score")}[kind]
    good = {name: str(number) if name == "score" else f'"text {number}"' for number, name in enumerate(columns)}
    lines = [good, {**good, column: value}]
    text = "".join("{" + ", ".join(f'"{name}": {each}' for name, each in row.items()) + "}\n" for row in lines)
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(ValueError, match=rf"evaluator 'x', .*rows\.jsonl, line 2, column '{column}': {message}"):
        build_evaluator(EvaluatorSettings(name="x", kind=kind, path=str(tmp_path / "rows.jsonl")))


@pytest.mark.parametrize("kind", ["pairs", "similarity"])
def test_a_file_without_rows_or_with_equal_scores_is_refused(tmp_path, kind):
    (tmp_path / "rows.tsv").write_text("sentence1\tsentence2\tscore\tquery\tdocument\n")
    settings = EvaluatorSettings(name="x", kind=kind, path=str(tmp_path / "rows.tsv"))
    with pytest.raises(ValueError, match=r"rows\.tsv: there are no rows"):
        build_evaluator(settings)
    (tmp_path / "rows.tsv").write_text("sentence1\tsentence2\tscore\na\tb\t1\nc\td\t1\n")
    if kind == "similarity":
        with pytest.raises(ValueError, match="all scores are 1"):
            build_evaluator(settings)


@pytest.mark.parametrize("kind", ["pairs", "similarity"])
def test_embeddings_that_are_not_numbers_are_an_error(tmp_path, kind):
    rows = [{"query": t, "document": t, "sentence1": t, "sentence2": t[::-1], "score": n} for n, t in enumerate(TEXTS)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = encoder().eval()
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.fill_(torch.nan)
    broken = embedder_around(model, tokenizer(), max_seq_length=32)
    with pytest.raises(ValueError, match="12 of 12 texts are not finite"):
        build_evaluator(EvaluatorSettings(name="x", kind=kind, path=str(tmp_path / "rows.jsonl")))(broken)


def test_the_weights_are_shared_not_copied():
    """Trained further, the embedder gives what the model gives now."""
    model = encoder().eval()
    wrapped = embedder_around(model, tokenizer(), layer_norm=True)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight.mul_(-2)
        hidden = model(input_ids=tokenizer()("word3 word4", return_tensors="pt")["input_ids"]).last_hidden_state[0]
    pooled = torch.nn.functional.layer_norm(hidden.mean(0), (16,))
    expected = torch.nn.functional.normalize(pooled, dim=-1)
    torch.testing.assert_close(torch.from_numpy(wrapped.encode("word3 word4")), expected, rtol=1e-4, atol=1e-5)
