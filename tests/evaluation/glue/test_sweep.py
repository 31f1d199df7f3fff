"""What runs start from, what a directory refuses, and what happens when a run fails."""

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from evaluation.glue import sweep as sweep_module
from evaluation.glue import training
from tests.checkpoints import save_nomic
from tests.evaluation.glue.toys import TRAIN_ROWS, arguments, main, remove_results, results, run, write_tsv
from tests.evaluation.glue.toys import rows as made_rows
from textfiles.atomic import DiskFullError


@pytest.fixture
def begun(monkeypatch):
    """Directory name of the checkpoint that each run began with, and the encoder before the first step."""
    seen = {}
    load = training.load_classifier

    def keep(checkpoint, task, **settings):
        model = load(checkpoint, task, **settings)
        seen[task.name] = (checkpoint, {name: weight.clone() for name, weight in model.bert.state_dict().items()})
        return model

    monkeypatch.setattr(training, "load_classifier", keep)
    return seen


@pytest.fixture
def scored(monkeypatch):
    """Do not train: each run's score is what `scores` says by name, 0.5 otherwise; its weights are that number."""
    scores = {}

    def fine_tune(settings, checkpoint, *_, **__):
        score = scores.get(settings.name, 0.5)
        if isinstance(score, Exception):
            raise score
        model = torch.nn.Linear(1, 1)
        model.save_pretrained = lambda directory: (directory / "from").write_text(f"{settings.name}")
        outcome = {
            "scores": dict.fromkeys(("accuracy", "matthews", "pearson"), score),
            **dict.fromkeys(("train_rows", "dev_rows", "train_loss", "steps", "seconds"), 1),
            "history": [],
            "device": "cpu",
        }
        return model, outcome

    monkeypatch.setattr(sweep_module, "fine_tune", fine_tune)
    return scores


def same_weights(state, directory):
    """Whether an encoder is the one stored, as far as it is there; a masked language model has no pooler."""
    stored = load_file(directory / "model.safetensors")
    compared = [
        torch.equal(weight, stored[f"bert.{name}"]) for name, weight in state.items() if f"bert.{name}" in stored
    ]
    return len(compared) > 10 and all(compared)


def test_rte_stsb_and_mrpc_begin_with_the_mnli_encoder_and_others_do_not(place, begun):
    made = run(place, tasks=("rte", "cola", "mnli", "stsb", "mrpc", "qnli"))
    out = place / "out" / "model"
    kept = out / "starts" / "mnli-batch8-rate0.003-seed42"
    assert not same_weights(begun["rte"][1], place / "model"), "MNLI's training changes the encoder"
    for task, (checkpoint, encoder) in begun.items():
        from_mnli = task in ("rte", "stsb", "mrpc")
        assert checkpoint == str(kept if from_mnli else place / "model")
        assert same_weights(encoder, kept if from_mnli else place / "model")
        expected = "mnli: mnli-batch8-rate0.003-seed42" if from_mnli else "encoder"
        assert made[f"{task}-batch8-rate0.003-seed42"]["start"] == expected
    assert set(begun) == {"mnli", "rte", "stsb", "mrpc", "cola", "qnli"}
    mnli = made["mnli-batch8-rate0.003-seed42"]
    assert (
        set(mnli["scores"]) == {"accuracy", "mismatched_accuracy"} and mnli["main_score"] == mnli["scores"]["accuracy"]
    )
    assert not list((out / "work").iterdir()), "locks and checkpoints of finished runs are gone"


REMOTE_CODE = """
from transformers import BertConfig, BertForSequenceClassification, BertModel

class RemoteConfig(BertConfig):
    model_type = "remote_bert"

class RemoteModel(BertModel):
    config_class = RemoteConfig

class RemoteClassifier(BertForSequenceClassification):
    config_class = RemoteConfig
"""


def test_a_models_own_code_runs_if_it_is_trusted_with_a_tokenizer_from_elsewhere(place):
    """As MosaicBERT is published: code in its repository, and no tokenizer."""
    remote = place / "remote"
    config = BertConfig(
        vocab_size=128, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=128,
    )  # fmt: skip
    BertModel(config).save_pretrained(remote)
    (remote / "code_remote.py").write_text(REMOTE_CODE)
    names = {
        "AutoConfig": "RemoteConfig",
        "AutoModel": "RemoteModel",
        "AutoModelForSequenceClassification": "RemoteClassifier",
    }
    settings = json.loads((remote / "config.json").read_text())
    settings |= {"model_type": "remote_bert", "auto_map": {key: f"code_remote.{name}" for key, name in names.items()}}
    (remote / "config.json").write_text(json.dumps(settings))
    argv = [str(remote), *arguments(place, "--tokenizer", place / "model")[1:]]
    with pytest.raises(SystemExit, match="trust_remote_code"):
        main(argv)
    main([*argv, "--trust_remote_code"])
    assert results(place, "remote").keys() == {"cola-batch8-rate0.003-seed42"}
    settings = json.loads((place / "out" / "remote" / "settings.json").read_text())
    assert settings["protocol"]["tokenizer"] == str(place / "model")


def test_a_given_checkpoint_is_begun_with(place, begun):
    save_nomic(place / "tuned", seed=5)
    made = run(place, "--mnli_start", place / "tuned", tasks=("rte",))
    assert same_weights(begun["rte"][1], place / "tuned")
    assert made["rte-batch8-rate0.003-seed42"]["start"].startswith("mnli checkpoint: tuned (")
    config = json.loads((place / "tuned" / "config.json").read_text())
    (place / "tuned" / "config.json").write_text(json.dumps({**config, "n_layer": 3, "num_hidden_layers": 3}))
    with pytest.raises(SystemExit, match="tuned was not made from .*num_hidden_layers is 3, not 2"):
        main(arguments(place, "--mnli_start", place / "tuned", tasks=("rte",)))


def test_without_any_of_these_the_start_is_the_encoder_and_the_table_says_so(place, begun, capsys):
    made = run(place, tasks=("rte",))
    assert same_weights(begun["rte"][1], place / "model")
    assert made["rte-batch8-rate0.003-seed42"]["start"] == "encoder"
    printed = capsys.readouterr().out
    assert "started from encoder, the paper starts from MNLI" in printed
    assert "rte start from the model itself" in printed


GRID = ("--learning_rates", "1e-3", "2e-3", "--seeds", 1, 2, 3)


def mnli(rate, seed):
    return f"mnli-batch8-rate{rate:g}-seed{seed}"


def test_the_median_seed_of_the_best_configuration_is_kept_and_the_others_removed(place, scored):
    scored |= {mnli(1e-3, 1): 0.9, mnli(1e-3, 2): 0.1, mnli(1e-3, 3): 0.2}  # best single run and best mean
    scored |= {mnli(2e-3, 1): 0.3, mnli(2e-3, 2): 0.4, mnli(2e-3, 3): 0.0}  # best median: seed 1
    made = run(place, *GRID, tasks=("mnli", "rte"))
    assert [path.name for path in (place / "out" / "model" / "starts").iterdir()] == [mnli(2e-3, 1)]
    assert {made[name]["start"] for name in made if name.startswith("rte")} == {f"mnli: {mnli(2e-3, 1)}"}
    # a larger grid may choose another run: results that began with the old one are not mixed with new ones
    scored |= {f"mnli-batch8-rate0.004-seed{seed}": 0.8 for seed in (1, 2, 3)}
    with pytest.raises(SystemExit, match=r"rte-batch8-.* started from mnli: .*rate0.002-seed1.*rate0.004-seed2"):
        main(arguments(place, "--learning_rates", "1e-3", "2e-3", "4e-3", *GRID[3:], tasks=("mnli", "rte")))


def test_kept_weights_that_are_gone_are_named(place, scored):
    run(place, *GRID, tasks=("mnli",))
    shutil.rmtree(place / "out" / "model" / "starts")
    with pytest.raises(SystemExit, match="is missing: the weights that rte, stsb and mrpc start from"):
        run(place, *GRID, tasks=("mnli", "rte"))


def test_a_run_is_not_resumed_from_checkpoints_of_another_start(place, monkeypatch):
    given = ("--mnli_start", save_nomic(place / "tuned", seed=5))
    expected = run(place, *given, tasks=("rte",))
    remove_results(place)
    with monkeypatch.context() as patched:
        patched.setattr(training.EpochCallback, "on_epoch_end", lambda *_, **__: sys.exit("stopped"))
        with pytest.raises(SystemExit, match="stopped"):
            run(place, "--save_steps", 3, tasks=("rte",))
    assert list((place / "out" / "model" / "work").glob("rte-*/checkpoint-3"))
    assert run(place, *given, tasks=("rte",)) == expected


def test_results_of_another_start_are_not_mixed(place, scored):
    run(place, tasks=("rte",))
    given = ("--mnli_start", save_nomic(place / "tuned", seed=5))
    with pytest.raises(SystemExit, match="started from encoder, but rte would now start from mnli checkpoint"):
        run(place, *given, tasks=("rte",))


def test_a_model_that_computes_nan_gets_no_result(place, capsys):
    weights = load_file(place / "model" / "model.safetensors")
    weights = {name: torch.full_like(weight, torch.nan) for name, weight in weights.items()}
    save_file(weights, place / "model" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SystemExit, match="1 of 1 runs are not finished"):
        run(place)
    assert "not finite" in capsys.readouterr().out and not results(place)


def test_a_damaged_checkpoint_is_named_with_the_remedy(place, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        patched.setattr(training.EpochCallback, "on_epoch_end", lambda *_, **__: sys.exit("stopped"))
        with pytest.raises(SystemExit, match="stopped"):
            run(place, "--save_steps", 3)
    (file,) = (place / "out" / "model" / "work").glob("*/checkpoint-3/model.safetensors")
    content = bytearray(file.read_bytes())
    content[-9] ^= 1  # one bit of a weight, which still loads
    file.write_bytes(content)
    with pytest.raises(SystemExit, match="not finished"):
        run(place)
    printed = capsys.readouterr().out
    assert f"{file} was changed after it was written" in printed and "Remove" in printed
    shutil.rmtree(file.parent)
    assert len(run(place)) == 1


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, '{"benchmark": "GLUE"}'])
def test_damaged_settings_are_named_with_the_remedy(place, scored, text):
    run(place)
    (place / "out" / "model" / "settings.json").write_text(text)
    with pytest.raises(SystemExit, match=r"settings\.json .*Choose another --output_dir, or remove the directory"):
        run(place)


def test_a_directory_takes_more_tasks_and_runs_but_no_other_settings(place, scored):
    run(place)
    before = json.loads((place / "out" / "model" / "settings.json").read_text())
    assert set(before["data"]) == {"cola_train", "cola_dev"} and before["data"]["cola_train"]["rows"] == TRAIN_ROWS
    made = run(place, "--seeds", 1, 2, tasks=("sst2",))
    assert len(made) == 3
    after = json.loads((place / "out" / "model" / "settings.json").read_text())
    assert set(after["data"]) == {"cola_train", "cola_dev", "sst2_train", "sst2_dev"}
    assert {**after, "data": 0} == {**before, "data": 0}
    for more, said in (
        (("--epochs", 3), "protocol.epochs was 2, is 3"),
        (("--max_seq_length", 64), "protocol.max_seq_length was 128, is 64"),
        (("--weight_decay", 0.1), "protocol.weight_decay was 1e-06, is 0.1"),
    ):
        with pytest.raises(SystemExit, match=f"begun with other settings: {said}"):
            run(place, *more)
    write_tsv(place / "data" / "cola_dev.tsv", made_rows(sweep_module.GLUE["cola"], 5, 9))
    with pytest.raises(SystemExit, match="cola_dev.rows was 20, is 5"):
        run(place)
    save_nomic(place / "model", seed=1)
    with pytest.raises(SystemExit, match="weights was .*, is "):
        run(place, tasks=("sst2",))


def test_a_strange_directory_is_left_alone(place):
    (place / "out" / "model").mkdir(parents=True)
    (place / "out" / "model" / "thesis.tex").touch()
    with pytest.raises(SystemExit, match="is not a directory of GLUE results"):
        run(place)


def test_what_a_killed_process_left_neither_refuses_the_directory_nor_stays(place, scored):
    out = place / "out" / "model"
    out.mkdir(parents=True)
    (out / ".partial-0123456789abcdef-settings.json").write_text("{")  # killed before it had written its settings
    run(place)
    (out / "work" / "cola-batch8-rate0.003-seed42" / "checkpoint-2").mkdir(parents=True)  # killed after its result
    (out / "work" / "cola-batch8-rate0.003-seed42.lock").touch()
    run(place)
    assert not list((out / "work").iterdir()) and not list(out.glob(".partial-*"))


def test_a_run_that_fails_is_named_and_others_go_on(place, scored, capsys):
    scored |= {mnli(3e-3, 42): RuntimeError("out of memory")}
    with pytest.raises(SystemExit, match="2 of 3 runs are not finished"):
        run(place, tasks=("mnli", "rte", "cola"))
    printed = capsys.readouterr()
    assert "mnli-batch8-rate0.003-seed42: RuntimeError: out of memory" in printed.out
    assert "mnli-batch8-rate0.003-seed42: failed, see" in printed.err
    assert "rte-batch8-rate0.003-seed42: not run" in printed.err, "it waits for MNLI"
    assert list(results(place)) == ["cola-batch8-rate0.003-seed42"]
    scored.clear()
    assert len(run(place, tasks=("mnli", "rte", "cola"))) == 3, "failed runs are tried again"


def test_why_a_run_fails_is_told_before_it_is_kept_for_which_there_may_be_no_space(place, scored, capsys, monkeypatch):
    def full(path, text):
        if "Traceback" not in text:
            return path.write_text(text)
        raise DiskFullError(f"{path} could not be written. Free space.")

    monkeypatch.setattr(sweep_module, "write_text", full)
    scored["cola-batch8-rate0.003-seed42"] = RuntimeError("out of memory")
    with pytest.raises(SystemExit, match=r"^error: .*cola-\S* could not be written"):
        run(place)
    assert "cola-batch8-rate0.003-seed42: RuntimeError: out of memory" in capsys.readouterr().out


def test_finished_runs_are_not_done_again(place, scored):
    run(place)
    scored["cola-batch8-rate0.003-seed42"] = AssertionError("it was done again")
    assert len(run(place, "--seeds", 42, 43)) == 2
    remove_results(place)
    with pytest.raises(SystemExit):
        run(place)
