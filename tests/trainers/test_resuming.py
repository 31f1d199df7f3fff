"""A run that is started again: at its end, with other settings, or from a checkpoint that is damaged or hostile."""

import json
import os
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.trainers.toys import blocks, contrastive_trainer, encoder, mlm_trainer, pairs, tokenizer
from trainers import checkpoints, latest_checkpoint
from trainers.checkpoints import FILES_FILE
from trainers.resuming import ResumeError, require_unchanged
from trainers.run_settings import SETTINGS_FILE

SAVING = {"save_strategy": "steps", "save_steps": 2}


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A contrastive run that was trained to its end, step 4, inside an epoch."""
    directory = tmp_path_factory.mktemp("begun")
    trainer = contrastive_trainer(directory, max_steps=4, lr_scheduler_type="inverse_sqrt", warmup_steps=1, **SAVING)
    trainer.train()
    return directory, weights(trainer)


@pytest.fixture
def resume(begun, tmp_path):
    """Resume a copy of the run, with changed settings."""

    def run(model=None, train=None, change=None, **settings):
        directory = tmp_path / "copy"
        if not directory.exists():
            shutil.copytree(begun[0], directory)
        if change:  # and in such a way that the checkpoint's own description of its files shows nothing
            (directory / "checkpoint-4" / FILES_FILE).unlink()
            change(directory / "checkpoint-4")
        settings = {"max_steps": 4, "lr_scheduler_type": "inverse_sqrt", "warmup_steps": 1, **SAVING, **settings}
        trainer = contrastive_trainer(directory, model, train, **settings)
        trainer.train(resume_from_checkpoint=True)
        return trainer

    return run


@pytest.mark.parametrize("schedule", ["linear", "constant", "inverse_sqrt", "cosine"])
@pytest.mark.parametrize("make", [contrastive_trainer, mlm_trainer])
def test_resumed_at_its_last_step_a_run_takes_no_further_one(tmp_path, make, schedule):
    settings = {"max_steps": 4, "lr_scheduler_type": schedule, "warmup_steps": 1, **SAVING}
    first = make(tmp_path, **settings)
    first.train()
    again = make(tmp_path, **settings)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 4
    assert all(torch.equal(value, weights(again)[name]) for name, value in weights(first).items())


def test_beyond_its_last_step_too(begun, resume, capsys):
    trainer = resume(max_steps=2)
    assert trainer.state.global_step == 4 and "ends here, without another step" in capsys.readouterr().out
    assert all(torch.equal(value, weights(trainer)[name]) for name, value in begun[1].items())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"seed": 12}, r"arguments.seed was 11, is 12"),
        ({"scale": 20.0}, r"arguments.scale was 50.0, is 20.0"),
        ({"learning_rate": 2e-2}, r"arguments.learning_rate was 0.01, is 0.02"),
        ({"matryoshka_dims": [8, 16]}, r"arguments.matryoshka_dims was null, is \[8, 16\]"),
        ({"document_max_length": 9}, r"arguments.document_max_length was 2048, is 9"),
        ({"query_max_length": 9}, r"arguments.query_max_length was 2048, is 9"),
        ({"prompts": {"query": "word0 ", "document": ""}}, 'arguments.prompts.document was "word1 word1 ", is ""'),
        ({"global_batch_size": 4}, r"arguments.global_batch_size was 8, is 4"),
        ({"num_hard_negatives": 1}, r"arguments.num_hard_negatives was 2, is 1"),
        ({"weight_decay": 0.1}, r"arguments.weight_decay was 0.0, is 0.1"),
        ({"lr_scheduler_type": "constant"}, 'arguments.lr_scheduler_type was "inverse_sqrt", is "constant"'),
        ({"warmup_steps": 3}, r"arguments.warmup_steps was 1, is 3"),
        ({"source_weights": {"a": 2}}, r"arguments.source_weights"),
        ({"model": encoder(resid_pdrop=0.1)}, "model.hidden_dropout_prob was 0.0, is 0.1"),
        ({"train": {"a": pairs(19, seed=8, negatives=[3, 1]), "b": pairs(9, seed=2, negatives=[2])}}, "data.a.digest"),
        ({"train": {"a": pairs(19, seed=1, negatives=[3, 1])}}, "data.b was"),
    ],
)
def test_other_settings_are_refused_with_the_old_and_the_new_value(resume, settings, named):
    with pytest.raises(ResumeError, match=named):
        resume(**settings)


def test_what_changes_no_weight_may_differ(begun, resume):
    trainer = resume(chunk_tokens=40, logging_steps=2, save_steps=3, dataloader_num_workers=1, save_total_limit=5)
    assert all(torch.equal(value, weights(trainer)[name]) for name, value in begun[1].items())


def test_more_steps_are_trained_and_the_schedules_part_in_it_is_said(resume, capsys):
    assert resume(max_steps=6).state.global_step == 6
    assert "goes on to step 6 in place of 4" in capsys.readouterr().out


def test_fewer_steps_that_are_not_reached_yet_are_refused(tmp_path):
    settings = {"max_steps": 6, **SAVING}
    contrastive_trainer(tmp_path, **settings).train()
    with pytest.raises(ResumeError, match="steps was 6, is 3"):
        contrastive_trainer(tmp_path, **{**settings, "max_steps": 3}).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-2")
        )


def test_another_start_is_refused_and_the_same_one_elsewhere_is_not(tmp_path):
    for name, model in {"a": encoder(), "b": encoder(), "other": encoder()}.items():
        if name == "other":
            model.encoder.layers[0].attn.Wqkv.weight.data[0] += 1e-3
        model.save_pretrained(tmp_path / name)
    settings = {"max_steps": 4, **SAVING}
    load = type(encoder()).from_pretrained
    contrastive_trainer(tmp_path / "run", load(tmp_path / "a"), **settings).train()
    contrastive_trainer(tmp_path / "run", load(tmp_path / "b"), **settings).train(resume_from_checkpoint=True)
    with pytest.raises(ResumeError, match="start.checkpoint"):
        contrastive_trainer(tmp_path / "run", load(tmp_path / "other"), **settings).train(resume_from_checkpoint=True)


def test_other_blocks_are_refused(tmp_path):
    settings = {"max_steps": 2, **SAVING}
    mlm_trainer(tmp_path, **settings).train()
    with pytest.raises(ResumeError, match="data.blocks.digest"):
        mlm_trainer(tmp_path, train=blocks(26, seed=9), **settings).train(resume_from_checkpoint=True)


def test_a_checkpoint_of_older_versions_is_compared_by_the_names_that_both_have(resume):
    def drop_a_name(checkpoint):
        settings = json.loads((checkpoint / SETTINGS_FILE).read_text())
        del settings["arguments"]["seed"]
        settings["arguments"]["of_an_older_version"] = 1
        (checkpoint / SETTINGS_FILE).write_text(json.dumps(settings))

    assert resume(change=drop_a_name).state.global_step == 4


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def rename_a_weight(checkpoint):
    state = load_file(checkpoint / "model.safetensors")
    state["encoder.layers.0.attn.qkv.weight"] = state.pop("encoder.layers.0.attn.Wqkv.weight")
    save_file(state, checkpoint / "model.safetensors", metadata={"format": "pt"})


def drop_a_weight(checkpoint):
    state = load_file(checkpoint / "model.safetensors")
    del state["emb_ln.weight"]
    save_file(state, checkpoint / "model.safetensors", metadata={"format": "pt"})


def cut(name):
    def change(checkpoint):
        content = (checkpoint / name).read_bytes()
        (checkpoint / name).write_bytes(content[: len(content) // 2])

    return change


def pickled_weights(checkpoint):
    torch.save(load_file(checkpoint / "model.safetensors"), checkpoint / "pytorch_model.bin")


def spoil_a_weight(checkpoint):
    state = load_file(checkpoint / "model.safetensors")
    state["emb_ln.weight"][0] = torch.nan
    save_file(state, checkpoint / "model.safetensors", metadata={"format": "pt"})


def holds(name, value):
    """A state file that is read as data, and holds something else than a trainer writes."""

    def change(checkpoint):
        path = checkpoint / name
        path.write_text(json.dumps(value)) if name.endswith(".json") else torch.save(value, path)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (holds("optimizer.pt", [1]), "state of the optimizer, the schedule or the random numbers does not fit"),
        (
            holds("optimizer.pt", {"state": {}, "param_groups": []}),
            "does not fit this run .ValueError: loaded state dict",
        ),
        (holds("scheduler.pt", torch.zeros(2)), "does not fit this run"),
        (holds("rng_state.pth", {"python": 1}), "does not fit this run"),
        (holds("trainer_state.json", {"global_step": 4, "own": 1}), "trainer_state.json cannot be used"),
        (holds("trainer_state.json", {"global_step": 4, "log_history": 3}), "trainer_state.json cannot be used"),
        (holds(SETTINGS_FILE, [1]), f"{SETTINGS_FILE} is not a JSON object"),
        (holds(SETTINGS_FILE, {"arguments": 1}), f"{SETTINGS_FILE} does not hold the settings of a run"),
    ],
)
def test_states_of_something_else_are_refused_with_the_remedy(resume, change, message):
    with pytest.raises(ResumeError, match=f"checkpoint-4.*{message}.*Remove .*checkpoint-4") as caught:
        resume(change=change, max_steps=6)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (rename_a_weight, ResumeError, "missing encoder.layers.0.attn.Wqkv.weight; not in the model .*qkv.weight"),
        (drop_a_weight, ResumeError, "missing emb_ln.weight; not in the model none"),
        (lambda c: (c / "model.safetensors").unlink(), ResumeError, "its weights cannot be read"),
        (cut("model.safetensors"), ResumeError, "its weights cannot be read"),
        (pickled_weights, ResumeError, "pytorch_model.bin is a pickle"),
        (spoil_a_weight, FloatingPointError, "1 of 22 weights are not finite .emb_ln.weight."),
        (lambda c: (c / "optimizer.pt").unlink(), ResumeError, "lacks optimizer.pt"),
        (lambda c: (c / "scheduler.pt").unlink(), ResumeError, "lacks scheduler.pt"),
        (cut("optimizer.pt"), ResumeError, "optimizer.pt is damaged"),
        (cut("rng_state.pth"), ResumeError, "rng_state.pth is damaged"),
        (cut(SETTINGS_FILE), ValueError, f"{SETTINGS_FILE} is not valid JSON"),
    ],
)
def test_a_damaged_checkpoint_is_refused_and_the_part_is_named(resume, change, error, message):
    with pytest.raises(error, match=message) as caught:
        resume(change=change)
    assert "\n" not in str(caught.value)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [flip_a_bit, lambda path: os.truncate(path, 0), lambda path: path.unlink()])
def test_no_file_of_a_checkpoint_is_taken_if_it_is_not_what_was_saved(begun, tmp_path, damage):
    names = [file.name for file in (begun[0] / "checkpoint-4").iterdir()]
    assert {"model.safetensors", "optimizer.pt", "trainer_state.json", SETTINGS_FILE, FILES_FILE} <= set(names)
    for name in names:
        shutil.copytree(begun[0], tmp_path / name)
        damage(tmp_path / name / "checkpoint-4" / name)
        checkpoint = latest_checkpoint(tmp_path / name)
        assert checkpoint is not None
        if name == FILES_FILE and not (checkpoint / name).exists():
            continue  # as after a kill before it was written
        with pytest.raises(ResumeError, match=f"{name} .*Remove .*checkpoint-4"):
            require_unchanged(checkpoint)


def test_a_changed_file_is_refused_in_one_line(begun, tmp_path):
    shutil.copytree(begun[0], tmp_path / "copy")
    flip_a_bit(tmp_path / "copy" / "checkpoint-4" / "optimizer.pt")
    trainer = contrastive_trainer(tmp_path / "copy", max_steps=4, lr_scheduler_type="inverse_sqrt", warmup_steps=1)
    with pytest.raises(ResumeError, match="checkpoint-4/optimizer.pt was changed .*Remove") as caught:
        trainer.train(resume_from_checkpoint=True)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_whose_last_file_was_not_written_gets_it(begun, resume, tmp_path):
    resume(change=lambda checkpoint: (checkpoint / f".partial-0123456789abcdef-{FILES_FILE}").write_text("half"))
    described, again = (
        json.loads((each / "checkpoint-4" / FILES_FILE).read_text())["files"] for each in (begun[0], tmp_path / "copy")
    )
    assert described == again and {"model.safetensors", "optimizer.pt", "trainer_state.json"} <= described.keys()


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_no_code_in_a_checkpoint_is_run(resume, tmp_path, name, save):
    with pytest.raises(ResumeError, match=f"{name} is damaged, or is not mere data"):
        resume(change=lambda checkpoint: save(RunsCode(tmp_path / "ran"), checkpoint / name))
    assert not (tmp_path / "ran").exists()


def test_an_index_of_weights_that_leads_out_of_the_checkpoint_is_refused(resume):
    def change(checkpoint):
        (checkpoint / "model.safetensors").rename(checkpoint.parent / "outside.safetensors")
        index = {
            "weight_map": dict.fromkeys(load_file(checkpoint.parent / "outside.safetensors"), "../outside.safetensors")
        }
        (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))

    with pytest.raises(ResumeError, match="leads out of the directory"):
        resume(change=change)


def test_a_checkpoint_holds_no_pickled_arguments(begun):
    assert not list(begun[0].rglob("training_args.bin"))


def test_older_checkpoints_go_after_the_new_one_is_on_the_disk(tmp_path, monkeypatch):
    """Whatever is removed, the checkpoint just written was synced before, with its name."""
    module = checkpoints
    events = []
    sync_directory, remove = module.sync_directory, module.remove_checkpoint
    monkeypatch.setattr(
        module, "sync_directory", lambda path: events.append(("sync", path.name)) or sync_directory(path)
    )
    monkeypatch.setattr(module, "remove_checkpoint", lambda path: events.append(("remove", path.name)) or remove(path))
    monkeypatch.setattr(module, "sync_tree", lambda path: events.append(
        ("sync", path.name, (path / FILES_FILE).exists())))  # fmt: skip
    contrastive_trainer(tmp_path, max_steps=3, save_strategy="steps", save_steps=1, save_total_limit=1).train()
    first = events.index(("remove", "checkpoint-1"))
    assert events[first - 2 : first] == [("sync", "checkpoint-2", True), ("sync", tmp_path.name)]
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-3"


def test_what_makes_a_checkpoint_complete_comes_after_the_rest_is_on_the_disk(tmp_path, monkeypatch):
    """First everything but trainer_state.json is synced, then that with files.json."""
    synced = []
    monkeypatch.setattr(checkpoints, "sync_tree", lambda path: synced.append({each.name for each in path.iterdir()}))
    contrastive_trainer(tmp_path, max_steps=1, warmup_steps=0, save_strategy="steps", save_steps=1).train()
    before, after = synced
    assert {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", SETTINGS_FILE} <= before
    assert after - before == {"trainer_state.json", FILES_FILE}


def test_the_tokenizer_is_saved_as_it_was_given_whether_texts_were_read_or_not(begun, tmp_path):
    """Resumed at its end, a run reads no text; what it leaves must be the same."""
    tokenizer().save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (begun[0] / "checkpoint-4" / name).read_text() == (tmp_path / name).read_text()


BEST = {
    "load_best_model_at_end": True,
    "metric_for_best_model": "loss",
    "greater_is_better": True,
    "eval_strategy": "steps",
    "eval_steps": 2,
}


@pytest.fixture(scope="module")
def with_best(tmp_path_factory):
    """A run whose best checkpoint is not its last; returns the directory and that step."""
    directory = tmp_path_factory.mktemp("best")
    settings = {"max_steps": 4, **SAVING, **BEST}
    trainer = contrastive_trainer(directory, **settings)
    trainer.train()
    assert trainer.state.best_global_step == 2, "the greatest loss is to be the earlier one"
    return directory, settings, weights(trainer)


def test_a_run_that_was_moved_finds_its_best_checkpoint(with_best, tmp_path):
    """transformers looks for it at the old place, and takes the last step for the best with a mere warning."""
    directory, settings, best = with_best
    shutil.copytree(directory, tmp_path / "moved")
    state_file = tmp_path / "moved" / "checkpoint-4" / "trainer_state.json"
    state = json.loads(state_file.read_text())
    state["best_model_checkpoint"] = str(tmp_path / "elsewhere" / "checkpoint-2")
    state_file.write_text(json.dumps(state))
    (state_file.parent / FILES_FILE).unlink()
    trainer = contrastive_trainer(tmp_path / "moved", **settings)
    trainer.train(resume_from_checkpoint=True)
    assert all(torch.equal(value, best[name]) for name, value in weights(trainer).items())


@pytest.mark.parametrize("damage", [shutil.rmtree, lambda checkpoint: flip_a_bit(checkpoint / "model.safetensors")])
def test_a_best_checkpoint_that_is_lost_or_damaged_is_refused(with_best, tmp_path, damage):
    directory, settings, _ = with_best
    shutil.copytree(directory, tmp_path / "copy")
    damage(tmp_path / "copy" / "checkpoint-2")
    trainer = contrastive_trainer(tmp_path / "copy", **settings)
    with pytest.raises(ResumeError, match="checkpoint-2.* (the best checkpoint so far, is missing|was changed after)"):
        trainer.train(resume_from_checkpoint=True)
