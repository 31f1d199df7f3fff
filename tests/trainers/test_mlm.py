import math

import pytest
import torch
import torch.nn.functional as F

from tests.trainers.toys import KeepGradient, StopAt, assert_same_gradient, blocks, logged, mlm, mlm_trainer, tokenizer
from trainers import MLMConfig, MLMTrainer


def state(trainer):
    return trainer.model.state_dict()


def test_one_step_is_the_mean_over_all_masked_tokens(tmp_path):
    """Four micro-batches whose mask counts differ, against one batch with logits everywhere; SGD by hand."""
    trainer = mlm_trainer(tmp_path, optim="sgd", max_steps=1, max_grad_norm=0.0, lr_scheduler_type="constant")
    micro = [trainer.train_dataset[0, step] for step in range(4)]
    assert len({int((batch["labels"] != -100).sum()) for batch in micro}) > 1
    model = mlm()
    logits = model(input_ids=torch.cat([batch["input_ids"] for batch in micro])).logits
    loss = F.cross_entropy(logits.flatten(0, 1), torch.cat([batch["labels"] for batch in micro]).flatten())
    loss.backward()
    trainer.train()
    assert logged(trainer, "loss")[0] == pytest.approx(loss.item(), rel=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(state(trainer)[name], parameter - 1e-2 * parameter.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("across", [True, False])
def test_accumulation_equals_one_big_batch(tmp_path, across):
    settings = {"num_train_epochs": 2, "attend_across_documents": across, "optim": "sgd"}
    runs = [mlm_trainer(tmp_path, per_device_train_batch_size=size, **settings) for size in (8, 1)]
    kept = [KeepGradient() for _ in runs]
    for run, gradient in zip(runs, kept, strict=True):
        run.add_callback(gradient)
        run.train()
    assert [run.args.gradient_accumulation_steps for run in runs] == [1, 8]
    assert_same_gradient(kept[1].gradient, kept[0].gradient)
    assert logged(runs[1], "loss")[0] == pytest.approx(logged(runs[0], "loss")[0], rel=1e-6)
    for key in ("loss", "grad_norm"):
        assert logged(runs[0], key) == pytest.approx(logged(runs[1], key), rel=1e-5)


def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    """Killed in epoch 2, with dropout, accumulation and evaluations between."""

    def run(name, workers):
        return mlm_trainer(
            tmp_path / name,
            mlm(resid_pdrop=0.1),
            num_train_epochs=3,
            save_strategy="steps",
            save_steps=5,
            eval_strategy="steps",
            eval_steps=2,
            dataloader_num_workers=workers,
        )

    whole = run("whole", 0)
    whole.train()
    killed = run("killed", 0)
    killed.add_callback(StopAt(6))
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    resumed = run("killed", 1)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == whole.state.global_step == 9
    assert all(torch.equal(state(resumed)[name], value) for name, value in state(whole).items())
    assert logged(resumed, "eval_loss")[-2:] == logged(whole, "eval_loss")[-2:]


def test_a_half_written_save_over_an_old_one_is_not_taken_for_whole(tmp_path, monkeypatch):
    settings = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    mlm_trainer(tmp_path, **settings).train()
    again = mlm_trainer(tmp_path, **settings)

    def full_disk(self, output_dir):
        raise OSError("No space left on device")

    monkeypatch.setattr(MLMTrainer, "_save_optimizer_and_scheduler", full_disk)
    with pytest.raises(OSError, match="No space left"):
        again.train()
    assert (tmp_path / "checkpoint-1" / "model.safetensors").exists()
    assert not (tmp_path / "checkpoint-1" / "trainer_state.json").exists()


def test_evaluation_sums_over_all_masked_tokens(tmp_path):
    trainer = mlm_trainer(tmp_path, per_device_eval_batch_size=4)
    metrics = trainer.evaluate()
    batches = [trainer.eval_dataset[item] for item in range(3)]  # 11 blocks in batches of 4, 4 and 3
    ids, labels = (torch.cat([batch[key] for batch in batches]) for key in ("input_ids", "labels"))
    with torch.no_grad():
        logits = trainer.model.eval()(input_ids=ids).logits[labels != -100]
    targets = labels[labels != -100]
    loss = F.cross_entropy(logits, targets).item()
    assert metrics["eval_loss"] == pytest.approx(loss, rel=1e-5)
    assert metrics["eval_perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
    assert metrics["eval_accuracy"] == pytest.approx((logits.argmax(-1) == targets).float().mean().item())
    assert trainer.evaluate()["eval_loss"] == metrics["eval_loss"]
    assert 0.05 < len(targets) / (11 * 18) < 0.25  # 15 % of the ordinary tokens, not 30 %


def test_it_learns(tmp_path, capsys):
    """Blocks of one repeated word each are easy to fill in."""
    rows = blocks(32).map(lambda row: {"input_ids": [5 + sum(row["input_ids"]) % 20] * 24, "document_lengths": [24]})
    trainer = mlm_trainer(tmp_path, train=rows, num_train_epochs=15, warmup_steps=0.1, learning_rate=3e-2)
    before = trainer.evaluate(rows)["eval_accuracy"]
    trainer.train()
    assert trainer.evaluate(rows)["eval_accuracy"] > max(0.5, 2 * before)
    printed = capsys.readouterr().out
    assert "32 blocks of 24 tokens, 0 left out" in printed
    assert "global batch 8 rows = 1 ranks x 4 accumulated x 2" in printed
    assert "60 steps, 4 an epoch; warmup 6 steps" in printed and "192 tokens a step, 30% masked" in printed


def test_weight_decay_spares_norms_and_biases_only(tmp_path):
    trainer = mlm_trainer(tmp_path, weight_decay=0.1)
    trainer.create_optimizer()
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    groups = {
        group["weight_decay"]: {names[id(p)] for p in group["params"]} for group in trainer.optimizer.param_groups
    }
    one_dimensional = {name for name, p in trainer.model.named_parameters() if p.ndim == 1}
    assert one_dimensional == groups[0.0]
    assert groups[0.1] == set(names.values()) - one_dimensional


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(tmp_path):
    model = mlm()
    trainer = mlm_trainer(tmp_path, model, max_steps=4)
    model.bert.emb_ln.weight.data[0] = torch.inf
    with pytest.raises(FloatingPointError, match="at step 1, on source 'blocks', rows"):
        trainer.train()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"global_batch_size": 9}, r"9 does not divide by per_device_train_batch_size x ranks \(2\)"),
        ({"gradient_accumulation_steps": 3}, "contradicts global_batch_size 8, which asks for 4"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size is refused"),
        ({"mlm_probability": 1.5}, "mlm_probability must be greater than 0 and less than 1"),
        ({"deepspeed": "zero2.json"}, "deepspeed is refused.*accelerate launch --config_file"),
        ({"peak_tflops": 0.0}, "peak_tflops must be greater than 0"),
        ({"enable_jit_checkpoint": True}, "enable_jit_checkpoint is refused: SIGTERM saves a checkpoint"),
        ({"global_batch_size": 32}, "'blocks' has 26 rows, fewer than one global batch of 32"),
    ],
)
def test_settings_that_cannot_mean_what_they_say_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        mlm_trainer(tmp_path, **settings)


def test_accumulation_is_the_users_where_no_global_batch_is_given(tmp_path):
    args = MLMConfig(
        output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=2, gradient_accumulation_steps=3
    )
    trainer = MLMTrainer(mlm(), args, blocks(26), processing_class=tokenizer())
    assert trainer.train_dataset.plan.batch_size == 6


def test_a_missing_column_is_named(tmp_path):
    with pytest.raises(ValueError, match="'blocks' lacks the column 'input_ids'"):
        mlm_trainer(tmp_path, train=blocks(26).remove_columns("input_ids"))


@pytest.mark.parametrize("across", [True, False])
def test_the_authors_packed_columns_train_as_ours_do(tmp_path, across):
    """Columns of nomic-ai/nomic-bert-2048-pretraining-data; the blocks start with [CLS], so both ways must agree."""
    ours = blocks(26)
    shape = [[0] * 24] * 26
    theirs = ours.remove_columns("document_lengths")
    for name in ("token_type_ids", "attention_mask", "special_tokens_mask"):
        theirs = theirs.add_column(name, shape)
    runs = [mlm_trainer(tmp_path, train=rows, attend_across_documents=across, max_steps=3) for rows in (ours, theirs)]
    used = ["input_ids"] if across else ["input_ids", "document_lengths"]
    assert runs[0].train_dataset.sources["blocks"].column_names == used
    assert runs[1].train_dataset.sources["blocks"].column_names == ["input_ids"]
    for run in runs:
        run.train()
    assert logged(runs[0], "loss") == logged(runs[1], "loss")
    without = tokenizer()
    without.cls_token = None
    if not across:
        with pytest.raises(ValueError, match="lacks the column 'document_lengths', and the tokenizer has no"):
            MLMTrainer(mlm(), runs[1].args, theirs, processing_class=without)


def test_the_learning_rate_follows_the_schedule(tmp_path):
    """Linear over the first 6 % of the 50 optimizer steps, which is 3, then linear to 0; 4 micro-batches a step."""
    rows = blocks(400, length=8)
    trainer = mlm_trainer(tmp_path, mlm(num_hidden_layers=1), rows, warmup_steps=0.06, lr_scheduler_type="linear")
    trainer.args.num_train_epochs = 1
    trainer.train()
    rates = logged(trainer, "learning_rate")
    assert len(rates) == 50
    expected = [1e-2 * min(step / 3, (50 - step) / 47) for step in range(50)]  # after so many steps
    assert rates == pytest.approx(expected, rel=1e-9)
