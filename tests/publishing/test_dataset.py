"""What the steps of curation wrote, published as a person does it: parquet, a card of facts, the upload."""

import json
import shutil

import datasets
import pyarrow.parquet as pq
import pytest
import yaml

import hub_upload
from curation.packing import load_blocks
from nomic_bert.tokenizer_files import open_tokenizer
from recipes import embed, filter_pairs, make_pairs, mine_negatives, pack_corpus
from tests.checkpoints import save_nomic
from tests.publishing.fake_hub import Repository
from textfiles.rows import rows_of
from textfiles.writing import write_jsonl

WORDS = ["river", "stone", "house", "light", "paper", "water", "night", "field"]
PREFIXES = {"query_prefix": "search_query", "document_prefix": "search_document"}


def title(number):
    return f"{WORDS[number % 8]} <b>{number}</b>"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Raw rows -> pairs -> filtered -> with negatives; blocks; vectors."""
    folder = tmp_path_factory.mktemp("outputs")
    model = save_nomic(folder / "secret-folder" / "judge")
    rows = [{"title": title(n), "body": f"about {title(n)} and more", "year": 1900 + n} for n in range(24)]
    write_jsonl([*rows, {"title": " ", "body": "x", "year": None}], folder / "raw.jsonl.gz")
    raw = {"name": "faq", "path": str(folder / "raw.jsonl.gz"), "query": "title", "document": "body", "keep": ["year"]}
    make_pairs.main(["--sources", json.dumps([raw]), "--output_dir", str(folder / "pairs"), "--rows_per_shard", "10"])
    source = {"name": "faq", "path": str(folder / "pairs" / "faq"), **PREFIXES}
    run = ["--model_name_or_path", str(model)]
    filter_pairs.main(
        [*run, "--sources", json.dumps([source]), "--output_dir", str(folder / "filtered"), "--top_k", "20"]
    )
    source["path"] = str(folder / "filtered" / "faq" / "kept")
    mine = ["--num_negatives", "3", "--output_dir", str(folder / "mined")]
    mine_negatives.main([*run, "--sources", json.dumps([source]), *mine])
    write_jsonl([{"text": " ".join(WORDS * 9)} for _ in range(9)], folder / "documents.jsonl")
    pack = ["--documents", f"[{folder}/documents.jsonl]", "--tokenizer", str(model), "--block_size", "32"]
    pack_corpus.main([*pack, "--output_dir", str(folder / "blocks")])
    corpus = ["--texts", str(folder / "documents.jsonl"), "--rows_per_shard", "4", "--columns", "[text]"]
    embed.main([*run, *corpus, "--output_dir", str(folder / "vectors")])
    return folder


def write(outputs, name, directory, *words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub_upload.huggingface_hub, "get_token", lambda: None)
        hub_upload.main(["--dataset", str(outputs / name), "me/data", "--output_dir", str(directory), *words])
    return (directory / "README.md").read_text()


def loaded(directory, config, tmp_path):
    """As a user of the hub reads it."""
    return datasets.load_dataset(str(directory), config, split="train", cache_dir=str(tmp_path / "cache"))


def test_mined_pairs_are_read_back_and_the_card_tells_every_step(outputs, tmp_path):
    card = write(outputs, "mined", tmp_path / "hub", "--license", "cc-by-4.0", "--language", "en")
    wanted = [row for file in sorted((outputs / "mined" / "faq").glob("*.jsonl.gz")) for row in rows_of(file)]
    rows = loaded(tmp_path / "hub", "faq", tmp_path)
    assert rows.to_list() == wanted and len(wanted) > 5
    assert rows.features["negatives"] == datasets.List(datasets.Value("string"))
    assert rows.features["year"] == datasets.Value("int64")
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["license"] == "cc-by-4.0" and metadata["language"] == ["en"]
    assert metadata["configs"] == [{"config_name": "faq", "data_files": "data/faq/*.parquet"}]
    assert metadata["size_categories"] == ["n<1K"] and "nomic-embed-hf" in metadata["tags"]
    kept = json.loads((outputs / "filtered" / "faq" / "audit.json").read_text())["kept"]
    made, filtered, mined = (line for line in card.splitlines() if line[:2] in ("1.", "2.", "3."))
    assert "by a rule" in made and "query `title`, document `body`" in made
    assert "rows 25, pairs 24, left out: no query 1" in made
    assert f"rows 24, kept {kept}, dropped {24 - kept}" in filtered and "top\\_k 20" in filtered
    assert "model `judge`" in filtered and "num\\_negatives 3" in mined and f"mined {kept}" in mined
    assert "1 local file, `raw.jsonl.gz`" in card and "not recorded" in card
    assert (tmp_path / "hub" / "lengths.png").stat().st_size > 1_000
    longest = max(len(row["document"]) for row in wanted)
    assert any(
        line.startswith("| `faq` | document | characters |") and f" {longest} |" in line for line in card.splitlines()
    )
    assert "secret-folder" not in card and str(outputs) not in card
    assert "<b>" not in card.replace("    query: ", "").split("## Rows to read")[0]


def test_several_sources_are_several_configurations(outputs, tmp_path):
    both = tmp_path / "both"
    for name in ("one", "the other"):
        raw = [
            {
                "name": name.replace(" ", "-"),
                "path": str(outputs / "raw.jsonl.gz"),
                "query": "title",
                "document": "body",
            }
        ]
        make_pairs.main(["--sources", json.dumps(raw), "--output_dir", str(both)])
    write(tmp_path, "both", tmp_path / "hub")
    assert len(loaded(tmp_path / "hub", "one", tmp_path)) == len(loaded(tmp_path / "hub", "the-other", tmp_path)) == 24


def test_blocks_are_read_back(outputs, tmp_path):
    card = write(outputs, "blocks", tmp_path / "hub")
    blocks = load_blocks(outputs / "blocks", open_tokenizer(outputs / "secret-folder" / "judge"))
    assert loaded(tmp_path / "hub", "blocks", tmp_path).to_list() == blocks.to_list()
    assert "block\\_size 32" in card and "documents 9" in card and "1 local file, `documents.jsonl`" in card
    assert "No licence is stated" in card


def test_vectors_go_as_they_are(outputs, tmp_path):
    card = write(outputs, "vectors", tmp_path / "hub")
    made, published = (
        sorted((outputs / "vectors" / "data").iterdir()),
        sorted((tmp_path / "hub" / "data" / "vectors").iterdir()),
    )
    assert [path.read_bytes() for path in made] == [path.read_bytes() for path in published]
    rows = loaded(tmp_path / "hub", "vectors", tmp_path)
    assert rows.column_names == ["id", "vector", "text"] and len(rows) == 9
    manifest = json.loads((outputs / "vectors" / "manifest.json").read_text())
    assert f"weights `{manifest['model']['weights']}`" in card and "prompt `search_document: `" in card
    assert f"tokens {manifest['tokens']:,}" in card and "secret-folder" not in card


def test_what_is_no_output_of_a_step_is_refused(outputs, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "settings.json").write_text("{}")
    for name, message in (
        ("empty", "is not the output of"),
        ("begun", "has not finished"),
        ("nowhere", "not a directory"),
    ):
        with pytest.raises(SystemExit, match=message):
            hub_upload.main(["--dataset", str(tmp_path / name), "me/data", "--output_dir", str(tmp_path / "hub")])
    for words in (["me/data"], ["checkpoint", "me/data", "--dataset", str(outputs / "mined")]):
        with pytest.raises(SystemExit) as end:
            hub_upload.main(words)
        assert end.value.code == 2
    assert not (tmp_path / "hub").exists()


@pytest.mark.parametrize("name", ["vectors", "blocks", "mined/faq", "pairs/faq"])
@pytest.mark.parametrize("damage", ["bit", "link", "manifest"])
def test_damaged_rows_and_records_are_named_and_links_are_not_followed(outputs, tmp_path, name, damage):
    directory = shutil.copytree(outputs / name, tmp_path / "data")
    rows = next(path for path in sorted(directory.rglob("*")) if path.name.endswith((".parquet", ".arrow", ".gz")))
    if damage == "bit":
        content = bytearray(rows.read_bytes())
        content[len(content) // 2] ^= 1
        rows.write_bytes(content)
        named = rows.name
    elif damage == "link":
        rows.rename(tmp_path / rows.name)
        rows.symlink_to(tmp_path / rows.name)
        named = f"{rows.name} leads out of .*data"
    else:
        (record,) = [path for path in directory.iterdir() if path.name in ("manifest.json", "report.json")]
        record.write_text('{"block_size": 3}' if name == "blocks" else "{}")
        named = "data.*(manifest|report)"
    with pytest.raises(SystemExit, match=f"(?s)error: .*{named}.*(again|copy|must be)"):
        write(directory.parent, "data", tmp_path / "written")
    assert not (tmp_path / "written").exists()


def test_the_plan_is_shown_and_then_uploaded(hub, outputs, tmp_path, capsys):
    words = ["--dataset", str(outputs / "mined"), "me/data", "--output_dir", str(tmp_path / "hub")]
    hub_upload.main(words)
    said = capsys.readouterr().out
    assert "me/data, main: a new data set, public" in said and "add     data/faq/train-00000-of-00001.parquet" in said
    assert hub.repositories == {}
    hub_upload.main([*words, "--yes"])
    hub_upload.main([*words, "--yes"])
    assert "Nothing to upload" in capsys.readouterr().out
    files = hub.repositories["datasets/me/data"].branches["main"][-1]
    assert set(files) == {"README.md", "lengths.png", "data/faq/train-00000-of-00001.parquet"}
    (tmp_path / "copy.parquet").write_bytes(files["data/faq/train-00000-of-00001.parquet"])
    assert pq.read_table(tmp_path / "copy.parquet").column_names[:2] == ["query", "document"]
    old = {**files, "data/faq/train-00000-of-00002.parquet": b"old", "notes.txt": b"mine"}
    hub.repositories["datasets/me/data"] = Repository(private=False, branches={"main": [old]})
    hub_upload.main([*words, "--yes"])
    assert set(hub.repositories["datasets/me/data"].branches["main"][-1]) == {*files, "notes.txt"}
    hub.repositories["datasets/me/data"] = Repository(private=False, branches={"main": [{"a.csv": b"x"}]})
    with pytest.raises(SystemExit, match="--overwrite"):
        hub_upload.main([*words, "--yes"])
