"""Mining as a person runs it, beside a brute force in memory; one process or several ranks, once or again."""

import json
import os
import random
from functools import partial

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from curation.duplicates import normalize_text
from curation.mining import miner as mining
from curation.mining.miner import SourceMiner
from curation.sources import Source, open_pairs
from nomic_bert.embedder import load_embedder, save_embedder
from recipes import mine_negatives
from tests.commands import contents
from tests.commands import refusal as refused
from tests.processes import Forked, run_ranks
from tests.trainers.toys import WORDS, encoder, tokenizer
from textfiles.rows import find_files, rows_of
from textfiles.writing import write_jsonl

PREFIXES = {"query_prefix": "search_query", "document_prefix": "search_document"}
refusal = partial(refused, mine_negatives.main)
SHARDS = ["--documents_per_shard", "9", "--rows_per_shard", "11", "--tokens_per_batch", "24"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A directory that sentence-transformers opens, with prompts of its own."""
    start = tmp_path_factory.mktemp("start")
    encoder().save_pretrained(start)
    tokenizer().save_pretrained(start)
    embedder = load_embedder(start)
    embedder.prompts |= {"query": "word7 ", "document": "word8 word9 "}
    directory = tmp_path_factory.mktemp("model") / "embedder"
    save_embedder(embedder, directory)
    return str(directory)


def texts(count, seed):
    words = random.Random(seed)
    return [" ".join(words.choices(WORDS, k=words.randint(3, 9))) for _ in range(count)]


def make_rows():
    """Questions asked again in other writing, answers given again in other writing, and one with many answers."""
    questions, answers = texts(14, 1), texts(40, 2)
    rows = [{"question": questions[n // 2 % 14], "id": n, "answer": answers[n % 40]} for n in range(50)]
    rows += [{"question": f"{questions[3].upper()} ?", "id": 90, "answer": answers[5].replace(" ", ", ")}]
    return rows + [{"question": "word1 word2", "id": 100 + n, "answer": f"{answers[n]}!"} for n in range(25)]


def write_source(directory, **more):
    write_jsonl(make_rows(), directory / "rows.jsonl.gz")
    columns = {"query": "question", "document": "answer"}
    return {"name": "mine", "path": str(directory / "rows.jsonl.gz"), **PREFIXES, **columns, **more}


def argv(model, output, sources, *more):
    where = ["--sources", json.dumps(sources), "--output_dir", str(output)]
    return ["--model_name_or_path", model, *where, *SHARDS, *more]


def mined(directory):
    return [row for file in find_files(directory, (".jsonl.gz",)) for row in rows_of(file)]


def brute_force(rows, candidates, model, prompts, count, range_min=0, range_max=None, keep=lambda score, own: True):
    """The negatives of every row, straight from the definition, one text after the other."""
    embedder = SentenceTransformer(model)
    query_prompt, document_prompt = prompts
    vector = {}

    def cosine(query, document):
        for text, prompt in ((query, query_prompt), (document, document_prompt)):
            if (text, prompt) not in vector:
                vector[text, prompt] = embedder.encode(text, prompt=prompt, normalize_embeddings=True)
        return float(vector[query, query_prompt] @ vector[document, document_prompt])

    first = {}
    for text in [*candidates, *(row["answer"] for row in rows)]:
        first.setdefault(normalize_text(text), text)
    expected = []
    for row in rows:
        same = [each for each in rows if normalize_text(each["question"]) == normalize_text(row["question"])]
        own = {normalize_text(each["answer"]) for each in same}
        keys = {normalize_text(text) for text in candidates} - own
        scored = sorted(((cosine(row["question"], first[key]), first[key]) for key in keys), reverse=True)
        own_score = cosine(row["question"], first[normalize_text(row["answer"])])
        window = [(score, text) for score, text in scored[range_min:range_max] if keep(score, own_score)]
        expected.append([text for _, text in window[:count]])
    return expected


OWN_PROMPTS, TASK_PREFIXES = ("word7 ", "word8 word9 "), ("search_query: ", "search_document: ")


@pytest.mark.parametrize(
    ("settings", "prompts", "definition"),
    [
        ([], OWN_PROMPTS, {}),
        (["--source_prefixes", "true"], TASK_PREFIXES, {}),
        (["--query_prompt", "word5 ", "--document_prompt", ""], ("word5 ", ""), {}),
        (
            ["--range_min", "2", "--range_max", "12", "--relative_margin", "0.02", "--min_score", "0.3"],
            OWN_PROMPTS,
            {"range_min": 2, "range_max": 12, "keep": lambda score, own: 0.3 <= score <= 0.98 * own},
        ),
        (["--absolute_margin", "0.04"], OWN_PROMPTS, {"keep": lambda score, own: score <= own - 0.04}),
    ],
)
def test_negatives_equal_the_definition(model, tmp_path, settings, prompts, definition):
    source, rows = write_source(tmp_path), make_rows()
    mine_negatives.main(argv(model, tmp_path / "out", [source], "--num_negatives", "6", *settings))
    found = mined(tmp_path / "out" / "mine")
    expected = brute_force(rows, [row["answer"] for row in rows], model, prompts, 6, **definition)
    assert [list(row) for row in found] == [["question", "answer", "id", "negatives"]] * len(rows)
    assert [{key: row[key] for key in rows[0]} for row in found] == rows
    assert [row["negatives"] for row in found] == expected
    assert sorted({len(negatives) for negatives in expected})[-1] == 6
    report = json.loads((tmp_path / "out" / "mine" / "report.json").read_text())
    assert report["with_fewer"] == sum(len(negatives) < 6 for negatives in expected)
    assert not (tmp_path / "out" / "mine" / ".work").exists()


def test_a_corpus_gives_the_negatives_and_pairs_alone_give_none(model, tmp_path):
    rows = make_rows()
    corpus = [*texts(30, 3), rows[0]["answer"].upper(), rows[1]["answer"]]
    write_jsonl([{"title": text.split()[0], "text": text.partition(" ")[2]} for text in corpus], tmp_path / "c.jsonl")
    source = write_source(tmp_path, corpus=str(tmp_path / "c.jsonl"), corpus_title="title")
    mine_negatives.main(argv(model, tmp_path / "out", [source]))
    found = [row["negatives"] for row in mined(tmp_path / "out" / "mine")]
    assert found == brute_force(rows, corpus, model, OWN_PROMPTS, 20)


def test_rows_that_have_negatives_are_left_alone_unless_told(model, tmp_path, capsys):
    rows = [{**row, "hard": ["x", "y"] if row["id"] % 3 == 0 else []} for row in make_rows()]
    source = write_source(tmp_path, negatives="hard")
    write_jsonl(rows, tmp_path / "rows.jsonl.gz")
    mine_negatives.main(argv(model, tmp_path / "out", [source]))
    mine_negatives.main(argv(model, tmp_path / "all", [source], "--replace_negatives", "true"))
    expected = brute_force(rows, [row["answer"] for row in rows], model, OWN_PROMPTS, 20)
    assert [row["hard"] for row in mined(tmp_path / "all" / "mine")] == expected
    kept = [row["hard"] or negatives for row, negatives in zip(rows, expected, strict=True)]
    assert [row["hard"] for row in mined(tmp_path / "out" / "mine")] == kept
    left_alone = sum(bool(row["hard"]) for row in rows)
    assert (
        f"{len(rows) - left_alone} mined (nearest of 40 documents), {left_alone} left alone" in capsys.readouterr().out
    )


def test_random_documents_are_no_answers_and_need_no_model(tmp_path):
    source, rows = write_source(tmp_path, draw="random"), make_rows()
    for name, seed in ("a", "0"), ("b", "0"), ("c", "1"):
        mine_negatives.main(argv("no model", tmp_path / name, [source], "--num_negatives", "12", "--seed", seed))
    os.truncate(next((tmp_path / "a" / "mine").glob("pairs-*.jsonl.gz")), 0)  # by a damaged disk: it is made again
    mine_negatives.main(argv("no model", tmp_path / "a", [source], "--num_negatives", "12", "--seed", "0"))
    found = [row["negatives"] for row in mined(tmp_path / "a" / "mine")]
    assert contents(tmp_path / "a" / "mine") == contents(tmp_path / "b" / "mine")
    assert found != [row["negatives"] for row in mined(tmp_path / "c" / "mine")]
    documents = {normalize_text(row["answer"]) for row in rows}
    for row, negatives in zip(rows, found, strict=True):
        same = [each for each in rows if normalize_text(each["question"]) == normalize_text(row["question"])]
        allowed = documents - {normalize_text(each["answer"]) for each in same}
        keys = [normalize_text(text) for text in negatives]
        assert len(set(keys)) == len(keys) == min(12, len(allowed)) and set(keys) <= allowed
    assert {normalize_text(text) for negatives in found for text in negatives} == documents


def test_rows_without_negatives_are_written_counted_and_can_be_opened(model, tmp_path, capsys):
    write_jsonl([{"query": "word1", "document": f"word{n}"} for n in (2, 3)], tmp_path / "a.jsonl")
    source = {"name": "a", "path": str(tmp_path / "a.jsonl"), **PREFIXES}
    mine_negatives.main(argv(model, tmp_path / "out", [source]))
    assert "2 have fewer than 20, of which 2 have none" in (printed := capsys.readouterr().out)
    assert "rows_without_negatives: skip" in printed
    pairs = open_pairs(Source(name="a", path=str(tmp_path / "out" / "a"), negatives="negatives", **PREFIXES))
    assert pairs["negatives"] == [[], []]


def test_the_report_tells_how_near_negatives_are(model, tmp_path):
    source = write_source(tmp_path)
    mine_negatives.main(argv(model, tmp_path / "out", [source], "--num_negatives", "4", "--keep_embeddings", "true"))
    report = json.loads((tmp_path / "out" / "mine" / "report.json").read_text())
    embedder, scores, own = SentenceTransformer(model), [], []
    for row in mined(tmp_path / "out" / "mine"):
        query = embedder.encode_query(row["question"], normalize_embeddings=True)
        document = embedder.encode_document(next(r["answer"] for r in make_rows() if normalize_text(r["answer"]) ==
                                                 normalize_text(row["answer"])), normalize_embeddings=True)  # fmt: skip
        own.append(query @ document)
        scores += (embedder.encode_document(row["negatives"], normalize_embeddings=True) @ query).tolist()
    for key, values in ("negatives", scores), ("own_documents", own):
        assert report[key]["mean"] == pytest.approx(np.mean(values), abs=2e-4)
        assert report[key]["p95"] == pytest.approx(np.percentile(values, 95), abs=2e-4)
    example = report["examples"][0]
    assert make_rows()[example["row"] - 1]["question"] == example["query"]
    assert example["query"] in (tmp_path / "out" / "mine" / "report.md").read_text()
    assert list((tmp_path / "out" / "mine" / ".work").glob("documents-*.npy"))


def die(name, calls, *arguments):
    """Mine, and die without a word at the given call of a function that mining calls for each shard."""
    module, left = (mining.np if name == "save" else mining), [int(calls)]
    original = getattr(module, name)

    def dying(*given, **settings):
        left[0] -= 1
        if left[0] == 0:
            if name == "write_jsonl":
                rows, path = given
                original((row if place < 3 else os.kill(os.getpid(), 9) for place, row in enumerate(rows)), path)
            os.kill(os.getpid(), 9)
        return original(*given, **settings)

    setattr(module, name, dying)
    mine_negatives.main(list(arguments))


@pytest.fixture
def whole(model, tmp_path):
    """Two sources, and the files that one process makes of them without being stopped."""
    sources = [write_source(tmp_path), {**write_source(tmp_path), "name": "random", "draw": "random"}]
    mine_negatives.main(argv(model, tmp_path / "one", sources))
    files = {name: contents(tmp_path / "one" / name) for name in ("mine", "random")}
    assert len(files["mine"]) == 10  # 7 shards, 2 reports and the settings
    return sources, files


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_give_the_same_bytes(model, tmp_path, whole, ranks):
    sources, files = whole
    printed = run_ranks(ranks, mine_negatives.__file__, argv(model, tmp_path / "ranks", sources))
    assert "1 of 2" not in printed and printed.count("0 of 2 sources") == 1  # ranks, not runs of their own
    assert {name: contents(tmp_path / "ranks" / name) for name in files} == files


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(model, tmp_path, whole):
    sources, files = whole
    # in the third of the documents' shards (after each source's five arrays), then in the second of the pairs'
    for name, calls, pattern, made in ("save", "13", ".work/documents-*.npy", 2), ("write_jsonl", "2", "pairs-*", 1):
        killed = Forked(die, [name, calls, *argv(model, tmp_path / "again", sources)])
        assert killed.wait() == -9, killed.printed[-3000:]
        begun = {path: path.stat().st_mtime_ns for path in (tmp_path / "again" / "mine").glob(pattern)}
        assert len(begun) == made
    assert "num_negatives was " in refusal(argv(model, tmp_path / "again", sources, "--num_negatives", "3"))
    mine_negatives.main(argv(model, tmp_path / "again", sources))
    assert {path: path.stat().st_mtime_ns for path in begun} == begun
    for path in (tmp_path / "again").rglob(".partial-*"):  # what the killed run was writing
        path.unlink()
    assert {name: contents(tmp_path / "again" / name) for name in files} == files
    mine_negatives.main(argv(model, tmp_path / "again", sources))  # nothing is left to do
    assert {path: path.stat().st_mtime_ns for path in begun} == begun


def test_a_refusal_leaves_nothing_behind_and_comes_before_any_source_is_mined(model, tmp_path):
    source, out = write_source(tmp_path), tmp_path / "out"
    bad = {**source, "name": "bad", "document": "reply"}
    assert "no column 'reply'" in refusal(argv(model, out, [source, bad]))
    assert "no-such-model" in refusal(argv(str(tmp_path / "no-such-model"), out, [source]))
    assert not out.exists() or not any(out.iterdir())
    mine_negatives.main(argv(model, out, [source]))
    before = contents(out / "mine")
    assert "no column 'reply'" in refusal(argv(model, out, [source, bad]))
    assert contents(out / "mine") == before and not (out / "bad").exists()


def test_nothing_of_an_interrupted_run_serves_one_with_other_settings(model, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    source = write_source(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(SourceMiner, "mine_pairs", interrupt)  # texts are copied, numbered and embedded by then
        with pytest.raises(KeyboardInterrupt):
            mine_negatives.main(argv(model, tmp_path / "out", [source], "--document_prompt", "word3 word4 word5 "))
    for output in "out", "fresh":
        mine_negatives.main(argv(model, tmp_path / output, [source]))
    assert contents(tmp_path / "out" / "mine") == contents(tmp_path / "fresh" / "mine")


def test_what_cannot_be_mined_is_named(model, tmp_path):
    source = write_source(tmp_path)
    assert "sources[0] (mine): unknown key 'corpsu'; did you mean 'corpus'" in refusal(
        argv(model, tmp_path / "a", [{**source, "corpsu": "x"}])
    )
    assert "nowhere" in refusal(argv(model, tmp_path / "b", [{**source, "corpus": str(tmp_path / "nowhere")}]))
    told = refusal(argv(model, tmp_path / "c", [{**source, "document": "reply"}]))
    assert "no column 'reply'" in told and "To read others, set query, document and negatives, or layout (" in told
    assert "the name 'mine' is used twice" in refusal(argv(model, tmp_path / "d", [source, source]))
    assert "range_max must be" in refusal(argv(model, tmp_path / "e", [source], "--range_max", "5"))
    more = ["--source_prefixes", "true", "--query_prompt", "x"]
    assert "in place of query_prompt" in refusal(argv(model, tmp_path / "f", [source], *more))
    write_jsonl(
        [{"question": "a", "answer": "b"}, {"question": "a", "answer": "c", "negatives": ["d"]}], source["path"]
    )
    assert "have a column 'negatives' already" in refusal(argv(model, tmp_path / "g", [source]))
