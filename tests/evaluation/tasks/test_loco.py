import gzip
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.tasks.data import LoadingError
from evaluation.tasks.lists import LOCO, resolve_tasks
from tests.evaluation.tasks.stub import evaluate
from textfiles.writing import write_jsonl


def scrolls(name, count):
    """Rows of SCROLLS as they are published."""
    return [
        {
            "id": f"{name}{row}",
            "pid": f"{name}{row}_0",
            "input": f"{name} input {row}",
            "output": f"{name} output {row}",
        }
        for row in range(count)
    ]


def write_parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def loaded(name, data_dir):
    (task,) = resolve_tasks([name], data_dir=data_dir)
    assert task.metadata.revision == "local"
    task.load_data()
    ((split, data),) = task.dataset["default"].items()
    assert [split] == list(task.eval_splits)
    return data


def expect_rows(data, rows):
    """A passage a row, in order, and the query of a row has its passage only."""
    numbers = range(len(rows))
    passages = [{"id": f"Passage_{row}", "title": "", "text": rows[row]["input"]} for row in numbers]
    assert data["corpus"].to_list() == passages
    assert data["queries"].to_list() == [{"id": f"Query_{row}", "text": rows[row]["output"]} for row in numbers]
    assert data["relevant_docs"] == {f"Query_{row}": {f"Passage_{row}": 1} for row in numbers}


def test_scrolls_from_the_parquet_branch_as_downloaded(tmp_path):
    """<config>/<split>/<number>.parquet; the other splits and configurations are not read."""
    rows = scrolls("qmsum", 5)
    rows[3]["input"] = rows[0]["input"]  # rows with one document compete, as in the authors' code
    home = tmp_path / "tau" / "scrolls"
    write_parquet(home / "qmsum" / "validation" / "0000.parquet", rows[:3])
    write_parquet(home / "qmsum" / "validation" / "0001.parquet", rows[3:])
    write_parquet(home / "qmsum" / "train" / "0000.parquet", scrolls("train", 2))
    write_parquet(home / "gov_report" / "validation" / "0000.parquet", scrolls("gov", 4))
    expect_rows(loaded("LoCoQMSum", tmp_path), rows)
    expect_rows(loaded("LoCoGovReport", tmp_path), scrolls("gov", 4))
    with pytest.raises(LoadingError, match=r"summ_screen_fd: there are no validation files.*hf download tau/scrolls"):
        loaded("LoCoSummScreenFD", tmp_path)


def test_scrolls_from_jsonl(tmp_path):
    """The original release is jsonl."""
    write_jsonl(scrolls("fd", 3), tmp_path / "LoCoSummScreenFD" / "validation.jsonl")
    packed = tmp_path / "tau" / "scrolls" / "gov_report" / "validation.jsonl.gz"
    packed.parent.mkdir(parents=True)
    packed.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in scrolls("gov", 2)).encode()))
    expect_rows(loaded("LoCoSummScreenFD", tmp_path), scrolls("fd", 3))
    expect_rows(loaded("LoCoGovReport", tmp_path), scrolls("gov", 2))


QASPER = [
    {
        "title": "First title",
        "abstract": "First abstract.",
        "full_text": {
            "section_name": ["Introduction", None, "Method ::: Data", "Conclusion"],
            "paragraphs": [["One.", "Two."], ["No name."], [], ["End."]],
        },
    },
    {
        "title": "Second title",
        "abstract": "Second abstract.",
        "full_text": {"section_name": ["Only"], "paragraphs": [["Text."]]},
    },
]
ARTICLES = ["Introduction\nOne. Two.\nNo name.\nMethod ::: Data\n\nConclusion\nEnd.", "Only\nText."]


def as_sections(row):
    """The form of the original release: a list of sections."""
    pairs = zip(row["full_text"]["section_name"], row["full_text"]["paragraphs"], strict=True)
    return {**row, "full_text": [{"section_name": name, "paragraphs": paragraphs} for name, paragraphs in pairs]}


@pytest.mark.parametrize("form", ["parquet", "sections in parquet", "jsonl", "sections in jsonl"])
def test_qasper_in_each_form(tmp_path, form):
    home = tmp_path / "allenai" / "qasper"
    rows = [as_sections(row) if "sections" in form else row for row in QASPER]
    if form.endswith("parquet"):
        write_parquet(home / "qasper" / "test" / "0000.parquet", rows)
    else:
        write_jsonl(rows, home / "test.jsonl")
    title, abstract = loaded("LoCoQASPERTitle", tmp_path), loaded("LoCoQASPERAbstract", tmp_path)
    expect_rows(title, [{"input": ARTICLES[row], "output": QASPER[row]["title"]} for row in range(2)])
    expect_rows(abstract, [{"input": ARTICLES[row], "output": QASPER[row]["abstract"]} for row in range(2)])


def test_the_hub_is_asked_for_its_parquet_files(monkeypatch):
    asked = []

    def load_dataset(path, **options):
        asked.append((path, options.pop("num_proc"), options))
        rows = QASPER if "qasper" in path else scrolls("hub", 3)
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    for task in resolve_tasks(LOCO):
        task.load_data()
    patterns = [f"{name}/validation/*.parquet" for name in ("summ_screen_fd", "gov_report", "qmsum")]
    patterns += ["qasper/test/*.parquet"] * 2
    paths = ["tau/scrolls"] * 3 + ["allenai/qasper"] * 2
    assert asked == [
        (path, None, {"data_files": pattern, "revision": "refs/convert/parquet", "split": "train"})
        for path, pattern in zip(paths, patterns, strict=True)
    ]
    title = task.dataset["default"]["test"]
    expect_rows(title, [{"input": ARTICLES[row], "output": QASPER[row]["abstract"]} for row in range(2)])


def test_a_task_is_scored(tmp_path):
    """The query is its document: found first, but where two rows have one document."""
    rows = [{"input": f"text {row}", "output": f"text {row}"} for row in range(12)]
    rows[1] = rows[0]
    write_jsonl(rows, tmp_path / "LoCoQMSum" / "validation.jsonl")
    result, scores = evaluate(*resolve_tasks(["LoCoQMSum"], data_dir=tmp_path))
    # Of equal documents trec_eval puts the greater id first: Passage_1 before Passage_0, which is second for its query.
    assert scores["ndcg_at_10"] == pytest.approx((11 + 1 / 1.5849625007) / 12, abs=1e-5)
    assert (result.task_name, result.dataset_revision) == ("LoCoQMSum", "local")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"output": " \n"}, r"validation.jsonl, line 2, column 'output': the text is blank"),
        ({"input": ""}, r"line 2, column 'input': the text is blank"),
        ({"input": None}, r"line 2, column 'input': null, not a text"),
        ({"input": ...}, r"line 2: no column 'input'; the columns are id, pid, output"),
    ],
)
def test_rows_that_cannot_be_used_are_named(tmp_path, change, message):
    rows = scrolls("fd", 3)
    rows[1] |= change
    rows[1] = {key: value for key, value in rows[1].items() if value is not ...}
    write_jsonl(rows, tmp_path / "LoCoQMSum" / "validation.jsonl")
    with pytest.raises(LoadingError, match=message):
        loaded("LoCoQMSum", tmp_path)


def test_articles_that_cannot_be_used_are_named(tmp_path):
    home = tmp_path / "allenai" / "qasper"
    bad = [{"section_name": ["A", "B"], "paragraphs": [["only one"]]}, [{"section_name": "A"}], "text", None]
    for full_text in bad:
        write_jsonl([QASPER[0], {**QASPER[1], "full_text": full_text}], home / "test.jsonl")
        with pytest.raises(LoadingError, match=r"test.jsonl, line 2, column 'full_text': not sections"):
            loaded("LoCoQASPERTitle", tmp_path)
    write_jsonl([{**QASPER[1], "full_text": {"section_name": [None], "paragraphs": [[]]}}], home / "test.jsonl")
    with pytest.raises(LoadingError, match=r"line 1, column 'full_text': the text is blank"):
        loaded("LoCoQASPERTitle", tmp_path)


def test_a_split_that_is_there_twice_is_refused(tmp_path):
    """Each document would be in the corpus twice, and scores lower."""
    home = tmp_path / "tau" / "scrolls" / "qmsum"
    write_jsonl(scrolls("qmsum", 3), home / "validation.jsonl")
    write_parquet(home / "validation" / "0000.parquet", scrolls("qmsum", 3))
    with pytest.raises(LoadingError, match=r"more than one copy .*0000.parquet and .*validation.jsonl\)"):
        loaded("LoCoQMSum", tmp_path)


def test_a_file_of_another_subset_is_not_read(tmp_path):
    write_jsonl(scrolls("unknown", 3), tmp_path / "tau" / "scrolls" / "validation.jsonl")
    with pytest.raises(LoadingError, match="there are no validation files"):
        loaded("LoCoQMSum", tmp_path)
