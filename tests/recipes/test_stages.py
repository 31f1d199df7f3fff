"""What a stage says when it cannot start; the quickstart's test runs the stages themselves."""

import gzip
import json

import pytest

from recipes import stage1, stage2, stage3

PREFIXES = {"query_prefix": "search_query", "document_prefix": "search_document"}


@pytest.fixture
def start(tmp_path):
    """Run a contrastive stage on one source with the given fields."""

    def run(with_negatives=False, settings=(), **source):
        sources = json.dumps([{"name": "mine", "path": str(tmp_path / "pairs.jsonl"), **PREFIXES, **source}])
        argv = ["--output_dir", str(tmp_path / "out"), "--use_cpu", "true", "--report_to", "none"]
        argv += ["--model_name_or_path", str(tmp_path / "model"), "--sources", sources, *settings]
        with pytest.raises(SystemExit) as error:
            (stage3 if with_negatives else stage2).main(argv)
        assert not (tmp_path / "out" / "final").exists()
        return str(error.value)

    return run


def test_a_missing_model_is_named(start, tmp_path):
    assert f"{tmp_path}/model is not a checkpoint" in start()


def test_sources_are_checked_by_key_and_stage(start):
    assert "sources[0]" in start(querry="text") and "'query'" in start(querry="text")
    assert "takes no hard negatives" in start(negatives="negatives")
    assert "stage 2 takes no hard negatives" in start(settings=["--num_hard_negatives", "1"])
    assert "needs hard negatives" in start(with_negatives=True, settings=["--num_hard_negatives", "2"])
    assert "num_hard_negatives" in start(with_negatives=True, negatives="negatives")


def test_unknown_keys_are_refused_with_the_nearest(start):
    assert "did you mean 'learning_rate'" in start(settings=["--learning_rat", "1e-4"])


def test_bad_rows_are_named_by_file_and_line(start, tmp_path, monkeypatch):
    monkeypatch.setattr("recipes.shared.contrastive.require_checkpoint", lambda path: None)
    monkeypatch.setattr("recipes.shared.contrastive.open_tokenizer", lambda path: None)
    monkeypatch.setattr("recipes.shared.contrastive.NomicBertModel.from_pretrained", lambda path: None)
    (tmp_path / "pairs.jsonl").write_text('{"query": "a", "document": "b"}\n{"query": "a", "document": " "}\n')
    assert "pairs.jsonl, line 2" in start()
    (tmp_path / "pairs.jsonl").write_text("")
    assert "'mine'" in start() and "no rows" in start()
    with gzip.open(tmp_path / "cut.jsonl.gz", "wt") as file:
        file.write('{"query": "a", "document": "b"}\n' * 5000)
    (tmp_path / "cut.jsonl.gz").write_bytes((tmp_path / "cut.jsonl.gz").read_bytes()[:-20])
    assert "cut.jsonl.gz" in start(path=str(tmp_path / "cut.jsonl.gz"))


def test_stage_1_names_missing_blocks_and_tokenizers(tmp_path):
    argv = ["--output_dir", str(tmp_path), "--train_data", str(tmp_path / "blocks"), "--model", "{}"]
    with pytest.raises(SystemExit, match="tokenizer"):
        stage1.main([*argv, "--tokenizer", str(tmp_path / "tokenizer")])
