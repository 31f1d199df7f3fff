import json

import pytest

from evaluation import long_context, mteb_run
from evaluation.harness import commands
from evaluation.harness.runner import Outcome
from evaluation.mteb_run import main
from tests.checkpoints import save_other
from tests.commands import refusal


def revisions(out, model):
    return sorted(path.name for path in (out / "results" / model).iterdir())


def test_mteb_run_evaluates_and_says_what_next(nomic, task_file, tmp_path, capsys):
    main([str(nomic), "--local_tasks", str(task_file), "--output_dir", str(tmp_path / "my out"), "--device", "cpu"])
    printed = capsys.readouterr().out
    assert "local/run-final, 256 tokens" in printed and "toy_sts" in printed and "cosine_spearman" in printed
    assert f"python -m evaluation.report '{tmp_path / 'my out'}'" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "SciFacts"], r"unknown task 'SciFacts'; did you mean 'SciFact'"),
        (["--benchmark", "MTEB(eng, v9)"], r"unknown benchmark 'MTEB\(eng, v9\)'; did you mean 'MTEB\(eng, v[12]\)'"),
        (["--prompts", "[1]"], r"--prompts '\[1\]': not a mapping"),
        (["--prompts", '{"query": '], "--prompts .*; use"),
    ],
)
def test_what_cannot_be_meant_ends_with_one_line(nomic, task_file, tmp_path, arguments, message):
    if "--prompts" in arguments:
        arguments = [*arguments, "--local_tasks", str(task_file)]
    with pytest.raises(SystemExit, match=message):
        main([str(nomic), "--output_dir", str(tmp_path / "out"), *arguments])
    assert not (tmp_path / "out" / "results").exists()


@pytest.mark.parametrize(
    ("command", "option", "least"),
    [(mteb_run, "--max_seq_length", 4), (long_context, "--lengths", 4), (mteb_run, "--tokens_per_batch", 1)],
)
@pytest.mark.parametrize("number", ["0", "-8192", "many"])
def test_a_number_that_cannot_be_is_refused_by_its_option(capsys, command, option, least, number):
    with pytest.raises(SystemExit, match="2"):
        command.main(["model", option, number])
    message = f"argument {option}: must be a whole number of at least {least}, not {number}."
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_model_without_prompts_must_be_told_to_go_without(task_file, tmp_path):
    model = str(save_other(tmp_path / "models" / "plain"))
    arguments = ["--local_tasks", str(task_file), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match="has no prompts.*--prompts none"):
        main([model, *arguments])
    main([model, *arguments, "--prompts", "none"])
    main([model, *arguments, "--prompts", "nomic"])
    protocols = [json.loads(path.read_text()) for path in (tmp_path / "out").rglob("protocol.json")]
    assert sorted(protocol["prompts"].get("STS", "") for protocol in protocols) == ["", "classification: "]


def test_missing_data_are_told_after_the_other_tasks(nomic, task_file, tmp_path, capsys):
    with pytest.raises(SystemExit, match="1 task failed; .* kept:\n  SciFact: no data set .*--data_dir"):
        main([str(nomic), "--tasks", "SciFact", "--local_tasks", str(task_file), "--output_dir", str(tmp_path / "out")])
    assert "toy_search" in capsys.readouterr().out


def test_long_context_reads_each_benchmark_to_its_lengths(monkeypatch):
    def plan(*argv):
        found = {}

        def run(length, tasks, *_, **__):
            found[length] = sorted(task.metadata.name for task in tasks)
            return Outcome()

        monkeypatch.setattr(commands, "model_at_length", lambda _, length: length)
        monkeypatch.setattr(commands, "run_tasks", run)
        monkeypatch.setattr(commands, "show_outcome", lambda *_: None)
        long_context.main(["model", *argv])
        return found

    jina = ["BigPatentClustering", "NarrativeQARetrieval", "SciFact", "WikiCitiesClustering"]
    loco = ["LoCoGovReport", "LoCoQASPERAbstract", "LoCoQASPERTitle", "LoCoQMSum", "LoCoSummScreenFD"]
    assert plan() == {128: jina, 512: jina, 2048: loco, 4096: loco, 8191: jina, 8192: loco}
    assert plan("--benchmark", "LoCo", "--lengths", "2048") == {2048: loco}
    assert plan("--tasks", "SciFact", "LoCoQMSum") == {
        **dict.fromkeys((128, 512, 8191), ["SciFact"]),
        **dict.fromkeys((2048, 4096, 8192), ["LoCoQMSum"]),
    }


def test_long_context_tells_what_failed_at_several_lengths_once(monkeypatch, tmp_path):
    failures = {128: {"SciFact": "no data"}, 512: {"SciFact": "no data"}, 8191: {"SciFact": "no memory"}}
    monkeypatch.setattr(commands, "model_at_length", lambda _, length: length)
    monkeypatch.setattr(commands, "run_tasks", lambda length, *_, **__: Outcome(failures=failures[length]))
    monkeypatch.setattr(commands, "show_outcome", lambda *_: None)
    told = refusal(long_context.main, ["model", "--tasks", "SciFact", "--output_dir", str(tmp_path)])
    assert told.splitlines()[1:] == ["  SciFact (128, 512 tokens): no data", "  SciFact (8191 tokens): no memory"]


def test_long_context_runs_a_short_model_once_and_tells(task_file, tmp_path, capsys, encoded):
    model, out = str(save_other(tmp_path / "models" / "short")), tmp_path / "out"
    arguments = [model, "--local_tasks", str(task_file), "--output_dir", str(out), "--prompts", "none", "--lengths"]
    long_context.main([*arguments, "64", "128"])
    once = len(encoded)
    long_context.main([*arguments, "64", "128", "512", "8191"])
    assert len(encoded) == once
    assert [name.rsplit("-", 1)[1] for name in revisions(out, "local__models-short")] == ["seq128", "seq64"]
    assert f"{model} reads 128 tokens, not 8191." in capsys.readouterr().out


@pytest.mark.parametrize("command", [mteb_run, long_context])
def test_help_shows_the_command_as_it_is_typed_and_where_results_go(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        command.main(["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert f"usage: python -m {command.__name__} " in printed
    assert "--data_dir" in printed and "default outputs/evaluation" in printed
