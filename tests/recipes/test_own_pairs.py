"""Finetuning on a file of one's own pairs, as the README says it."""

import json
from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer

from nomic_bert import NomicBertModel
from recipes import stage3
from tests.trainers.toys import encoder, tokenizer

CONFIG = Path(__file__).resolve().parents[2] / "recipes" / "configs" / "finetune_own_pairs.yaml"
EVALUATOR = {"name": "x", "kind": "pairs", "path": "p"}


@pytest.fixture
def finetune(tmp_path):
    """Write rows to a file and train on it with the config that is there for it."""
    encoder().save_pretrained(tmp_path / "start")
    tokenizer().save_pretrained(tmp_path / "start")

    def run(rows, *settings):
        (tmp_path / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        argv = ["--config", str(CONFIG), "--train_file", str(tmp_path / "my.jsonl"), "--use_cpu", "true"]
        argv += ["--model_name_or_path", str(tmp_path / "start"), "--output_dir", str(tmp_path / "out")]
        argv += ["--global_batch_size", "4", "--learning_rate", "0.01", "--disable_tqdm", "true", *settings]
        return stage3.main(argv)

    return run


def rows(count, **more):
    return [{"query": f"word{n} word1", "document": f"word{n + 1} word2 word3", **more} for n in range(count)]


def test_pairs_alone_are_enough_and_leave_an_embedder(finetune, tmp_path, capsys):
    final = finetune(rows(9))
    printed = capsys.readouterr().out
    assert "has no column 'negatives'" in printed and "0 hard negatives a row" in printed
    assert "train_file: 9 rows, 2 batches, 1 left out, 'search_query: ' -> 'search_document: '" in printed
    assert SentenceTransformer(str(final), trust_remote_code=True).encode_query("word1").shape == (16,)
    trained, start = (NomicBertModel.from_pretrained(path).state_dict() for path in (final, tmp_path / "start"))
    assert any((trained[name] != value).any() for name, value in start.items())


def test_negatives_are_used_and_rows_without_are_counted(finetune, capsys):
    mined = rows(9, negatives=["word7 word8"])
    mined[4]["negatives"] = []
    finetune(mined, "--num_hard_negatives", "2")
    printed = capsys.readouterr().out
    assert "2 hard negatives a row" in printed
    assert "train_file: 8 rows, 2 batches, 0 left out, 1 more without hard negatives" in printed


@pytest.mark.parametrize(
    "convert",
    [
        lambda row: {"anchor": row["query"], "positive": row["document"], "negative": "word7", "negative_1": "word8"},
        lambda row: {"query": row["query"], "pos": [row["document"]], "neg": ["word7", "word8"]},
        lambda row: {
            "query": row["query"],
            "positive_passages": [{"title": "", "text": row["document"]}],
            "negative_passages": [{"title": "word7", "text": "word8"}] * 2,
        },
    ],
)
def test_layouts_of_other_libraries_are_read_by_their_columns(finetune, convert, capsys):
    finetune([convert(row) for row in rows(9)], "--num_hard_negatives", "2")
    printed = capsys.readouterr().out
    assert "2 hard negatives a row" in printed and "train_file: 9 rows, 2 batches" in printed


def test_a_file_in_no_known_layout_is_answered_with_the_keys_that_map_it(finetune):
    with pytest.raises(SystemExit, match="no column 'query'; the columns are question, answer.*query: ..., document:"):
        finetune([{"question": "a", "answer": "b"}])


def test_the_columns_of_a_file_are_those_of_all_rows(finetune):
    with pytest.raises(SystemExit, match=r"my.jsonl, line 1 \(use \[\] for none\): no column 'negatives'"):
        finetune([*rows(4), *rows(4, negatives=["word7"])], "--num_hard_negatives", "1")


def test_a_run_that_would_learn_nothing_is_refused(finetune):
    with pytest.raises(SystemExit, match="1 step, which is warmup with learning rate 0.*Set warmup_steps to 0"):
        finetune(rows(4))
    assert finetune(rows(4), "--warmup_steps", "0").exists()


@pytest.mark.parametrize("name", ["negative", "neg"])
def test_a_column_with_nearly_the_name_is_asked_about(finetune, name):
    with pytest.raises(SystemExit, match=f"did you mean '{name}' to be the column 'negatives'"):
        finetune(rows(9, **{name: ["word7"]}), "--num_hard_negatives", "1")


def test_an_evaluation_on_a_file_chooses_the_checkpoint(finetune, tmp_path):
    evaluators = [{"name": "mine", "kind": "pairs", "path": str(tmp_path / "my.jsonl")}]
    steps = ["--eval_strategy", "steps", "--eval_steps", "1", "--save_steps", "1", "--load_best_model_at_end", "true"]
    finetune(rows(9), "--evaluators", json.dumps(evaluators), *steps, "--metric_for_best_model", "mine_cosine_ndcg@10")
    state = json.loads((tmp_path / "out" / "trainer_state.json").read_text())
    scores = [
        entry["eval_mine_cosine_ndcg@10"] for entry in state["log_history"] if "eval_mine_cosine_ndcg@10" in entry
    ]
    assert len(scores) == 2 and state["best_metric"] == max(scores)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["--sources", '[{"name": "x"}]'],
            "name the pairs to train on: give --train_file FILE, or a list of sources in the config, and not both",
        ),
        (["--global_batch_size", "64"], "'train_file' has 9 rows, fewer than one global batch of 64"),
        (["--evaluators", '[{"name": "x", "kind": "pairs"}]'], r"evaluators\[0\] \(x\): the key 'path' is missing"),
        (
            ["--evaluators", '[{"name": "x", "kind": "pear", "path": "p"}]'],
            r"evaluators\[0\] \(x\): kind must be one of",
        ),
        (["--evaluators", json.dumps([EVALUATOR, EVALUATOR])], "evaluators: the name 'x' is used twice"),
        (
            ["--evaluators", json.dumps([EVALUATOR]), "--metric_for_best_model", "cosine_ndcg@10"],
            "metric_for_best_model: no evaluator gives 'cosine_ndcg@10'; did you mean 'x_cosine_ndcg@10'",
        ),
        (
            [
                "--evaluators",
                json.dumps([EVALUATOR]),
                *["--eval_strategy", "steps", "--load_best_model_at_end", "true"],
            ],
            "metric_for_best_model must be set, .* set it to x_cosine_ndcg@10 or ",
        ),
        (["--eval_strategy", "steps"], "eval_strategy is steps, but there are no evaluators"),
        (["--train_file", "no_such.jsonl"], "no_such.jsonl"),
    ],
)
def test_what_cannot_be_meant_is_said_in_a_line(finetune, settings, message):
    with pytest.raises(SystemExit, match=f"error: .*{message}"):
        finetune(rows(9), *settings)
