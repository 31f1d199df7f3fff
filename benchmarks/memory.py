"""Count what the stages take on a GPU, and what embedding takes, without a GPU: peak memory, kernels, bytes, FLOPs.

python benchmarks/memory.py [recipes/configs/stage1.yaml ...] [--ranks 1 8]

Nothing is computed, and nothing is read but the configs: tensors have shapes and no numbers. The peak is what torch
allocates. The CUDA context, the libraries' workspaces, NCCL and fragments come on top. torch_compile is not counted.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch

from nomic_bert import NomicBertConfig
from nomic_bert.gpu_count import GPUCount, count_encoding
from recipes.shared.arguments import read_config
from textfiles.commands import one_line_errors, run_command
from textfiles.markdown import table
from textfiles.paths import existing_file
from trainers import ContrastiveConfig, MLMConfig
from trainers.memory import CHUNK_TOKENS, count_contrastive_step, count_mlm_step

_CONFIGS = Path(__file__).resolve().parent.parent / "recipes" / "configs"
FOR_GPUS = [
    _CONFIGS / f"{name}.yaml"
    for name in ("stage1", "stage1_one_gpu", "stage1_continue", "stage2", "stage3", "finetune_own_pairs")
]
_BLOCK_TOKENS = 2048  # of pack_corpus.yaml
_ENCODED_TOKENS = 65_536  # of a batch of `encode_by_tokens`, at most
_TEXT_TOKENS = 512
_HEADER = [
    "config",
    "at once",
    "GPUs",
    "peak, GiB",
    "held, GiB",
    "kernels / 1,000 tokens",
    "MB a token",
    "GFLOP a token",
]


def main(argv: Sequence[str]) -> None:
    """Print the table of the configs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "configs", nargs="*", type=existing_file, default=FOR_GPUS, help="of a stage; none: those for GPUs"
    )
    parser.add_argument("--ranks", nargs="+", type=int, default=[1, 8], help="GPUs of the run")
    args = parser.parse_args(argv)
    rows = []
    with one_line_errors():
        for file in args.configs:
            for ranks in args.ranks:
                count, at_once = count_config(file, ranks)
                rows.append([file.stem, at_once, str(ranks), *_figures(count)])
    for dtype in (torch.bfloat16, torch.float32):
        count = count_encoding(NomicBertConfig(), _ENCODED_TOKENS, _TEXT_TOKENS, dtype)
        name = f"embedding, {str(dtype).removeprefix('torch.')}"
        rows.append([name, f"{_ENCODED_TOKENS:,} tokens", "1", *_figures(count)])
    print(table(_HEADER, rows, numbers=5))


def count_config(file: Path, ranks: int) -> tuple[GPUCount, str]:
    """A step of a stage's config on each of some GPUs, and what it computes at once.

    Args:
        file: of a new model or of one of 137M parameters, whatever checkpoint it names.
        ranks: GPUs.
    """
    values = read_config(str(file))
    kind: Any = MLMConfig if "mlm_probability" in values else ContrastiveConfig
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    # the class itself would ask for the precision's hardware
    args: Any = SimpleNamespace(**{name: values.get(name, default) for name, default in defaults.items()})
    config = NomicBertConfig(**values.get("model", {}))
    if kind is MLMConfig:
        count = count_mlm_step(config, cast(MLMConfig, args), _BLOCK_TOKENS, ranks)
        return count, f"{args.per_device_train_batch_size} blocks"
    count = count_contrastive_step(config, cast(ContrastiveConfig, args), ranks)
    return count, f"{args.chunk_tokens or CHUNK_TOKENS:,} tokens"


def _figures(count: GPUCount) -> list[str]:
    return [
        f"{count.peak / 2**30:.1f}",
        f"{count.held / 2**30:.1f}",
        f"{1000 * count.kernels / count.tokens:,.1f}",
        f"{count.moved / count.tokens / 1e6:.2f}",
        f"{count.flops / count.tokens / 1e9:.2f}",
    ]


if __name__ == "__main__":
    run_command(main, "Rerun the command.")
