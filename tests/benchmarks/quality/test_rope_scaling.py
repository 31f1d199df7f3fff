import json

import numpy as np
import pytest
import torch

from benchmarks.quality.masked_accuracy import MaskedText, score_model
from benchmarks.quality.retrieval_scores import query_scores
from benchmarks.quality.rope_scaling import (
    SCALINGS,
    bootstrap_interval,
    encoder_of,
    main,
    masked_accuracy,
    retrieval,
    settings,
)
from curation.files import write_jsonl
from evaluation.retrieval import RetrievalSet, evaluate_embedder
from nomic_bert import NomicBertForMaskedLM
from nomic_bert.embedder import load_embedder
from tests.trainers.toys import WORDS, encoder, mlm, tokenizer

TRAINED = 16


@pytest.fixture(scope="module")
def text():
    random = np.random.default_rng(0)
    return MaskedText.of([" ".join(random.choice(WORDS, 600))], tokenizer(), (16, 32, 64))


@pytest.fixture(scope="module")
def retrieval_set():
    """Documents of 5 to 90 words, queries of a few words of one or two of them."""
    random = np.random.default_rng(1)
    documents = {f"d{i}": " ".join(random.choice(WORDS, random.integers(5, 90))) for i in range(30)}
    queries, relevant = {}, {}
    for i in range(20):
        relevant[f"q{i}"] = {f"d{i % 12}", f"d{i}"}
        queries[f"q{i}"] = " ".join(random.choice(documents[f"d{i}"].split(), 6))
    return RetrievalSet(queries, documents, relevant)


@pytest.fixture
def checkpoint(tmp_path):
    encoder(max_trained_positions=TRAINED).save_pretrained(tmp_path / "embedder")
    tokenizer().save_pretrained(tmp_path / "embedder")
    return tmp_path / "embedder"


def test_every_scaling_equals_a_model_loaded_with_it(text, tmp_path):
    mlm(max_trained_positions=TRAINED).save_pretrained(tmp_path)
    rows = masked_accuracy(NomicBertForMaskedLM.from_pretrained(tmp_path).eval(), text, TRAINED, (2, 4))
    keywords = {
        "none": lambda ratio: {"rotary_scaling_factor": None},
        "linear (Eq. 3)": lambda ratio: {"rotary_scaling_factor": ratio, "rotary_scaling_type": "linear"},
        "NTK (Eq. 4)": lambda ratio: {"rotary_scaling_factor": ratio, "rotary_scaling_type": "ntk"},
        **{
            f"dynamic, α = {alpha} (Eq. 5)": lambda _, alpha=alpha: {"rotary_scaling_factor": alpha}
            for alpha in (1, 2, 4)
        },
    }
    assert [row["length"] for row in rows] == [16] + [32, 64] * 6
    assert {row["scaling"] for row in rows} == {"trained length", *keywords}
    for row in rows[1:]:
        loaded = NomicBertForMaskedLM.from_pretrained(tmp_path, **keywords[row["scaling"]](row["length"] / 16)).eval()
        expected = score_model(loaded, text, row["length"]).summary()
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-6), row["scaling"]
        assert row["difference"] == pytest.approx(row["accuracy"] - rows[0]["accuracy"])
    losses = {(row["scaling"], row["length"]): row["loss"] for row in rows}
    assert losses["NTK (Eq. 4)", 64] == pytest.approx(losses["dynamic, α = 1 (Eq. 5)", 64], rel=1e-5)
    assert len({round(loss, 5) for (_, length), loss in losses.items() if length == 64}) == 5


def test_nothing_is_scaled_at_the_trained_length(text):
    model = mlm(max_trained_positions=TRAINED).eval()
    found = []
    for scaling in SCALINGS:
        scaling.apply(model.config, 1)
        found.append(score_model(model, text, TRAINED).losses)
    for losses in found[1:]:
        np.testing.assert_allclose(losses, found[0], rtol=1e-6)
    (_, scaling, multiple), *others = settings((2, 4))
    assert (scaling, multiple) == (SCALINGS[0], 1) and len(others) == 12


def test_query_scores_have_the_mean_that_the_evaluator_gives(retrieval_set, checkpoint):
    embedder = load_embedder(checkpoint, max_seq_length=TRAINED, device="cpu")
    scores = query_scores(embedder, retrieval_set, TRAINED, TRAINED, batch_size=7)
    assert scores.shape == (20,) and scores.max() > 0
    expected = evaluate_embedder(load_embedder(checkpoint, max_seq_length=TRAINED, device="cpu"), retrieval_set)
    assert scores.mean() == pytest.approx(expected["ndcg@10"])


def test_documents_are_read_to_the_given_length_and_queries_to_the_trained_one(retrieval_set, checkpoint):
    """Texts are cut by hand here: [CLS], then words with the prefix, then [SEP]."""
    embedder = load_embedder(checkpoint, device="cpu")
    SCALINGS[0].apply(encoder_of(embedder).config, 1)

    def cut(texts: dict[str, str], prompt: str, tokens: int) -> dict[str, str]:
        prefix = len(embedder.tokenizer(embedder.prompts[prompt], add_special_tokens=False)["input_ids"])
        return {key: " ".join(text.split()[: tokens - 2 - prefix]) for key, text in texts.items()}

    documents, relevant = retrieval_set.documents, retrieval_set.relevant
    queries = {key: text + " " + documents["d29"] for key, text in retrieval_set.queries.items()}
    found = query_scores(embedder, RetrievalSet(queries, documents, relevant), TRAINED, 32, batch_size=8)
    by_hand = RetrievalSet(cut(queries, "query", TRAINED), cut(documents, "document", 32), relevant)
    np.testing.assert_allclose(found, query_scores(embedder, by_hand, 500, 500, batch_size=8))
    for tokens in (TRAINED, TRAINED), (32, 32):
        assert (found != query_scores(embedder, RetrievalSet(queries, documents, relevant), *tokens, 8)).any()


def test_retrieval_differences_are_to_the_trained_length(retrieval_set, checkpoint):
    rows = retrieval(load_embedder(checkpoint, device="cpu"), retrieval_set, TRAINED, (4,), batch_size=8)
    assert [row["length"] for row in rows] == [16] + [64] * 6
    assert rows[0]["difference"] == rows[0]["difference_low"] == rows[0]["difference_high"] == 0
    for row in rows[1:]:
        assert row["difference"] == pytest.approx(row["ndcg@10"] - rows[0]["ndcg@10"])
        assert row["difference_low"] <= row["difference"] <= row["difference_high"]


def test_bootstrap_interval_is_the_normal_one_of_group_means_for_many_groups():
    random = np.random.default_rng(3)
    differences = (random.normal(size=(200, 1)) + random.normal(size=(200, 5))).ravel()
    groups = [f"d{i}" for i in range(200) for _ in range(5)]
    means = differences.reshape(200, 5).mean(axis=1)
    reach = 1.96 * means.std(ddof=1) / 200**0.5
    low, high = bootstrap_interval(differences, groups)
    assert (low, high) == pytest.approx((means.mean() - reach, means.mean() + reach), abs=0.05 * reach)
    assert bootstrap_interval(differences, groups) == (low, high)


def test_the_script_writes_tables_figures_and_a_plot(retrieval_set, checkpoint, tmp_path):
    torch.manual_seed(0)
    random = np.random.default_rng(4)
    data, beir = tmp_path / "data", tmp_path / "beir"
    tokenizer().save_pretrained(data / "tokenizer")
    write_jsonl([{"text": " ".join(random.choice(WORDS, 200))}], data / "held_out.jsonl.gz")
    for name, texts in ("corpus", retrieval_set.documents), ("queries", retrieval_set.queries):
        write_jsonl([{"_id": key, "text": text} for key, text in texts.items()], beir / f"{name}.jsonl")
    lines = [f"{query}\t{key}\t1" for query, keys in retrieval_set.relevant.items() for key in sorted(keys)]
    (beir / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
    mlm(max_trained_positions=TRAINED).save_pretrained(tmp_path / "mlm")
    tokenizer().save_pretrained(tmp_path / "mlm")
    arguments = ["--data", str(data), "--embedder", str(checkpoint), "--retrieval", f"toy={beir}", "--device", "cpu"]
    results = tmp_path / "results"
    main(["--model", str(tmp_path / "mlm"), *arguments, "--output", str(results)])
    (written,) = results.glob("*-rope_scaling.json")
    result = json.loads(written.read_text())["result"]
    assert len(result["masked_accuracy"]) == len(result["retrieval"]["toy"]) == 13
    page = written.with_suffix(".md").read_text()
    for row in result["retrieval"]["toy"][1:]:
        interval = f"[{row['difference_low']:+.2f}, {row['difference_high']:+.2f}]"
        assert (
            f"| {row['scaling']} | {row['length']} | {row['ndcg@10']:.2f} | {row['difference']:+.2f} {interval} |"
            in page
        )
    assert written.with_suffix(".png").stat().st_size > 10_000
    encoder(max_trained_positions=8).save_pretrained(checkpoint)
    with pytest.raises(SystemExit, match="--embedder was trained at 8 tokens, --model at 16"):
        main(["--model", str(tmp_path / "mlm"), *arguments, "--output", str(results)])
