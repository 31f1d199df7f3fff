import pytest
import torch
import torch.nn.functional as F

from nomic_bert import NomicBertModel
from tests.trainers.toys import PROMPTS, StopAt, contrastive_trainer, encoder, logged, mlm, pairs, tokenizer
from trainers import ContrastiveConfig, ContrastiveTrainer


def state(trainer):
    return trainer.model.state_dict()


def test_one_step_equals_the_textbook_step(tmp_path):
    """The batch's texts, padded, in one pass; softmax over all documents; SGD by hand."""
    trainer = contrastive_trainer(tmp_path, optim="sgd", max_steps=1, max_grad_norm=0.0, lr_scheduler_type="constant")
    inputs = trainer.train_dataset[0, 0]
    assert len(trainer.train_dataset.collator(trainer.train_dataset.part(0, 0))["lengths"]) == 8 * 4
    model = encoder()
    pieces = inputs["input_ids"].split(inputs["lengths"].tolist())
    ids = torch.nn.utils.rnn.pad_sequence(list(pieces), batch_first=True)
    mask = torch.arange(ids.shape[1]) < inputs["lengths"][:, None]
    hidden = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    embeddings = F.normalize((hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=-1)
    loss = F.cross_entropy(50 * embeddings[:8] @ embeddings[8:].T, torch.arange(8) * 3)
    loss.backward()
    trainer.train()
    assert logged(trainer, "loss")[0] == pytest.approx(loss.item(), rel=1e-4)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(state(trainer)[name], parameter - 1e-2 * parameter.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk_tokens", [40, 10_000])
def test_a_matryoshka_step_equals_the_textbook_step(tmp_path, chunk_tokens):
    """Layer norm, truncate, normalize, at each size; the losses are summed."""
    settings = {"optim": "sgd", "max_steps": 1, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
    trainer = contrastive_trainer(tmp_path, matryoshka_dims=[4, 16], chunk_tokens=chunk_tokens, **settings)
    inputs, model = trainer.train_dataset[0, 0], encoder()
    pieces = inputs["input_ids"].split(inputs["lengths"].tolist())
    pooled = torch.stack([model(input_ids=ids[None]).last_hidden_state[0].mean(0) for ids in pieces])
    normed = (pooled - pooled.mean(1, keepdim=True)) / (pooled.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    losses = []
    for dim in (4, 16):
        embeddings = F.normalize(normed[:, :dim], dim=-1)
        losses.append(F.cross_entropy(50 * embeddings[:8] @ embeddings[8:].T, torch.arange(8) * 3))
    sum(losses).backward()
    trainer.train()
    assert logged(trainer, "loss")[0] == pytest.approx(sum(losses).item(), rel=1e-4)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(state(trainer)[name], parameter - 1e-2 * parameter.grad, rtol=1e-4, atol=1e-5)


def test_equal_documents_are_masked_and_counted(tmp_path):
    """Every document is one of two texts, so a masked query has at most the other text as a negative."""
    texts = ["word3 word4", "word5 word6 word7"]
    rows = pairs(16).map(lambda row, number: {"document": texts[number % 2]}, with_indices=True)
    runs = {}
    for masked in (True, False):
        settings = {"num_hard_negatives": 0, "max_steps": 1, "mask_duplicate_documents": masked}
        runs[masked] = contrastive_trainer(tmp_path, train={"a": rows}, **settings)
        runs[masked].train()
    distinct = len(set(runs[True].train_dataset.part(0, 0).columns()["document"]))
    assert logged(runs[True], "duplicate_documents") == [8 - distinct]
    assert logged(runs[True], "loss")[0] < logged(runs[False], "loss")[0]
    assert not logged(runs[False], "duplicate_documents")


def test_rows_without_negatives_are_named_or_counted_and_left_out(tmp_path, capsys):
    rows = pairs(20, negatives=[2, 0, 1])
    with pytest.raises(ValueError, match=r"'a': 7 of 20 rows have no hard negative .* from 0: 1, 4, 7, 10, 13, \.\.\."):
        contrastive_trainer(tmp_path, train={"a": rows})
    trainer = contrastive_trainer(tmp_path, train={"a": rows}, rows_without_negatives="skip", max_steps=1)
    assert trainer.train_dataset.plan.rows == {"a": 13}
    assert all(trainer.train_dataset.sources["a"]["negatives"])
    trainer.train()
    assert "a: 13 rows, 1 batches, 5 left out, 7 more without hard negatives" in capsys.readouterr().out


def test_evaluators_see_the_model_as_it_is_and_choose_the_best_checkpoint(tmp_path):
    """An evaluator that prefers step 2 by the number of times it was called, and records an embedding each time."""
    seen = []

    def evaluator(embedder):
        seen.append(embedder.encode("word4 word5", prompt_name="query"))
        return {"score": {2: 1.0}.get(len(seen), 0.5)}

    steps = {"save_strategy": "steps", "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "score", "greater_is_better": True}
    trainer = contrastive_trainer(tmp_path, num_train_epochs=1, evaluators=[evaluator], **steps, **best)
    trainer.train()
    assert logged(trainer, "eval_score") == [0.5, 1.0, 0.5]
    assert trainer.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")
    tokens = tokenizer()("search_query: word4 word5", return_tensors="pt")["input_ids"]
    for step, embedding in enumerate(seen, 1):
        model = NomicBertModel.from_pretrained(tmp_path / f"checkpoint-{step}")
        with torch.no_grad():
            expected = F.normalize(model(input_ids=tokens).last_hidden_state[0].mean(0), dim=-1)
        torch.testing.assert_close(torch.from_numpy(embedding), expected, rtol=1e-4, atol=1e-5)
    for name, value in NomicBertModel.from_pretrained(tmp_path / "checkpoint-2").state_dict().items():
        assert torch.equal(state(trainer)[name], value)


def test_the_best_checkpoint_is_one_that_was_saved(tmp_path):
    """Evaluated at every step and saved at every second; the best of all steps is one without a checkpoint."""
    scores = iter([0.9, 0.7, 0.8, 0.5, 0.6, 0.4])
    settings = {
        **{"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "max_steps": 6},
        **{"load_best_model_at_end": True, "metric_for_best_model": "score", "greater_is_better": True},
    }
    trainer = contrastive_trainer(tmp_path, evaluators=[lambda _: {"score": next(scores)}], **settings)
    trainer.train()
    for name, value in NomicBertModel.from_pretrained(tmp_path / "checkpoint-2").state_dict().items():
        assert torch.equal(state(trainer)[name], value)
    stage = trainer.training_stage()
    assert (stage["steps"], stage["evaluation"]["metrics"]["score"]) == (2, 0.7)
    again = contrastive_trainer(tmp_path, evaluators=[lambda _: {"score": 0.0}], **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert again.state.best_model_checkpoint == str(tmp_path / "checkpoint-2")


def test_evaluators_alone_are_enough(tmp_path):
    args = ContrastiveConfig(output_dir=str(tmp_path), use_cpu=True, prompts=PROMPTS)
    evaluators = [
        lambda embedder: {"dimensions": len(embedder.encode("word1")), "length": embedder.max_seq_length},
    ]
    model = encoder(n_positions=100)  # less than the lengths that texts are cut at by default
    trainer = ContrastiveTrainer(model, args, processing_class=tokenizer(), evaluators=evaluators)
    metrics = trainer.evaluate()
    assert metrics["eval_dimensions"] == 16 and "eval_loss" not in metrics
    assert metrics["eval_length"] == 100
    assert metrics["eval_runtime"] > 0 and not [name for name in metrics if name.endswith("_per_second")]


def test_chunks_change_nothing(tmp_path):
    runs = [contrastive_trainer(tmp_path, chunk_tokens=tokens, num_train_epochs=1) for tokens in (20, 10_000)]
    for run in runs:
        run.train()
    assert logged(runs[0], "grad_norm") == pytest.approx(logged(runs[1], "grad_norm"), rel=1e-4)
    assert logged(runs[0], "accuracy") == logged(runs[1], "accuracy")


def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    """Killed in epoch 2, with dropout, evaluations between, and a half-written newer checkpoint."""
    settings = {
        "num_train_epochs": 3,
        "save_strategy": "steps",
        "save_steps": 5,
        "eval_strategy": "steps",
        "eval_steps": 2,
    }

    def run(name):
        return contrastive_trainer(tmp_path / name, encoder(resid_pdrop=0.1), **settings)

    whole = run("whole")
    whole.train()
    killed = run("killed")
    killed.add_callback(StopAt(6))
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    (tmp_path / "killed" / "checkpoint-7").mkdir()
    resumed = run("killed")
    with pytest.warns(UserWarning, match="checkpoint-7"):
        resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == whole.state.global_step == 9
    assert all(torch.equal(state(resumed)[name], value) for name, value in state(whole).items())
    assert logged(resumed, "loss")[-4:] == logged(whole, "loss")[-4:]


def test_workers_change_nothing(tmp_path):
    runs = [contrastive_trainer(tmp_path, num_train_epochs=2, dataloader_num_workers=n) for n in (0, 2)]
    for run in runs:
        run.train()
    assert all(torch.equal(state(runs[0])[name], value) for name, value in state(runs[1]).items())


def test_it_learns_and_logs_by_source(tmp_path, capsys):
    """Queries that share their document's words: accuracy in the batch rises from chance."""
    sources = {name: pairs(24, seed=seed) for seed, name in enumerate(("a", "b"))}
    sources = {name: rows.map(lambda row: {"query": row["document"]}) for name, rows in sources.items()}
    trainer = contrastive_trainer(
        tmp_path, train=sources, num_hard_negatives=0, num_train_epochs=5, max_grad_norm=1.0, warmup_steps=7
    )
    before = trainer.evaluate()
    trainer.train()
    printed = capsys.readouterr().out
    assert "global batch 8 rows" in printed and "warmup 7 steps" in printed
    assert "30 steps, 6 an epoch" in printed and "temperature 0.02" in printed
    assert "a: 24 rows, 3 batches, 0 left out, 'word0 ' -> 'word1 word1 '" in printed
    last = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
    assert last["truncated_queries"] == 0 and len({"accuracy_a", "accuracy_b"} & set(last)) == 1
    assert last["accuracy"] > before["eval_accuracy"]
    assert trainer.state.num_input_tokens_seen == sum(
        len(trainer.train_dataset[epoch, step]["input_ids"]) for epoch in range(5) for step in range(6)
    )


def test_evaluation_is_over_all_queries_not_over_pools(tmp_path):
    trainer = contrastive_trainer(tmp_path)
    metrics = trainer.evaluate()
    loss = accuracy = 0.0
    model = trainer.model.eval()
    for item in range(3):  # 21 rows in pools of 8, 8 and 5
        inputs = trainer.eval_dataset[item]
        pieces = inputs["input_ids"].split(inputs["lengths"].tolist())
        with torch.no_grad():
            means = torch.stack([model(input_ids=ids[None]).last_hidden_state[0].mean(0) for ids in pieces])
        embeddings = F.normalize(means, dim=-1)
        count = inputs["num_queries"]
        logits, labels = 50 * embeddings[:count] @ embeddings[count:].T, torch.arange(count) * 3
        loss += F.cross_entropy(logits, labels, reduction="sum").item()
        accuracy += (logits.argmax(1) == labels).sum().item()
    assert metrics["eval_loss"] == pytest.approx(loss / 21, rel=1e-4)
    assert metrics["eval_accuracy"] == pytest.approx(accuracy / 21)
    by_source = trainer.evaluate({"x": pairs(8), "y": pairs(3)})
    for name in ("loss", "accuracy"):
        mean = (8 * by_source[f"eval_{name}_x"] + 3 * by_source[f"eval_{name}_y"]) / 11
        assert by_source[f"eval_{name}"] == pytest.approx(mean, rel=1e-5)
    assert trainer.evaluate()["eval_loss"] == metrics["eval_loss"]


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_source(tmp_path):
    model = encoder()
    trainer = contrastive_trainer(tmp_path, model, max_steps=4)
    source, _ = trainer.train_dataset.plan.batch(0, 0)
    before = {name: value.clone() for name, value in state(trainer).items()}
    model.embeddings.word_embeddings.weight.data[2] = before["embeddings.word_embeddings.weight"][2] = torch.nan
    with pytest.raises(FloatingPointError, match=f"nan at step 1, on source '{source}', rows"):
        trainer.train()
    for name, value in before.items():
        torch.testing.assert_close(state(trainer)[name], value, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gradient_accumulation_steps": 2}, "shrink the pool of negatives"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size is refused"),
        ({"ignore_data_skip": True}, "ignore_data_skip is refused"),
        ({"train_sampling_strategy": "group_by_length"}, "train_sampling_strategy is refused"),
        ({"deepspeed": "zero2.json"}, "DeepSpeed is refused"),
        ({"fsdp": "full_shard"}, "FSDP is refused"),
        ({"per_device_train_batch_size": 4}, "contradicts global_batch_size 8"),
        ({"global_batch_size": 0}, "does not divide"),
        ({"hard_negative_scope": "batch"}, "'global' or 'own'"),
        ({"chunk_tokens": 0}, "at least 1"),
        ({"rows_without_negatives": "fill"}, "'error' or 'skip', not 'fill'"),
        ({"matryoshka_dims": [4, 4]}, "different positive numbers"),
        ({"matryoshka_dims": [32, 4]}, "the model has 16 dimensions"),
        ({"source_weights": {"z": 1.0}}, r"unknown sources \['z'\]"),
        ({"prompts": None}, "prompts is not set"),
        ({"prompts": {"query": "search_query: "}}, "source 'a' must give 'query' and 'document'"),
        ({"prompts": {"a": PROMPTS, "z": PROMPTS}}, r"unknown sources \['z'\]"),
        ({"global_batch_size": 16}, "'b' has 9 rows, fewer than one global batch of 16"),
    ],
)
def test_settings_that_cannot_mean_what_they_say_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        contrastive_trainer(tmp_path, **settings)


def test_a_global_batch_that_does_not_divide_by_the_ranks_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(ContrastiveConfig, "world_size", 3)
    with pytest.raises(ValueError, match=r"global_batch_size 8 does not divide by the number of ranks \(3\)"):
        ContrastiveConfig(output_dir=str(tmp_path), global_batch_size=8, use_cpu=True)


def test_launching_under_deepspeed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ValueError, match="DeepSpeed is refused"):
        ContrastiveConfig(output_dir=str(tmp_path))


def test_wrong_data_and_models_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'pairs' lacks the column 'negatives'; it has 'query', 'document'"):
        contrastive_trainer(tmp_path, train=pairs(20))
    with pytest.raises(TypeError, match="'a' must be a datasets.Dataset, not list"):
        contrastive_trainer(tmp_path, train={"a": [1]})
    with pytest.raises(ValueError, match="NomicBertForMaskedLM has a head"):
        contrastive_trainer(tmp_path, mlm())
    trainer = contrastive_trainer(tmp_path)
    with pytest.raises(ValueError, match="no complete checkpoint"):
        trainer.train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="resume_from_checkpoint: nowhere is not a directory; correct the path"):
        trainer.train(resume_from_checkpoint="nowhere")


def test_evaluation_alone_needs_no_training_set(tmp_path):
    args = ContrastiveConfig(output_dir=str(tmp_path), use_cpu=True, prompts=PROMPTS)
    trainer = ContrastiveTrainer(encoder(), args, eval_dataset=pairs(9), processing_class=tokenizer())
    assert 0 <= trainer.evaluate()["eval_accuracy"] <= 1
    with pytest.raises(ValueError, match="needs a train_dataset"):
        trainer.train()


@pytest.mark.parametrize("resume_at", [None, 3, 5])
def test_every_step_trains_on_the_plans_batch(tmp_path, monkeypatch, resume_at):
    """Resumed at the start of epoch 2 and within it, the epoch is the right one, and no batch comes twice."""
    seen = []
    step = ContrastiveTrainer.training_step

    def record(self, model, inputs, num_items_in_batch=None):
        seen.append((self.state.global_step, inputs["input_ids"]))
        return step(self, model, inputs, num_items_in_batch)

    monkeypatch.setattr(ContrastiveTrainer, "training_step", record)
    settings = {"num_train_epochs": 3, "save_strategy": "steps", "save_steps": 1}
    trainer = contrastive_trainer(tmp_path, **settings)
    if resume_at:
        trainer.add_callback(StopAt(resume_at + 1))
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        del seen[resume_at:]
        trainer = contrastive_trainer(tmp_path, **settings)
        trainer.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{resume_at}"))
    else:
        trainer.train()
    assert [number for number, _ in seen] == list(range(9))
    for number, input_ids in seen:
        assert torch.equal(input_ids, trainer.train_dataset[divmod(number, 3)]["input_ids"])
    assert not torch.equal(seen[0][1], seen[3][1])


def test_prefixes_by_source_serve_an_evaluation_on_one_of_them(tmp_path):
    prompts = {"a": {"query": "word2 ", "document": ""}, "b": PROMPTS, "pairs": PROMPTS}
    sources = {name: pairs(9, negatives=[2]) for name in prompts}
    trainer = contrastive_trainer(tmp_path, train=sources, prompts=prompts)
    batch = trainer.evaluation_batches({"a": sources["a"]})[0]
    first = batch["input_ids"][: batch["lengths"][0]]
    assert tokenizer().decode(first, skip_special_tokens=True).startswith("word2 ")
    with pytest.raises(ValueError, match="source 'c' must give 'query' and 'document', got None"):
        trainer.evaluate({"c": sources["a"]})
