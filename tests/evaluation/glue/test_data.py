"""Rows of local files and of the hub, and what is said of bad ones."""

import csv
import gzip
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from evaluation.glue.data import GlueData, read_file
from evaluation.glue.tasks import GLUE
from tests.evaluation.glue.toys import rows, write_data, write_tsv

RTE = GLUE["rte"]


def write_csv(path, made):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(made[0]))
        writer.writeheader()
        writer.writerows(made)


def test_every_kind_of_file_gives_the_same_rows(tmp_path):
    made = [{**row, "sentence1": row["sentence1"] + ', "so"'} for row in rows(RTE, 6, 0)]
    numbers = [{**row, "label": RTE.labels.index(row["label"])} for row in made]
    write_tsv(tmp_path / "rows.tsv", made)
    write_csv(tmp_path / "rows.csv", made)
    with gzip.open(tmp_path / "rows.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in numbers)
    pq.write_table(pa.Table.from_pylist(numbers), tmp_path / "rows.parquet")
    read = [read_file(path, RTE) for path in sorted(tmp_path.iterdir())]
    assert len(read) == 4
    for split in read:
        assert list(split.texts[0]) == [row["sentence1"] for row in made]
        assert split.targets == [row["label"] for row in numbers]
        assert {**split.identity(), "name": ""} == {**read[0].identity(), "name": ""}


def test_the_identity_changes_with_any_value(tmp_path):
    seen = set()
    for changes in ({}, {"sentence1": "x"}, {"sentence2": "x"}, {"label": "1"}):
        made = rows(RTE, 3, 0)
        made[1] = {**made[1], "label": "0", **changes}
        write_tsv(tmp_path / "rows.tsv", made)
        seen.add(read_file(tmp_path / "rows.tsv", RTE).identity()["sha256"])
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("sentence2", " ", "'sentence2'.*blank"),
        ("label", "maybe", "'label'.*entailment, not_entailment or 0 to 1, not 'maybe'"),
        ("label", "2", "'label'.*not '2'"),
        ("label", "-1", "'label'.*not '-1'"),
    ],
)
def test_a_bad_value_is_named_by_file_line_and_column(tmp_path, column, value, said):
    made = rows(RTE, 3, 0)
    made[1][column] = value
    write_tsv(tmp_path / "rows.tsv", made)
    with pytest.raises(ValueError, match=rf"rows\.tsv, line 3.*{said}"):
        read_file(tmp_path / "rows.tsv", RTE)


def test_names_of_labels_have_the_hubs_numbers():
    assert {name: " ".join(task.labels) for name, task in GLUE.items()} == {
        "cola": "unacceptable acceptable",
        "sst2": "negative positive",
        "mrpc": "not_equivalent equivalent",
        "stsb": "",
        "qqp": "not_duplicate duplicate",
        "mnli": "entailment neutral contradiction",
        "qnli": "entailment not_entailment",
        "rte": "entailment not_entailment",
    }


@pytest.mark.parametrize("value", ["5.1", "-0.1", "nan", "high"])
def test_scores_are_numbers_from_0_to_5(tmp_path, value):
    made = rows(GLUE["stsb"], 3, 0)
    made[2]["score"] = value
    write_tsv(tmp_path / "rows.tsv", made)
    with pytest.raises(ValueError, match=r"line 4, column 'score': .*(a number from 0 to 5|not a number)"):
        read_file(tmp_path / "rows.tsv", GLUE["stsb"])


def test_scores_may_be_called_labels_as_on_the_hub(tmp_path):
    made = [{"sentence1": "a", "sentence2": "b", "label": 2.5, "idx": 0}]
    pq.write_table(pa.Table.from_pylist(made), tmp_path / "rows.parquet")
    assert read_file(tmp_path / "rows.parquet", GLUE["stsb"]).targets == [2.5]


def test_a_missing_column_and_an_empty_file_are_named(tmp_path):
    write_tsv(tmp_path / "rows.tsv", rows(GLUE["qnli"], 3, 0))
    with pytest.raises(ValueError, match=r"rows\.tsv.*no column 'sentence1'"):
        read_file(tmp_path / "rows.tsv", RTE)
    (tmp_path / "rows.tsv").write_text("sentence1\tsentence2\tlabel\n")
    with pytest.raises(ValueError, match="no rows"):
        read_file(tmp_path / "rows.tsv", RTE)


def test_all_that_is_missing_is_listed_before_anything_is_read(tmp_path):
    data = write_data(tmp_path / "data")
    for name in ("rte_dev", "mnli_train", "mnli_dev_mismatched"):
        (data / f"{name}.tsv").unlink()
    with pytest.raises(FileNotFoundError) as error:
        GlueData(["cola", "rte", "mnli", "stsb"], data, {"stsb_train": tmp_path / "gone.tsv"})
    said = str(error.value)
    assert all(part in said for part in ("rte_dev in", "mnli_train in", "stsb_train at", "gone.tsv", "--file"))
    assert "cola" not in said and "mismatched" not in said
    with pytest.raises(ValueError, match="rte_test"):
        GlueData(["rte"], data, {"rte_test": data / "rte_train.tsv"})
    write_csv(data / "cola_dev.csv", rows(GLUE["cola"], 3, 0))
    with pytest.raises(ValueError, match=r"cola_dev\.tsv and cola_dev\.csv"):
        GlueData(["cola"], data)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        GlueData(["cola"], tmp_path / "nowhere")


def test_a_named_file_takes_the_place_of_the_directorys(tmp_path):
    data = write_data(tmp_path / "data")
    write_tsv(tmp_path / "mine.tsv", rows(RTE, 5, 0))
    found = GlueData(["rte"], data, {"rte_train": tmp_path / "mine.tsv"})
    assert found.read("rte", "train").identity()["name"] == "mine.tsv"
    assert found.read("rte", "dev").identity()["name"] == "rte_dev.tsv"


def test_without_a_directory_the_hub_is_asked_for_the_right_splits(monkeypatch):
    asked = []

    def load(*names, split):
        asked.append((*names, split))
        return datasets.Dataset.from_dict({"premise": ["a"], "hypothesis": ["b"], "label": [2], "idx": [0]})

    monkeypatch.setattr(datasets, "load_dataset", load)
    data = GlueData(["mnli"])
    splits = {split: data.read("mnli", split) for split in data.splits("mnli")}
    assert [(name, split) for _, name, split in asked] == [
        ("mnli", "train"),
        ("mnli", "validation_matched"),
        ("mnli", "validation_mismatched"),
    ]
    assert {dataset for dataset, *_ in asked} == {"nyu-mll/glue"}
    assert splits["train"].texts == (["a"], ["b"]) and splits["train"].targets == [2]


def test_an_unreachable_hub_names_the_way_round():
    with pytest.raises(FileNotFoundError, match="nyu-mll/glue rte .*--data_dir"):
        GlueData(["rte"]).read("rte", "train")


def test_real_files_are_read_whole(shared_data):
    sizes = {"cola_train": 8551, "cola_dev": 1043, "mrpc_train": 3576, "rte_train": 2490, "rte_dev": 277}
    for key, count in sizes.items():
        task, _, split = key.partition("_")
        read = GlueData([task], shared_data / "glue").read(task, split)
        assert len(read.targets) == count and set(read.targets) == {0, 1}
    stsb = read_file(shared_data / "sts" / "stsb_dev.tsv.gz", GLUE["stsb"])
    assert len(stsb.targets) == 1500 and max(stsb.targets) == 5.0
    mnli = read_file(shared_data / "nli" / "mnli_dev_80pct.tsv.gz", GLUE["mnli"])
    assert len(mnli.targets) == 15753 and set(mnli.targets) == {0, 1, 2}
