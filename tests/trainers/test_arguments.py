"""Settings that are invalid, or would be ignored, are refused by name when they are given."""

import math

import pytest
import torch

from tests.processes import run_ranks
from trainers import ContrastiveConfig, MLMConfig

NAN = math.nan


@pytest.mark.parametrize("kind", [ContrastiveConfig, MLMConfig])
@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("learning_rate", [0.0, -1e-4, NAN, math.inf]),
        ("weight_decay", [-0.01, NAN]),
        ("max_grad_norm", [-1.0, NAN]),
        ("num_train_epochs", [0, -1, NAN]),
        ("max_steps", [0, -2]),
        ("adam_beta1", [1.0, -0.1, NAN]),
        ("adam_beta2", [1.0, NAN]),
        ("adam_epsilon", [0.0, NAN]),
        ("warmup_steps", [NAN, -1]),
        ("label_smoothing_factor", [0.1, NAN]),
        ("save_steps", [0, -1]),
        ("save_total_limit", [-1]),
        ("dataloader_num_workers", [-1]),
        ("per_device_train_batch_size", [0]),
        ("per_device_eval_batch_size", [0]),
        ("hub_token", ["hf_secret"]),
        ("lr_scheduler_type", ["cosin"]),
        ("optim", ["adamw"]),
        ("eval_strategy", ["step"]),
        ("save_strategy", ["never"]),
        ("average_tokens_across_devices", [False]),
    ],
)
def test_invalid_values_are_refused(tmp_path, kind, name, values):
    for value in values:
        with pytest.raises(ValueError, match=name) as caught:
            kind(output_dir=str(tmp_path), use_cpu=True, **{name: value})
        assert "hf_secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("scale", [-1.0, 0.0, NAN, math.inf]),
        ("query_max_length", [0, 2]),
        ("document_max_length", [1]),
        ("chunk_tokens", [0]),
        ("num_hard_negatives", [-1]),
    ],
)
def test_invalid_values_of_the_contrastive_stages_are_refused(tmp_path, name, values):
    for value in values:
        with pytest.raises(ValueError, match=name):
            ContrastiveConfig(output_dir=str(tmp_path), use_cpu=True, **{name: value})


def test_invalid_shares_of_masked_tokens_are_refused(tmp_path):
    for value in (0.0, 1.5, NAN):
        for name in ("mlm_probability", "eval_mlm_probability"):
            with pytest.raises(ValueError, match=name):
                MLMConfig(output_dir=str(tmp_path), use_cpu=True, **{name: value})


@pytest.mark.parametrize("kind", [ContrastiveConfig, MLMConfig])
def test_ranks_wait_a_day_for_the_one_that_prepares_the_data(tmp_path, kind):
    assert kind(output_dir=str(tmp_path), use_cpu=True).ddp_timeout == 24 * 3600
    assert kind(output_dir=str(tmp_path), use_cpu=True, ddp_timeout=60).ddp_timeout == 60


def test_ranks_without_a_gpu_know_of_each_other(tmp_path):
    """As `torchrun` starts them, on a machine without a GPU and without --use_cpu."""
    printed = run_ranks(2, print_ranks, [tmp_path])
    assert sorted(printed.split("\n")) == ["", "rank 0 of 2, a batch of 8 for 4", "rank 1 of 2, a batch of 8 for 4"]


def print_ranks(output_dir):
    torch.accelerator.is_available = lambda: False
    args = ContrastiveConfig(output_dir=output_dir, global_batch_size=8)
    rank, size = args.process_index, args.per_device_train_batch_size
    print(f"rank {rank} of {args.world_size}, a batch of {args.global_batch_size} for {size}")


def test_half_precision_is_what_the_device_has(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    for gpu in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        for instructions in (False, True):
            monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=instructions: {"amx_bf16": found})
            args = ContrastiveConfig(output_dir=str(tmp_path), use_cpu=gpu, half_precision=True)
            assert (args.bf16, args.fp16) == (instructions, False), "the CPU, of a machine with a GPU too"
    args.use_cpu = False
    for capability, chosen in {(9, 0): (True, False), (8, 0): (True, False), (7, 5): (False, True)}.items():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda capability=capability: capability)
        args.bf16 = args.fp16 = False
        args._choose_half()
        assert (args.bf16, args.fp16) == chosen


def test_half_precision_without_a_gpu_says_what_to_set(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    for instructions, more in ((True, r"true\.$"), (False, "true, and bf16 to false")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=instructions: {"amx_bf16": found})
        with pytest.raises(ValueError, match=f"bf16 is set, and torch sees no GPU.* set use_cpu to {more}"):
            MLMConfig(output_dir=str(tmp_path), bf16=True)
    with pytest.raises(ValueError, match="fp16 is for GPUs; on a CPU set half_precision"):
        MLMConfig(output_dir=str(tmp_path), fp16=True, use_cpu=True)
    assert MLMConfig(output_dir=str(tmp_path), bf16=True, use_cpu=True).bf16


def test_half_precision_contradicts_a_choice(tmp_path):
    with pytest.raises(ValueError, match="leave these out"):
        ContrastiveConfig(output_dir=str(tmp_path), use_cpu=True, half_precision=True, fp16=True)
