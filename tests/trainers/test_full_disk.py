"""A full disk, by a limit on the size of files: what cannot be written is named, and nothing that was there is lost."""

import resource
import tempfile
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from nomic_bert.embedder import embedder_around
from recipes.shared.training import train_and_save
from tests.trainers.toys import contrastive_trainer, encoder, tokenizer
from textfiles.atomic import DiskFullError, atomic_directory, atomic_file, write_json
from textfiles.writing import write_arrow, write_jsonl
from trainers import latest_checkpoint

SETTINGS = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1, "max_steps": 3}


@contextmanager
def files_of_at_most(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


WRITERS = {
    "numpy": lambda path: np.save(path / "a.npy", np.zeros(5_000)),
    "safetensors": lambda path: save_file({"weight": torch.zeros(5_000)}, path / "a.safetensors"),
    "torch": lambda path: torch.save(torch.zeros(5_000), path / "a.pt"),
    "arrow": lambda path: write_arrow(
        [pa.table({"a": ["text"] * 5_000})], pa.schema([("a", pa.string())]), path / "a.arrow"
    ),
    "json": lambda path: write_json(path / "a.json", ["text"] * 5_000),
    "jsonl": lambda path: write_jsonl([{"a": "text"}] * 5_000, path / "a.jsonl"),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_what_does_not_fit_is_named_once_with_the_remedy_and_the_old_stays(tmp_path, kind):
    with atomic_directory(tmp_path / "model") as written:
        (written / "content").write_text("old")
    with (
        files_of_at_most(4_096),
        pytest.raises(DiskFullError, match=r"^[^(]*model[^(]*could not be written \(.*\)\. Free space") as caught,
        atomic_directory(tmp_path / "model") as written,
    ):
        WRITERS[kind](written)
    assert str(caught.value).count("could not be written") == 1 and "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "content"]


def test_other_errors_stay_as_they_are(tmp_path):
    with pytest.raises(KeyError), atomic_file(tmp_path / "a"):
        raise KeyError("b")


def test_a_stage_keeps_its_last_checkpoint_and_goes_on_when_there_is_space(tmp_path):
    expected = contrastive_trainer(tmp_path / "whole", **SETTINGS)
    expected.train()
    first = contrastive_trainer(tmp_path / "run", **{**SETTINGS, "max_steps": 3})
    save = first._save_optimizer_and_scheduler

    def disk_fills_up(directory):
        if first.state.global_step == 2:
            with files_of_at_most(4_096):
                save(directory)
        else:
            save(directory)

    first._save_optimizer_and_scheduler = disk_fills_up
    with pytest.raises(SystemExit, match=r"^error: .*checkpoint-2 could not be written .*Free space"):
        train_and_save(first, lambda final: None)
    with pytest.warns(UserWarning, match="checkpoint-2 cannot be resumed from"):
        assert latest_checkpoint(tmp_path / "run") == tmp_path / "run" / "checkpoint-1"
    again = contrastive_trainer(tmp_path / "run", **SETTINGS)
    with pytest.warns(UserWarning, match="checkpoint-2 cannot be resumed from"):
        train_and_save(again, lambda final: again.save_model(str(final)))
    for name, weight in expected.model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name])


def test_a_finished_model_that_does_not_fit_is_named(tmp_path):
    trainer = contrastive_trainer(tmp_path / "run", max_steps=1, save_strategy="no", warmup_steps=0)

    def save(final):
        with files_of_at_most(4_096), atomic_directory(final) as written:
            trainer.model.save_pretrained(written)

    with pytest.raises(SystemExit, match=r"^error: .*final could not be written .*Free space"):
        train_and_save(trainer, save)
    assert not (tmp_path / "run" / "final").exists()


def test_where_the_disk_of_temporary_files_is_full_that_one_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "small"))
    (tmp_path / "small").mkdir()
    with (
        pytest.raises(DiskFullError, match=r"small/\w+ could not be written .*Free space"),
        atomic_directory(tmp_path / "final"),
        files_of_at_most(4_096),
    ):
        embedder_around(encoder(), tokenizer())
