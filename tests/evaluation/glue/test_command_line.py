"""The command line from data to table, in one process."""

import json
import os

import pytest
from transformers import BertConfig, BertModel

from evaluation.glue import command as command_line
from evaluation.glue.protocol import TIERS
from evaluation.glue.results import TASKS, is_glue_directory, read_runs, summarise
from evaluation.glue.tasks import GLUE
from tests.checkpoints import save_nomic, save_tokenizer
from tests.evaluation.glue.toys import DEV_ROWS, TRAIN_ROWS, arguments, main, run


def test_all_eight_tasks_make_a_table_with_an_average(place, capsys):
    made = run(place, "--epochs", 10, tasks=tuple(GLUE))
    out = place / "out" / "model"
    assert is_glue_directory(out) and len(made) == 8
    summary = json.loads((out / "summary.json").read_text())
    scores = {task: summary["tasks"][task]["score"] for task in TASKS}
    assert summary["average"] == pytest.approx(sum(scores.values()) / 8)
    assert scores == {task: found.score for task, found in summarise(read_runs(out)).items()}
    printed = capsys.readouterr().out
    assert all(f"{title} " in printed for title in TASKS.values()) and f"average {summary['average']:.4f}" in printed
    for content in made.values():
        assert (content["train_rows"], content["dev_rows"], content["epochs"]) == (TRAIN_ROWS, DEV_ROWS, 10)
        assert content["steps"] == 40 and len(content["history"]) == 10
        assert content["main_metric"] == GLUE[content["task"]].metric
        assert content["weights"] == json.loads((out / "settings.json").read_text())["weights"]
        assert {"torch", "transformers", "python"} <= set(content["versions"])
    # a task that can be told from the first letter is learned
    assert scores["sst2"] == 1.0 and scores["cola"] == 1.0
    assert (
        made["sst2-batch8-rate0.003-seed42"]["history"][0]["train_loss"]
        > 3 * made["sst2-batch8-rate0.003-seed42"]["train_loss"]
    )


def test_another_models_architecture_is_trained_too(place):
    config = BertConfig(
        vocab_size=128, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(place / "bert")
    save_tokenizer(place / "bert")
    main(["--label", "small-bert", *arguments(place)[1:], "--", str(place / "bert")])
    (finished,) = read_runs(place / "out" / "small-bert")
    assert (finished.model, finished.task) == ("small-bert", "cola")


def test_several_models_share_the_command(place):
    save_nomic(place / "second", seed=1)
    main([str(place / "second"), *arguments(place)])
    found = {label: read_runs(place / "out" / label)[0] for label in ("model", "second")}
    assert found["model"].weights != found["second"].weights and found["second"].model == "second"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--save_steps", "0"], "--save_steps"),
        (["--seeds", "1", "1"], "--seeds"),
        (["--label", "a/b"], "--label a/b"),
        (["--file", "cola_train"], "SPLIT=PATH"),
        (["--mnli_start", "model"], "none is among the --tasks"),
        (["--tasks", "rte", "--file", "rte_dev=gone.tsv"], r"rte_dev at gone\.tsv"),
    ],
)
def test_what_cannot_be_meant_is_said_before_anything_is_done(place, more, said):
    with pytest.raises(SystemExit, match=said):
        main([*arguments(place), *more])
    assert not (place / "out").exists()


def test_models_are_checked_and_told_apart(place):
    with pytest.raises(SystemExit, match="nothing is not a checkpoint"):
        main([str(place / "nothing"), *arguments(place)[1:]])
    save_nomic(place / "other" / "model")
    with pytest.raises(SystemExit, match="two models have the label 'model'"):
        main([str(place / "other" / "model"), *arguments(place)])
    with pytest.raises(SystemExit, match="are for a single model"):
        main([str(place / "other" / "model"), *arguments(place, "--label", "x")])


def test_a_process_uses_one_gpu(monkeypatch, capsys):
    """Trainer would use all that it sees, and the batch would be as many times larger."""
    for visible, expected in (("4,GPU-7", "4"), (None, "0")):
        monkeypatch.setattr(command_line.torch.cuda, "device_count", lambda: 2)
        if visible is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        command_line.use_one_gpu()
        assert os.environ["CUDA_VISIBLE_DEVICES"] == expected
        assert f"Using GPU {expected}" in capsys.readouterr().out
    monkeypatch.setattr(command_line.torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    command_line.use_one_gpu()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"


def test_help_says_what_tiers_cost(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert (
        f"240 runs, {TIERS['full'].steps(10):,} steps" in " ".join(printed.split())
        and "estimated, not measured" in printed
    )
