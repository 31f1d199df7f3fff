"""Speed and memory of stages 2 and 3: ContrastiveTrainer against sentence-transformers' trainer and losses, in one run.

python benchmarks/train_contrastive.py --size small
python benchmarks/train_contrastive.py --memory
python benchmarks/train_contrastive.py --size small --pairs 32 --negatives 7
python benchmarks/train_contrastive.py --size base --device cuda --precision bf16 --pairs 16384

All sides train on the same batches of texts of mixed length, from the same weights, with the same optimizer, threads
and loader workers, each in a process of its own, in turn. Before that, all batches must hold the same tokens, and both
must give the same loss. With --memory, ours alone is measured at growing global batches.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks import compare
from benchmarks.contrastive_sides import Side, Workload, compare_sides, describe_losses, measure, prepare
from benchmarks.workloads import SIZE_HELP, SIZES, TOKENIZER_HELP, VOCAB_SIZE
from nomic_bert import NomicBertConfig
from nomic_bert.flops import training_flops

_MEMORY_PAIRS = (256, 1024, 4096)


def build_sides(
    chunk_tokens: int, mini_batch_sizes: Sequence[int], mini_batch_tokens: int, one_pass: bool
) -> list[Side]:
    """Ours and theirs with GradCache, theirs by texts and by tokens (0: not), and both in one pass."""
    sides = [Side(ours=True, tokens=chunk_tokens)]
    sides += [Side(ours=False, texts=texts) for texts in mini_batch_sizes]
    if mini_batch_tokens:
        sides.append(Side(ours=False, tokens=mini_batch_tokens))
    return sides + [Side(ours=True), Side(ours=False)] * one_pass


def main(argv: Sequence[str]) -> None:
    """Measure as the command line says."""
    args = _parser().parse_args(argv)
    with compare.session(args) as directory:
        (_measure_speed if args.memory is None else _measure_memory)(args, directory)


def _measure_speed(args: argparse.Namespace, directory: Path) -> None:
    on_gpu = args.device == "cuda"
    workload, config = _workload(args, directory), _config(args.size)
    chunk_tokens = args.chunk_tokens or (65_536 if on_gpu else 4_096)
    mini_batch_tokens = chunk_tokens if args.mini_batch_tokens is None else args.mini_batch_tokens
    one_pass = not on_gpu if args.one_pass is None else args.one_pass
    sides = build_sides(chunk_tokens, args.mini_batch_sizes, mini_batch_tokens, one_pass)
    text = prepare(workload, args.pairs_files, args.tokenizer, config)
    same = compare.in_fresh_process(compare_sides, workload)
    print(describe_losses(same), flush=True)
    needed = training_flops(config, round(same["tokens"]), round(same["attended"]), labelled=0)
    compare.run(
        f"train_contrastive{'_negatives' if args.negatives else ''}-{args.size}-{args.device}-{args.precision}",
        build_rows(sides, same["tokens"], needed),
        [compare.Measurement(side=side.name, measure=partial(_try, workload, side)) for side in sides],
        args,
        {"size": args.size, **workload.shown(), "text": text, "same": same, "needed_flops": needed},
        f"{args.size} model, {args.precision}, {args.pairs:,} pairs a step"
        f"{f' with {args.negatives} hard negatives each' if args.negatives else ''}: {same['tokens']:,.0f} real "
        f"tokens, {same['tokens'] / workload.texts:,.0f} a text on average, cut at {args.max_length:,}. "
        f"{workload.steps} steps timed after {workload.warmup}; a step needs {needed / 1e12:,.2f} TFLOP. "
        f"{describe_losses(same)} Text: {text['source']}, {text['distinct_pairs']:,} distinct pairs of "
        f"{text['pairs']:,}; {text['tokens_in_vocabulary']:,} tokens in the tokenizer, {VOCAB_SIZE:,} rows in "
        "the model.",
    )


def build_rows(sides: Sequence[Side], tokens: float, needed: float) -> list[compare.Row]:
    """Rows of the table; each is compared with ours in the same way, GradCache or one pass.

    Args:
        sides: that are measured.
        tokens: of a step, real ones.
        needed: FLOPs of a step.
    """
    reference = {side.cached: side.name for side in sides if side.ours}
    return [
        compare.Row(
            side=side.name,
            reference=reference.get(side.cached, ""),
            ours=side.ours,
            tokens=tokens,
            flops=needed,
        )
        for side in sides
    ]


def _measure_memory(args: argparse.Namespace, directory: Path) -> None:
    sizes, config = args.memory or list(_MEMORY_PAIRS), _config("tiny")
    workload = replace(_workload(args, directory), warmup=1, steps=1, profiled=0)
    side = Side(ours=True, tokens=args.chunk_tokens or 2_048)
    text = prepare(workload, args.pairs_files, args.tokenizer, config, pairs=max(sizes) * workload.all_steps)
    names = {pairs: f"{pairs:,} pairs" for pairs in sizes}
    rows = [
        compare.Row(
            side=side.name,
            workload=name,
            ours=True,
            notes={"embeddings, MiB": f"{_embeddings_mib(replace(workload, pairs=pairs), config):,.2f}"},
        )
        for pairs, name in names.items()
    ]
    compare.run(
        f"contrastive_memory-{args.device}",
        rows,
        [
            compare.Measurement(
                side=side.name,
                workloads=(name,),
                measure=partial(_try, replace(workload, pairs=pairs), side, name),
            )
            for pairs, name in names.items()
        ],
        args,
        {**workload.shown(), "chunk_tokens": side.tokens, "text": text},
        f"{config.num_hidden_layers} layers of {config.hidden_size}, {args.precision}, texts cut at "
        f"{args.max_length:,} tokens, one step of warm-up and one more. Text: {text['source']}, "
        f"{text['distinct_pairs']:,} distinct pairs of {text['pairs']:,}.",
    )


def _embeddings_mib(workload: Workload, config: NomicBertConfig) -> float:
    return workload.texts * config.hidden_size * torch.float32.itemsize / 2**20


def _try(workload: Workload, side: Side, name: str = "") -> dict[str, compare.Outcome]:
    return {name: compare.try_in_fresh_process(name or side.name, measure, workload, side)}


def _config(size: str) -> NomicBertConfig:
    return NomicBertConfig(**SIZES[size], vocab_size=VOCAB_SIZE, rotary_scaling_factor=None)


def _workload(args: argparse.Namespace, directory: Path) -> Workload:
    return Workload(
        directory=directory,
        device=args.device,
        precision=args.precision,
        pairs=args.pairs,
        max_length=args.max_length,
        negatives=args.negatives,
        warmup=args.warmup,
        steps=args.steps or (1 if args.size == "base" and args.device == "cpu" else 2),
        profiled=int(args.profile),
        workers=4 if args.device == "cuda" else 0,
        threads=torch.get_num_threads(),
    )


def _parser() -> argparse.ArgumentParser:
    parser = compare.new_parser(__doc__)
    parser.add_argument("--size", choices=SIZES, default="small", help=SIZE_HELP)
    parser.add_argument("--pairs", type=int, default=128, help="of a step")
    parser.add_argument("--negatives", type=int, default=0, help="hard negatives of each pair, as in stage 3")
    parser.add_argument("--max_length", type=int, default=512, help="tokens of a text; longer ones are cut")
    parser.add_argument("--chunk_tokens", type=int, help="ours; default 4,096, on a GPU 65,536, for --memory 2,048")
    parser.add_argument("--mini_batch_sizes", nargs="*", type=int, default=[32, 8], help="theirs, in texts")
    parser.add_argument("--mini_batch_tokens", type=int, help="theirs; default: as --chunk_tokens; 0: not measured")
    parser.add_argument(
        "--one_pass", action=argparse.BooleanOptionalAction, help="both without GradCache too; default: on a CPU"
    )
    parser.add_argument(
        "--memory",
        nargs="*",
        type=int,
        metavar="PAIRS",
        help="measure the peak memory of ours instead, 2 layers of 128; default 256 1,024 4,096",
    )
    parser.add_argument(
        "--pairs_files",
        nargs="+",
        default=[],
        help=".jsonl(.gz) with query and document, equally many rows of each; default: documentation of torch and "
        "transformers, summary and body",
    )
    parser.add_argument("--tokenizer", help=TOKENIZER_HELP)
    parser.add_argument("--warmup", type=int, default=1, help="steps before the clock starts")
    parser.add_argument("--steps", type=int, help="timed steps; default 2, for base on a CPU 1")
    return parser


if __name__ == "__main__":
    compare.start(main)
