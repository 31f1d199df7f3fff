import mteb
import numpy as np
import pytest
from mteb.tasks import SciFact

from evaluation.tasks.data import LoadingError, loading_error, with_data_dir
from evaluation.tasks.lists import resolve_tasks
from tests.evaluation.tasks.stub import embed, evaluate, unit
from textfiles.writing import write_jsonl

BEIR_HEADER = """---
configs:
- config_name: default
  data_files:
  - split: test
    path: qrels/test.jsonl
- config_name: corpus
  data_files:
  - split: corpus
    path: corpus.jsonl
- config_name: queries
  data_files:
  - split: queries
    path: queries.jsonl
---
"""


def write_beir_as_on_the_hub(directory, seed=0):
    """Twenty documents, five queries, each with one relevant document; returns its nDCG@10 from its definition."""
    documents = [f"document {seed} {number}" for number in range(20)]
    queries = [f"query {seed} {number}" for number in range(5)]
    write_jsonl([{"_id": f"d{i}", "text": text} for i, text in enumerate(documents)], directory / "corpus.jsonl")
    write_jsonl([{"_id": f"q{i}", "text": text} for i, text in enumerate(queries)], directory / "queries.jsonl")
    judged = [{"query-id": f"q{i}", "corpus-id": f"d{i}", "score": 1} for i in range(5)]
    write_jsonl(judged, directory / "qrels" / "test.jsonl")
    (directory / "README.md").write_text(BEIR_HEADER)
    (directory / ".cache" / "huggingface").mkdir(parents=True)  # `hf download` leaves it
    similarities = unit(embed(queries)) @ unit(embed(documents)).T
    ranks = (similarities > np.diagonal(similarities)[:, None]).sum(axis=1)
    return np.where(ranks < 10, 1 / np.log2(ranks + 2), 0).mean()


@pytest.mark.parametrize("place", ["SciFact", "mteb/scifact"])
def test_a_directory_is_read_in_place_of_the_hub(tmp_path, place):
    ndcg = write_beir_as_on_the_hub(tmp_path / place)
    (task,) = resolve_tasks(["SciFact"], data_dir=tmp_path)
    result, scores = evaluate(task)
    assert scores["ndcg_at_10"] == pytest.approx(ndcg, abs=1e-5)
    assert result.task_name == "SciFact"
    assert result.dataset_revision == "local"
    assert str(tmp_path) not in result.model_dump_json()
    # What others get from mteb, and what is resolved without the directory, reads from the hub.
    published = "d56462d0e63a25450459c4f213e49ffdb866f7f9"
    for other in (SciFact(), mteb.get_task("SciFact"), *resolve_tasks(["SciFact"])):
        assert other.metadata.dataset == {"path": "mteb/scifact", "revision": published}
    # mteb unloads what it has evaluated; the task can be evaluated again
    assert not task.data_loaded
    assert evaluate(task)[1]["ndcg_at_10"] == scores["ndcg_at_10"]


@pytest.mark.filterwarnings("ignore:The task 'STS22' is superseded")
def test_subsets_of_a_directory(tmp_path):
    """STS22 loads all its languages at once, AmazonCounterfactualClassification one by one; both in English here."""
    rows = [
        {"lang": lang, "sentence1": f"{lang} {number}", "sentence2": f"{number} {lang}", "score": float(number % 4)}
        for lang in ("en", "de")
        for number in range(12)
    ]
    write_jsonl(rows, tmp_path / "mteb" / "sts22-crosslingual-sts" / "test.jsonl")
    home = tmp_path / "AmazonCounterfactualClassification"
    for lang in ("de", "en"):
        for split in ("train", "test"):
            labelled = [{"text": f"{lang} {split} {number}", "label": number % 2} for number in range(16)]
            write_jsonl(labelled, home / lang / f"{split}.jsonl")
    configs = "".join(
        f"- config_name: {lang}\n  data_files:\n  - {{split: train, path: {lang}/train.jsonl}}\n"
        f"  - {{split: test, path: {lang}/test.jsonl}}\n"
        for lang in ("de", "en")
    )
    (home / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    sts, classification = resolve_tasks(["STS22", "AmazonCounterfactualClassification"], data_dir=tmp_path)
    for task, texts in ((sts, "sentence1"), (classification, "text")):
        task.load_data()
        assert task.metadata.revision == "local"
        assert list(task.dataset) == ["en"]
        assert all(text.startswith("en") for text in task.dataset["en"]["test"][texts])
        result, scores = evaluate(task)
        assert scores["hf_subset"] == "en"


def test_the_aggregate_is_the_mean_of_its_parts_from_a_directory(tmp_path):
    (task,) = resolve_tasks(["CQADupstackRetrieval"])
    expected = []
    for number, part in enumerate(task.metadata.tasks):
        place = part.metadata.name if number % 2 else part.metadata.dataset["path"]
        expected.append(write_beir_as_on_the_hub(tmp_path / place, seed=number))
    (local,) = resolve_tasks(["CQADupstackRetrieval"], data_dir=tmp_path)
    result, scores = evaluate(local)
    assert scores["ndcg_at_10"] == pytest.approx(np.mean(expected), abs=1e-5)
    assert (result.task_name, result.dataset_revision) == ("CQADupstackRetrieval", "local")
    assert {part.metadata.revision for part in local.metadata.tasks} == {"local"}
    assert task.metadata.revision != "local"
    assert all(part.metadata.revision != "local" for part in task.metadata.tasks)


@pytest.mark.parametrize(
    ("name", "missing", "hub"),
    [
        ("SciFact", "SciFact", "mteb/scifact"),
        ("STS12", "STS12", "mteb/sts12-sts"),
        ("NarrativeQARetrieval", "NarrativeQARetrieval", "deepmind/narrativeqa"),
        ("CQADupstackRetrieval", "CQADupstackAndroidRetrieval", "mteb/CQADupstackAndroidRetrieval"),
        ("LoCoQMSum", "LoCoQMSum", "tau/scrolls"),
    ],
)
def test_data_that_cannot_be_had(tmp_path, name, missing, hub):
    (task,) = resolve_tasks([name], data_dir=tmp_path)
    with pytest.raises(LoadingError) as raised:
        evaluate(task)
    message = str(raised.value)
    assert message.startswith(f"{missing}: no data set {hub}: it is not in {tmp_path}")
    assert "OfflineModeIsEnabled" in message and "without HF_HUB_OFFLINE" in message
    assert f"hf download {hub} --repo-type dataset --revision " in message
    assert message.endswith(f"--local-dir {tmp_path}/{hub}")
    assert ("--include 'qmsum/validation/*'" in message) == (name == "LoCoQMSum")  # of gigabytes
    assert loading_error(task, raised.value, tmp_path) == message
    (task,) = resolve_tasks([name])
    with pytest.raises(LoadingError, match="give --data_dir DIR here: hf download .* --local-dir DIR/"):
        evaluate(task)


def test_the_command_to_fetch_data_can_be_typed_as_it_is_printed(tmp_path):
    (tmp_path / "my data").mkdir()
    (task,) = resolve_tasks(["SciFact"], data_dir=tmp_path / "my data")
    message = loading_error(task, ConnectionError("no hub"), tmp_path / "my data")
    assert message.endswith(f"--local-dir '{tmp_path / 'my data'}'/mteb/scifact")


def test_a_directory_that_is_not_laid_out_as_on_the_hub(tmp_path):
    write_beir_as_on_the_hub(tmp_path / "SciFact")
    (tmp_path / "SciFact" / "README.md").unlink()
    with pytest.raises(LoadingError, match="SciFact could not be read .* README.md .* hf download mteb/scifact"):
        resolve_tasks(["SciFact"], data_dir=tmp_path)[0].load_data()
    with pytest.raises(FileNotFoundError, match="nowhere: no such directory"):
        resolve_tasks(["SciFact"], data_dir=tmp_path / "nowhere")


def test_errors_of_the_model_are_not_taken_for_missing_data(tmp_path):
    write_beir_as_on_the_hub(tmp_path / "SciFact")
    (task,) = resolve_tasks(["SciFact"], data_dir=tmp_path)
    task.load_data()
    assert loading_error(task, RuntimeError("bad shape"), tmp_path) == "RuntimeError: bad shape"


def test_a_task_made_of_another_keeps_its_choices():
    task = mteb.get_task("MassiveIntentClassification", hf_subsets=["de", "fr"], eval_splits=["validation"])
    new = with_data_dir(task, None)
    assert (new.hf_subsets, list(new.eval_splits)) == (["de", "fr"], ["validation"])
    new.hf_subsets.append("en")
    assert task.hf_subsets == ["de", "fr"]
