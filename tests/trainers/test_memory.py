"""The count of a step on meta tensors is what a CPU allocates for the same step of the trainers."""

from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
import torch
import torch.nn.functional as F
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile

from nomic_bert import NomicBertModel, cpu_nomic_bert, layers_nomic_bert
from nomic_bert.gpu_count import count_encoding, counting_gpu
from tests.trainers import toys
from trainers import memory
from trainers.memory import count_contrastive_step, count_mlm_step

WIDE = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 4, "max_trained_positions": 256}
LENGTH = 32


@pytest.fixture(autouse=True)
def a_cpu_computes_as_a_gpu(monkeypatch):
    monkeypatch.setattr(cpu_nomic_bert, "_SHORT", 0)  # attention over short texts stays in bfloat16
    monkeypatch.setattr(layers_nomic_bert, "trains_on_cpu", lambda *_: False, raising=False)


def allocated_at_once(work):
    """Bytes that the CPU's allocator gave out at once while some work ran, as torch's profiler saw them."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    events, left = [], list(seen.profiler.kineto_results.experimental_event_tree())
    while left:
        event = left.pop()
        left += event.children
        if event.tag == _EventType.Allocation:
            events.append((event.start_time_ns, event.extra_fields.total_allocated, event.extra_fields.alloc_size))
    _, total, first = min(events)  # the profiler counts on from earlier sessions
    return max(event[1] for event in events) - (total - first)


def weight_bytes(trainer):
    return sum(weight.nbytes for weight in trainer.model.parameters())


def test_stage_1_takes_what_was_counted(tmp_path):
    model = toys.mlm(**WIDE)
    blocks = toys.blocks(64, length=128)
    trainer = toys.mlm_trainer(
        tmp_path, model, blocks, global_batch_size=64, per_device_train_batch_size=32,
        max_steps=2, warmup_steps=0, mlm_probability=0.5, logging_strategy="no", attend_across_documents=True,
    )  # fmt: skip
    found = allocated_at_once(trainer.train)
    counted = count_mlm_step(trainer.model.config, trainer.args, 128, mlm_probability=0.5 * 122 / 128)  # 6 are special
    expected = counted.peak - weight_bytes(trainer)
    assert found == pytest.approx(expected, rel=0.05)


# 96 texts, in one chunk or in two; on a CPU too a chunk of these is one row
@pytest.mark.parametrize(("chunks", "bf16"), [(1, False), (2, False), (2, True)])
def test_contrastive_training_takes_what_was_counted(tmp_path, chunks, bf16):
    text = " ".join(toys.WORDS)  # longer than what is read
    rows = {"query": [text] * 128, "document": [text] * 128, "negatives": [[text + " word1"]] * 128}
    model = toys.encoder(**WIDE)
    trainer = toys.contrastive_trainer(
        tmp_path, model, datasets.Dataset.from_dict(rows), global_batch_size=32, num_hard_negatives=1,
        query_max_length=LENGTH, document_max_length=LENGTH, chunk_tokens=96 * LENGTH // chunks,
        max_steps=2, warmup_steps=0, logging_strategy="no", bf16=bf16,
    )  # fmt: skip
    found = allocated_at_once(trainer.train)
    counted = count_contrastive_step(model.config, trainer.args)
    assert found == pytest.approx(counted.peak - weight_bytes(trainer), rel=0.05)


def test_a_run_on_a_gpu_says_what_it_takes(tmp_path, monkeypatch):
    trainer = toys.mlm_trainer(tmp_path, toys.mlm(**WIDE), toys.blocks(8))
    assert not [line for line in trainer.describe() if "memory" in line], "a CPU"
    monkeypatch.setattr(type(trainer.args), "device", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    size = SimpleNamespace(total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: size)
    (line,) = [line for line in trainer.describe() if "memory" in line]
    assert line.startswith("estimated peak memory of a GPU: 0.0 GiB") and line.endswith("this one has 80.0 GiB")
    size.total_memory = 1000
    assert "lower per_device_train_batch_size" in "".join(trainer.describe())
    trainer.model.half()
    assert not [line for line in trainer.describe() if "memory" in line], "weights that are not counted"


def test_encoding_takes_what_was_counted():
    config = toys.config(**WIDE)
    # in training mode a CPU takes the path of a GPU
    model, texts = NomicBertModel(config).train(), torch.randint(5, 95, (1, 1024))
    offsets = torch.arange(0, 1025, LENGTH, dtype=torch.int32)

    @torch.no_grad()
    def embed():
        model(input_ids=texts, cu_seq_lens_q=offsets).last_hidden_state.float()

    counted = count_encoding(config, 1024, LENGTH, torch.float32)
    assert allocated_at_once(embed) == pytest.approx(counted.peak - counted.held, rel=0.05)


# Words of the functions of this project's own files, as texts of one chunk: the longest first, as GradCache has them.
SPREAD = sorted(
    (
        len(part.split())
        for file in Path(memory.__file__).parent.glob("*.py")
        for part in file.read_text().split("\n\n")
    ),
    reverse=True,
)


@pytest.mark.parametrize(
    ("dtype", "capability", "changes"),
    [
        (None, (9, 0), {}),
        (torch.bfloat16, (9, 0), {"attention_probs_dropout_prob": 0.1}),
        (torch.float16, (7, 5), {}),
        (torch.bfloat16, (9, 0), {"hidden_size": 48}),
        (torch.bfloat16, (9, 0), {"hidden_size": 4 * 264}),
    ],
    ids=["float32", "dropout", "old card", "small heads", "large heads"],
)
def test_memory_follows_tokens_where_attention_is_not_packed(dtype, capability, changes):
    config = toys.config(**WIDE | {"num_hidden_layers": 1} | changes)
    with torch.device("meta"):
        model = NomicBertModel(config).train()

    def peak(lengths):
        offsets = F.pad(torch.tensor(lengths).cumsum(0), (1, 0)).to(torch.int32)
        ids = torch.empty(1, sum(lengths), dtype=torch.long, device="meta")
        with counting_gpu(model.parameters(), capability) as count, torch.autocast("meta", dtype, dtype is not None):
            model(input_ids=ids, cu_seq_lens_q=offsets).last_hidden_state.sum().backward()
        model.zero_grad()
        return count.peak

    mean = sum(SPREAD) // len(SPREAD)
    assert max(SPREAD) > 5 * mean, "padded to the longest it would be as many times the tokens"
    assert peak(SPREAD) < 1.25 * peak([mean] * len(SPREAD))
