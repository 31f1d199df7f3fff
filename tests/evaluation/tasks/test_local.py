import gzip
import json

import mteb
import pytest
from mteb.cache import ResultCache

from evaluation.tasks.local import read_local_tasks
from tests.evaluation.tasks.stub import RandomEncoder, evaluate
from textfiles.writing import write_jsonl


@pytest.fixture
def files(tmp_path):
    """Small files of each kind, in the layouts that are read."""
    write_jsonl([{"_id": i, "title": None, "text": f"d {i}"} for i in range(3)], tmp_path / "beir" / "corpus.jsonl")
    write_jsonl([{"_id": "q", "text": "a query"}, {"_id": "x", "text": ""}], tmp_path / "beir" / "queries.jsonl")
    (tmp_path / "beir" / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\t1\t2\n")
    write_jsonl([{"query": f"q {i}", "document": f"d {i}"} for i in range(4)], tmp_path / "pairs.jsonl")
    (tmp_path / "sts.tsv").write_text('sentence1\tsentence2\tscore\n"one\ttwo\t5.0\nthree\tfour\t1\n')
    (tmp_path / "labels.csv").write_text('text,label\n"a, b",x\nc,y\n')
    (tmp_path / "dev.tsv.gz").write_bytes(gzip.compress(b"s1\ts2\tsame\na\tb\t1\nc\td\t0\n"))
    return tmp_path


STS = {"name": "mine", "type": "STS", "path": "sts.tsv"}
BEIR = {"name": "mine", "type": "Retrieval", "path": "beir"}
PAIRS = {"name": "mine", "type": "Retrieval", "path": "pairs.jsonl"}
LABELS = {"name": "mine", "type": "Classification", "path": "labels.csv", "train": "labels.csv"}
CLUSTERS = {"name": "mine", "type": "Clustering", "path": "labels.csv"}
SAME = {"name": "mine", "type": "PairClassification", "path": "dev.tsv.gz", "columns": ["s1", "s2", "same"]}


def read(directory, *entries):
    (directory / "tasks.yaml").write_text(json.dumps(entries))
    return read_local_tasks(directory / "tasks.yaml")


def test_each_kind_is_read_and_only_when_it_is_needed(files):
    tasks = read(
        files, *({**entry, "name": f"t{i}"} for i, entry in enumerate([BEIR, PAIRS, STS, LABELS, CLUSTERS, SAME]))
    )
    assert not any(task.data_loaded for task in tasks)
    for task in tasks:
        task.load_data()
    beir, pairs, sts, labels, clusters, same = (task.dataset for task in tasks)
    beir, pairs = beir["default"]["test"], pairs["default"]["test"]
    assert beir["corpus"].to_list() == [{"id": f"{i}", "title": "", "text": f"d {i}"} for i in range(3)]
    assert beir["queries"].to_list() == [{"id": "q", "text": "a query"}]
    assert beir["relevant_docs"] == {"q": {"1": 2}}
    assert pairs["relevant_docs"] == {f"{i}": {f"{i}": 1} for i in range(4)}
    assert sts["test"].to_dict() == {"sentence1": ['"one', "three"], "sentence2": ["two", "four"], "score": [5.0, 1.0]}
    assert (tasks[2].min_score, tasks[2].max_score) == (1, 5)
    assert labels["test"].to_dict() == {"text": ["a, b", "c"], "label": [0, 1]}
    assert clusters["test"].to_dict() == {"sentences": [["a, b", "c"]], "labels": [["x", "y"]]}
    assert same["test"].to_dict() == {"sentence1": ["a", "c"], "sentence2": ["b", "d"], "labels": [1, 0]}
    before = tasks[2].dataset
    tasks[2].load_data()
    assert tasks[2].dataset is before


def test_results_say_which_data_they_are_of(files):
    def revision(entry):
        return read(files, entry)[0].metadata.revision

    first = {name: revision(entry) for name, entry in {"sts": STS, "beir": BEIR, "pairs": PAIRS}.items()}
    assert all(len(name) == len("local-") + 12 for name in first.values())
    assert revision(STS) == first["sts"] == revision({**STS, "name": "other"})
    assert revision({**STS, "columns": ["sentence2", "sentence1", "score"]}) != first["sts"]
    with open(files / "beir" / "qrels.tsv", "a") as qrels:
        qrels.write("q\t0\t1\n")
    assert revision(BEIR) != first["beir"]
    cache = ResultCache(files / "cache")
    settings = {"cache": cache, "co2_tracker": False, "encode_kwargs": {"show_progress_bar": False}}
    mteb.evaluate(RandomEncoder(), read(files, STS), show_progress_bar=False, **settings)
    kept = cache.load_task_result("mine", RandomEncoder().mteb_model_meta)
    assert kept.dataset_revision == first["sts"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({**STS, "colums": []}, r"tasks.yaml\[1\] \(mine\): unknown key 'colums'; did you mean 'columns'"),
        ({**STS, "zeal": "dev"}, "unknown key 'zeal'; the keys are name, type"),
        ({**STS, "type": "sts"}, "unknown type 'sts'; did you mean 'STS'"),
        ({"type": "STS", "path": "sts.tsv"}, r"tasks.yaml\[1\]: the key 'name' is missing"),
        ({**STS, "path": 3}, "path must be a text, not 3"),
        ({**STS, "skip_blank": "yes"}, "skip_blank must be true or false, not 'yes'"),
        ({**STS, "name": "a b"}, "'a b' cannot name a task"),
        ({**STS, "name": "query"}, "'query' cannot name a task"),  # mteb would give it the prompt of queries
        ({**STS, "name": "STS12"}, r"tasks.yaml\[1\] \(STS12\): mteb has a task of that name"),
        ({**STS, "name": "LoCoQMSum"}, "LoCo has a task of that name"),
        ({**STS, "name": "first"}, "the name 'first' is used twice"),
        ({**STS, "columns": ["a", "b"]}, r"columns must name 3 columns \(sentence1, sentence2, score\)"),
        (
            {**STS, "columns": ["sentence1", "sentence2", "gold"]},
            "sts.tsv, line 1: no column 'gold'; the columns are sentence1",
        ),
        ({**STS, "train": "sts.tsv"}, "train is for Classification; remove it"),
        ({**STS, "queries": "q.jsonl"}, "queries is for directories in the BEIR layout"),
        ({**BEIR, "columns": ["a", "b"]}, "columns is for files of rows"),
        ({**LABELS, "train": None}, "train is missing"),
        ({**STS, "split": "dev"}, "split is for directories in the BEIR layout"),
        ({**STS, "strict": True}, "strict is for directories in the BEIR layout"),
        ({**BEIR, "skip_blank": True}, "skip_blank is for files of rows"),
        ({**BEIR, "qrels": "qrels.tsv", "split": "test"}, "split chooses the judgements, and so does qrels"),
        ({**STS, "path": "tasks.yaml"}, r"cannot read this kind of file; use one of .jsonl, "),
    ],
)
def test_entries_that_cannot_be_meant_are_refused(files, entry, message):
    with pytest.raises(ValueError, match=message):
        read(files, {**STS, "name": "first"}, entry)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({**STS, "path": "none.tsv"}, r"tasks.yaml\[0\] \(mine\): .*none.tsv is not a file"),
        ({**STS, "path": "beir"}, "beir is not a file"),
        ({**BEIR, "queries": "others.jsonl.gz"}, "beir/others.jsonl.gz: neither it nor"),
        ({**BEIR, "path": "."}, "corpus.jsonl: neither it nor corpus.jsonl.gz is there"),
        ({**LABELS, "train": "none.csv"}, "none.csv is not a file"),
    ],
)
def test_missing_files_are_named(files, entry, message):
    with pytest.raises(FileNotFoundError, match=message):
        read(files, entry)


@pytest.mark.parametrize(
    ("file", "text", "entry", "message"),
    [
        ("sts.tsv", "a\t \t3\n", STS, "sts.tsv, line 4, column 'sentence2': the text is blank; .*skip_blank"),
        ("sts.tsv", "a\tb\tnan\n", STS, "line 4, column 'score': the str 'nan', not a number"),
        ("sts.tsv", "a\tb\n", STS, "line 4: 2 cells under 3 columns"),
        ("pairs.jsonl", '{"query": "", "document": "d"}\n', PAIRS, "pairs.jsonl, line 5, column 'query': the text is"),
        (
            "pairs.jsonl",
            '{"query": "q"}\n',
            PAIRS,
            "line 5: no column 'document'; the columns are query.*set the columns of the task",
        ),
        ("pairs.jsonl", '{"query": "q", "document": null}\n', PAIRS, "line 5, column 'document': null, not a text"),
        ("pairs.jsonl", "{\n", PAIRS, "line 5: not valid JSON"),
        ("labels.csv", ",x\n", LABELS, "labels.csv, line 4, column 'text': the text is blank; .*skip_blank: true"),
        ("labels.csv", "b,\n", CLUSTERS, "line 4, column 'label': the text is blank"),
        ("beir/queries.jsonl", '{"_id": "q", "text": "b"}\n', BEIR, "line 3: the id 'q' is used twice"),
        ("beir/corpus.jsonl", '{"_id": "1", "text": "b"}\n', BEIR, "corpus.jsonl, line 4: the id '1' is used twice"),
        ("beir/corpus.jsonl", '{"_id": "8", "text": null}\n', BEIR, "line 4, column 'text': null, not a text"),
        ("beir/qrels.tsv", "q\t7\t1\n", {**BEIR, "strict": True}, "line 3: the document '7' is not in .*corpus.jsonl"),
        ("beir/qrels.tsv", "z\t1\t1\n", {**BEIR, "strict": True}, "the query 'z' is not in .*queries.jsonl"),
        ("beir/qrels.tsv", "x\t1\t1\n", BEIR, "queries.jsonl, line 2, column 'text': the text is blank"),
        ("beir/qrels.tsv", "q\t0\t0.5\n", BEIR, "line 3: the grade '0.5' is not a whole number"),
    ],
)
def test_rows_that_cannot_be_used_are_named(files, file, text, entry, message):
    (task,) = read(files, entry)
    with open(files / file, "a") as lines:
        lines.write(text)
    with pytest.raises(ValueError, match=rf"tasks.yaml\[0\] \(mine\): .*{message}"):
        task.load_data()
    assert not task.data_loaded


@pytest.mark.parametrize(
    ("file", "text", "entry", "message"),
    [
        ("sts.tsv", "sentence1\tsentence2\tscore\na\tb\t2\nc\td\t2\n", STS, "all scores are 2.0"),
        ("labels.csv", "text,label\na,x\nb,x\n", CLUSTERS, "all labels are 'x'"),
        (
            "test.csv",
            "text,label\na,x\nb,z\n",
            {**LABELS, "path": "test.csv"},
            "line 3: label 'z' is not in .*labels.csv",
        ),
        ("pairs.tsv", "s1\ts2\tsame\na\tb\tyes\n", {**SAME, "path": "pairs.tsv"}, "'yes' instead of 0 or 1"),
        ("pairs.tsv", "s1\ts2\tsame\na\tb\t1\n", {**SAME, "path": "pairs.tsv"}, "all labels are 1"),
        ("beir/qrels.tsv", "query-id\tcorpus-id\tscore\nq\t1\t0\n", BEIR, "no query has a relevant document"),
    ],
)
def test_data_that_nothing_can_be_measured_on_are_refused(files, file, text, entry, message):
    (files / file).write_text(text)
    (task,) = read(files, entry)
    with pytest.raises(ValueError, match=message):
        task.load_data()


@pytest.mark.parametrize("text", ["", "name: mine", "- mine", "- {", "[]"])
def test_files_that_are_no_list_of_entries_are_refused(tmp_path, text):
    (tmp_path / "tasks.yaml").write_text(text)
    with pytest.raises(
        ValueError, match=r"tasks.yaml(: must be a list| is not valid YAML|: the list is empty|\[0\]: 'mine')"
    ):
        read_local_tasks(tmp_path / "tasks.yaml")


@pytest.mark.parametrize("entry", [STS, PAIRS, LABELS, CLUSTERS])
def test_rows_with_a_blank_text_can_be_left_out_and_are_counted(files, entry, capsys):
    blank = {"sts.tsv": "a\t \t3\n\tb\t3\n", "pairs.jsonl": '{"query": "", "document": "d"}\n' * 2,
             "labels.csv": '"",x\n" ",z\n'}[entry["path"]]  # fmt: skip
    (before,) = read(files, entry)
    before.load_data()
    with open(files / entry["path"], "a") as file:
        file.write(blank)
    (skipping,) = read(files, {**entry, "skip_blank": True})
    _, scores = evaluate(skipping)
    count = 4 if entry is LABELS else 2  # the file is that of training rows too
    assert scores["blank_rows_left_out"] == count
    assert f"mine: {count} rows with a blank text left out" in capsys.readouterr().out
    skipping.load_data()
    assert str(skipping.dataset) == str(before.dataset)
    assert skipping.metadata.revision != read(files, entry)[0].metadata.revision


def test_judgements_of_what_is_absent_are_counted_in_the_results(files, capsys):
    with open(files / "beir" / "qrels.tsv", "a") as qrels:
        qrels.write("q\t7\t1\nq\t8\t1\nz\t1\t1\n")
    _, scores = evaluate(read(files, BEIR)[0])
    assert (scores["absent_documents_left_out"], scores["absent_queries_left_out"]) == (2, 1)
    printed = capsys.readouterr().out
    assert "mine: 2 judgements of an absent document left out" in printed and "absent query" in printed


def test_a_split_of_the_judgements_can_be_chosen(files):
    (files / "beir" / "qrels").mkdir()
    for split, document in (("test", 0), ("dev", 2)):
        (files / "beir" / "qrels" / f"{split}.tsv").write_text(f"q\t{document}\t1\n")
    found = read(files, {**BEIR, "name": "a"}, {**BEIR, "name": "b", "split": "dev"})
    for task in found:
        task.load_data()
    judged = [task.dataset["default"]["test"]["relevant_docs"] for task in found]
    assert judged == [{"q": {"0": 1}}, {"q": {"2": 1}}]
    with pytest.raises(FileNotFoundError, match="train.tsv.*the splits are dev, test"):
        read(files, {**BEIR, "split": "train"})


REAL = """
- {name: scifact_train, type: Retrieval, path: DATA/retrieval/scifact_train_queries}
- {name: cranfield, type: Retrieval, path: DATA/retrieval/cranfield}
- {name: qmsum, type: Retrieval, path: DATA/longdoc/qmsum_train_val, queries: queries_summary_as_query.jsonl.gz}
- {name: jargon, type: Retrieval, path: DATA/pairs/jargon_file.jsonl.gz}
- {name: stsb_dev, type: STS, path: DATA/sts/stsb_dev.tsv.gz}
- {name: agnews, type: Clustering, path: DATA/clustering/agnews_part.jsonl.gz, columns: [text, label]}
- name: sst2
  type: Classification
  path: DATA/glue/sst2_dev.tsv.gz
  train: DATA/glue/sst2_train.tsv.gz
  columns: [sentence, label]
- {name: mrpc, type: PairClassification, path: DATA/glue/mrpc_dev.tsv.gz}
"""


def test_real_files(shared_data, tmp_path):
    (tmp_path / "tasks.yaml").write_text(REAL.replace("DATA", str(shared_data)))
    data = {}
    for task in read_local_tasks(tmp_path / "tasks.yaml"):
        task.load_data()
        data[task.metadata.name] = task.dataset
    for name, counts in {"scifact_train": (5183, 809), "cranfield": (1400, 225), "qmsum": (197, 1529)}.items():
        sets = data[name]["default"]["test"]
        assert (len(sets["corpus"]), len(sets["queries"])) == counts
    judged = data["cranfield"]["default"]["test"]["relevant_docs"].values()
    assert {grade for grades in judged for grade in grades.values()} == {1, 2, 3, 4}  # not yes and no
    assert len(data["stsb_dev"]["test"]) == 1500
    assert len(data["agnews"]["test"]["sentences"][0]) == 5000
    assert {part: len(rows) for part, rows in data["sst2"].items()} == {"train": 67349, "test": 872}
    assert len(data["mrpc"]["test"]) == 500
