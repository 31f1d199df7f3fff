import csv
import gzip
import json

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from sentence_transformers.util import cos_sim, quantize_embeddings
from sentence_transformers.util.quantization import semantic_search_faiss

from benchmarks.quality import contrastive_scores, embedding_size
from benchmarks.quality.contrastive_data import RETRIEVAL_SETS, STS_SETS
from benchmarks.quality.embedding_size import KeptEmbeddings, Model, main, read_sets, require_same_as_encode
from benchmarks.quality.quantized_scores import CANDIDATES, PRECISIONS, bytes_per_vector, cut, found_documents
from curation.files import write_jsonl
from evaluation.retrieval import evaluate_embedder
from nomic_bert.embedder import load_embedder, save_embedder
from tests.checkpoints import save_nomic, save_other


@pytest.fixture(scope="module")
def vectors():
    """Queries near some of the documents."""
    random = np.random.default_rng(0)
    documents = cut(random.normal(size=(300, 64)).astype(np.float32), 64)
    return cut(documents[:30] + random.normal(size=(30, 64)).astype(np.float32) / 8, 64), documents


def hamming(queries, documents):
    return ((queries[:, None] > 0) != (documents[None] > 0)).sum(axis=2)


def faiss_hits(queries, documents, precision, rescore):
    stored = quantize_embeddings(documents, precision)
    hits, _ = semantic_search_faiss(
        queries, stored, corpus_precision=precision, rescore=rescore, rescore_multiplier=4,
        calibration_embeddings=documents,
    )  # fmt: skip
    return [[[hit[key] for hit in each] for each in hits] for key in ("corpus_id", "score")]


def test_search_and_rescoring_are_those_of_sentence_transformers(vectors):
    pytest.importorskip("faiss")
    queries, documents = vectors
    assert found_documents(queries, documents, "float32").tolist() == faiss_hits(*vectors, "float32", False)[0]
    distances = np.take_along_axis(hamming(*vectors), found_documents(*vectors, "binary"), axis=1)
    np.testing.assert_array_equal(distances, faiss_hits(*vectors, "ubinary", False)[1])
    few = documents[:CANDIDATES]  # all of them are candidates, so that ties among bits decide nothing
    assert found_documents(queries, few, "binary, rescored").tolist() == faiss_hits(queries, few, "ubinary", True)[0]
    for precision in "int8, rescored", "binary, int8 rescored":
        assert found_documents(queries, few, precision).tolist() == faiss_hits(queries, few, "uint8", True)[0]
    codes = [quantize_embeddings(each, "int8", calibration_embeddings=documents) for each in vectors]
    nearest = cos_sim(*(each.astype(np.float32) for each in codes)).topk(10).indices
    assert found_documents(queries, documents, "int8").tolist() == nearest.tolist()


def test_only_the_nearest_by_bits_are_rescored(vectors):
    queries, documents = vectors
    distances, products = hamming(*vectors), queries @ np.where(documents > 0, 1, -1).T
    found = found_documents(queries, documents, "binary, rescored")
    for query, rows in enumerate(found):
        farthest = np.sort(distances[query])[CANDIDATES - 1]
        assert distances[query][rows].max() <= farthest
        scores = products[query][rows]
        assert (np.diff(scores) <= 1e-6).all()
        surely = np.setdiff1d(np.flatnonzero(distances[query] < farthest), rows)
        assert products[query][surely].max() <= scores.min() + 1e-6
    best = np.argsort(-products, axis=1)[:, :10]
    assert any(set(rows) != set(others) for rows, others in zip(found, best, strict=True))  # the candidates did matter


def test_ties_stand_in_an_order_that_is_not_the_files():
    found = found_documents(np.ones((2, 8), np.float32), np.ones((100, 8), np.float32), "binary")
    assert found[0].tolist() == found[1].tolist() != list(range(10)) and len({*found[0]}) == 10


def test_bytes_hold_every_code_that_is_kept():
    found = {precision: bytes_per_vector(precision, 12) for precision in PRECISIONS}
    alone = {"float32": 48, "int8": 12, "binary": 2}
    assert found == alone | {"int8, rescored": 12, "binary, rescored": 2, "binary, int8 rescored": 14}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """With a layer norm, after an encoder whose vectors are not centred already; and one of another architecture."""
    root = tmp_path_factory.mktemp("models")
    save_nomic(root / "checkpoint")
    embedder = load_embedder(root / "checkpoint", layer_norm=True, device="cpu")
    torch.manual_seed(1)
    for parameter in embedder[0].auto_model.encoder.layers[-1].norm2.parameters():
        torch.nn.init.normal_(parameter, 0.5, 0.5)
    save_embedder(embedder, root / "normed")
    save_other(root / "other")
    return {name: str(root / name) for name in ("normed", "other")}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    data, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)

    def text(letters):
        return "".join(random.choice([*"abcdefghijklmnopqrst"], letters))

    def write(path, rows):
        path.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(path, "wt", encoding="utf-8", newline="") as file:
            csv.writer(file, delimiter="\t", lineterminator="\n").writerows(rows)

    for name in STS_SETS:
        rows = [[text(9), text(9), random.integers(0, 6)] for _ in range(40)]
        write(data / "sts" / f"{name}.tsv.gz", [["sentence1", "sentence2", "score"], *rows])
    for name in (*RETRIEVAL_SETS, "xquad_en"):
        beir = data / "retrieval" / name
        documents = [text(20) for _ in range(60)]
        write_jsonl([{"_id": f"d{i}", "text": each} for i, each in enumerate(documents)], beir / "corpus.jsonl.gz")
        queries = [{"_id": f"q{i}", "text": documents[i][:12]} for i in range(15)]
        write_jsonl(queries, beir / "queries.jsonl.gz")
        judged = [[f"q{i}", f"d{i + j}", 1] for i in range(15) for j in range(1 + i % 3)]
        write(beir / "qrels.tsv.gz", [["query-id", "corpus-id", "score"], *judged])
    return data


@pytest.fixture(scope="module")
def result(models, data, tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contrastive_scores, "RESAMPLES", 20)
        arguments = ["--models", *(f"{name}={path}" for name, path in models.items()), "--data", str(data)]
        arguments += ["--cache", str(root / "cache"), "--dimensions", "12", "--device", "cpu", "--output", str(root)]
        main(arguments)
    (page,) = root.glob("*-embedding_size.md")
    assert page.with_suffix(".png").stat().st_size > 10_000
    return json.loads(page.with_suffix(".json").read_text())["result"], page.read_text()


def as_users_have_it(path, dimension):
    """The library's own evaluators speak for STS and retrieval."""
    embedder = SentenceTransformer(path, truncate_dim=dimension, device="cpu")
    embedder.default_prompt_name = "STS" if "STS" in embedder.prompts else None
    return embedder


@pytest.mark.parametrize("dimension", [32, 12])
def test_scores_are_those_of_the_librarys_evaluators(models, data, result, dimension):
    sets = read_sets(data)
    for name, path in models.items():
        rows = {r["precision"]: r for r in result[0]["rows"] if (r["model"], r["dimension"]) == (name, dimension)}
        embedder = as_users_have_it(path, dimension)
        for precision, function in ("float32", "cosine"), ("int8", "cosine"), ("binary", "manhattan"):
            for each, pairs in sets.similarity.items():
                evaluator = EmbeddingSimilarityEvaluator(
                    pairs.first, pairs.second, pairs.judged, precision=precision, similarity_fn_names=[function],
                    main_similarity=function, write_csv=False,
                )  # fmt: skip
                expected = 100 * evaluator(embedder)[f"spearman_{function}"]
                assert rows[precision]["scores"][each] == pytest.approx(
                    expected, abs=0.3 if precision == "int8" else 1e-3
                )
        embedder.default_prompt_name = None
        for each, retrieval in sets.retrieval.items():
            expected = evaluate_embedder(embedder, retrieval)["ndcg@10"]
            assert rows["float32"]["scores"][each] == pytest.approx(expected)
        assert rows["binary, rescored"]["similarity"] is None
        assert len({rows[precision]["retrieval"]["score"] for precision in PRECISIONS}) > 2


def test_means_stand_beside_those_of_full_float32(result, data):
    figures, page = result
    rows = {(row["model"], row["dimension"], row["precision"]): row for row in figures["rows"]}
    assert len(rows) == 2 * 2 * len(PRECISIONS)
    sets = read_sets(data)
    for (model, *_), row in rows.items():
        full = rows[model, 32, "float32"]
        for kind, names in ("similarity", sets.similarity), ("retrieval", sets.retrieval):
            if not row[kind]:
                continue
            own, beside = (np.mean([each["scores"][name] for name in names]) for each in (row, full))
            assert row[kind]["score"] == pytest.approx(own) and row[kind]["beside"] == pytest.approx(beside)
            assert row[kind]["difference"] == pytest.approx(own - beside)
            assert row[kind]["percent"] == pytest.approx(100 * own / beside)
            assert row[kind]["low"] <= row[kind]["high"]
    shown = rows["normed", 12, "int8"]
    assert f"| normed | 12 | int8 | 12 | {shown['similarity']['score']:.1f} |" in page


def test_the_layer_norm_is_shown_with_and_without(models, data, result):
    rows = {(row["model"], row["dimension"]): row for row in result[0]["layer_norm"]}
    assert {key: row["has_layer_norm"] for key, row in rows.items()} == {
        ("normed", 32): True, ("normed", 12): True, ("other", 32): False, ("other", 12): False,
    }  # fmt: skip
    used = {(row["model"], row["dimension"]): row for row in result[0]["rows"] if row["precision"] == "float32"}
    for key, row in rows.items():
        as_used = row["retrieval"]["score" if row["has_layer_norm"] else "beside"]
        assert as_used == pytest.approx(used[key]["retrieval"]["score"])
    bare = load_embedder(models["normed"], layer_norm=False, device="cpu")
    bare.truncate_dim = 12
    scores = [evaluate_embedder(bare, each)["ndcg@10"] for each in read_sets(data).retrieval.values()]
    assert rows["normed", 12]["retrieval"]["beside"] == pytest.approx(np.mean(scores))
    assert rows["normed", 12]["retrieval"]["difference"] != 0


def test_embeddings_that_are_not_what_encode_gives_are_refused(models):
    texts = ["abc", "bcdefg", "klm nop", "a"]
    for path in models.values():
        model = Model(path, 64, "cpu")
        require_same_as_encode(model, [32, 12], texts, 256)
        model.has_layer_norm = not model.has_layer_norm
        if "normed" in path:
            with pytest.raises(ValueError, match="float32 at 12 dimensions is not what encode gives: by"):
                require_same_as_encode(model, [12], texts, 256)
    assert Model(models["other"], 64, "cpu").dimensions([]) == [32, 16]
    assert Model(models["other"], 64, "cpu").dimensions([64, 8, 32, 8, 24]) == [32, 24, 8]


def test_embeddings_are_kept_for_a_model_a_length_and_texts(models, tmp_path, monkeypatch):
    encoded = []
    real = embedding_size.encode_by_tokens
    monkeypatch.setattr(embedding_size, "encode_by_tokens", lambda *a, **k: encoded.append(1) or real(*a, **k))

    def get(name="normed", tokens=64, texts=("abc", "de" * 40), prompt=""):
        return KeptEmbeddings(tmp_path, Model(models[name], tokens, "cpu").bare, 256).get(texts, prompt, "texts")

    first = get()
    np.testing.assert_array_equal(get(), first)
    assert len(encoded) == 1
    for changed in {"name": "other"}, {"tokens": 16}, {"texts": ("abc", "de")}, {"prompt": "x"}:
        before = len(encoded)
        assert not np.allclose(get(**changed), first)
        assert len(encoded) == before + 1, changed


def test_what_cannot_be_read_is_named(models, data, tmp_path):
    arguments = ["--data", str(data), "--cache", str(tmp_path), "--output", str(tmp_path), "--device", "cpu"]
    with pytest.raises(SystemExit, match="error: .*nowhere is no directory"):
        main([*arguments, "--models", f"a={tmp_path}/nowhere"])
    with pytest.raises(SystemExit, match="NAME=DIR"):
        main([*arguments, "--models", models["other"]])
    with pytest.raises(SystemExit):
        main([*arguments, "--models", f"a={models['other']}", "--dimensions", "0"])
