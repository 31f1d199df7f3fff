"""How fast texts are embedded: ours beside transformers' own NomicBert in sentence-transformers, and other engines.

python benchmarks/encode.py
python benchmarks/encode.py --sizes base --texts pairs.jsonl.gz manuals.jsonl.gz --tokenizer vocab.txt --growth
python benchmarks/encode.py --sizes base --precision int8
python benchmarks/encode.py --sizes base --device cuda --precision bf16

All sides read one directory and embed the same texts, whole calls with tokenizing, each workload in a process of its
own (with --together, each side), in turn. Their embeddings are compared: in fp32 a side whose embeddings differ fails,
and below it each side's are compared with ours in fp32.
With --growth, speed is measured against length, texts at once and the spread of lengths instead.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks import compare
from benchmarks.encode_sides import SIDES, Job, Workload, measure, missing_for
from benchmarks.plots import plot_bars, plot_sweeps
from textfiles.arrays import write_array

# What imports our package is imported in functions below: every measuring process imports this file again, and in
# native's, our classes would take the place of transformers' own.

WORKLOADS = {"query": "query", "queries": "query", "mixed": "document", "long": "document", "longest": "document"}
_GROWTH_SIDES = ("ours_tokens", "native_sorted")
_FLOAT32 = "float32"  # stands for a side: whose embeddings all others are compared with below fp32
_SWEEPS = {
    "length": "tokens of every text",
    "batch": "texts at once",
    "spread": "standard deviation of the lengths' logarithm",
}


def main(argv: Sequence[str]) -> None:
    """Measure as the command line says."""
    args = _parser().parse_args(argv)
    failures = []
    with compare.session(args) as directory:
        sides = choose_sides(args.sides, args.device, args.precision, args.growth)
        texts = _prepare_texts(args, directory)
        for size in args.sizes:
            try:
                _measure_size(args, size, sides, texts)
            except SystemExit as failed:
                if not str(failed).startswith("error: "):
                    raise  # a signal
                failures.append(f"{size}: {str(failed).removeprefix('error: ')}")
    if failures:
        raise SystemExit("error: " + " ".join(failures))


def choose_sides(asked: Sequence[str] | None, device: str, precision: str, growth: bool) -> list[str]:
    """The sides to measure, the one that all others are compared with first.

    Args:
        asked: names; None: every one that runs here, or for growth ours and native's best.
        device: "cpu" or "cuda".
        precision: "fp32", "bf16" or "int8".
        growth: whether it is for --growth.

    Raises:
        ValueError: a side that was asked for does not run here.
    """
    wanted = asked or (_GROWTH_SIDES if growth else list(SIDES))
    missing = {side: why for side in wanted if (why := missing_for(side, device, precision))}
    if asked and missing:
        raise ValueError(f"--sides: {'; '.join(missing.values())}.")
    for why in missing.values():
        print(f"left out: {why}", flush=True)
    return [side for side in SIDES if side in wanted and side not in missing]


class Texts(NamedTuple):
    """The tokenizer, the workloads, and where their text is from."""

    tokenizer: Any
    workloads: tuple[Workload, ...]
    source: str


def _prepare_texts(args: argparse.Namespace, directory: Path) -> Texts:
    from benchmarks import encode_texts as prepare
    from benchmarks.workloads import read_texts

    on_gpu = args.device == "cuda"
    texts, source = read_texts(args.texts)
    tokenizer = prepare.prepare_tokenizer(args.tokenizer, texts, directory / "tokenizer")
    if args.growth:
        lengths = prepare.growth_lengths(args.tokens or (262_144 if on_gpu else 8_192))
    else:
        scale = args.scale or (32 if on_gpu else 1)
        lengths = {name: prepare.workload_lengths(name, scale) for name in WORKLOADS if name in args.workloads}
    cutter = prepare.TextCutter(texts, tokenizer)
    workloads = (cutter.workload(name, WORKLOADS.get(name, "document"), each) for name, each in lengths.items())
    return Texts(tokenizer, tuple(workloads), source)


def _measure_size(args: argparse.Namespace, size: str, sides: Sequence[str], texts: Texts) -> None:
    from benchmarks.encode_texts import forward_cost, save_model

    with tempfile.TemporaryDirectory() as directory:
        model = Path(directory, "model")
        config = save_model(size, texts.tokenizer, model)
        for side in sides:
            if prepare := SIDES[side].prepare:
                compare.in_fresh_process(prepare, model)  # whose memory goes with it
        job = Job(
            model=model,
            workloads=texts.workloads,
            device=args.device,
            precision=args.precision,
            threads=torch.get_num_threads(),
            trained_length=config.max_trained_positions,
            embeddings=Path(directory),
            profiled=args.profile,
        )
        if args.precision != "fp32":
            compare.in_fresh_process(embed_in_float32, job)
        parts = divide(job, sides, args.growth, args.together)
        costs = {each.name: forward_cost(config, each) for each in texts.workloads}
        about = f"{size}, {config.num_hidden_layers} layers of {config.hidden_size}"
        compare.run(
            f"{'encode_growth' if args.growth else 'encode'}-{size}-{args.device}-{args.precision}",
            build_rows(parts, costs, args.growth),
            [
                compare.Measurement(
                    side=side,
                    workloads=tuple(each.name for each in part.workloads),
                    measure=partial(_measure_and_compare, f"{size}, {name}", part, side, sides[0]),
                )
                for name, (part, side) in parts.items()
            ],
            args,
            {"size": about, "precision": args.precision, "source": texts.source, "costs": costs},
            _explain(about, args, sides, texts),
            partial(plot_sweeps, sweeps=_SWEEPS) if args.growth else plot_bars,
        )


def divide(job: Job, sides: Sequence[str], growth: bool, together: bool) -> dict[str, tuple[Job, str]]:
    """Name of a measurement -> what one process does: a workload, or a sweep of --growth, with a side.

    Args:
        job: with all workloads.
        sides: in the order in which they take turns.
        growth: whether the workloads are points of sweeps, `sweep value`; there native has only those that can be
            compared.
        together: a process for all of them.
    """
    parts: dict[str, list[Workload]] = {}
    for workload in job.workloads:
        part = "all" if together else workload.name.split()[0] if growth else workload.name
        parts.setdefault(part, []).append(workload)
    divided = {}
    for name, workloads in parts.items():
        for side in sides:
            measured = tuple(each for each in workloads if not growth or _is_comparable(job, each, side))
            divided[f"{name}, {side}"] = replace(job, workloads=measured), side
    return divided


def build_rows(
    parts: Mapping[str, tuple[Job, str]], costs: Mapping[str, Mapping[str, float]], growth: bool
) -> list[compare.Row]:
    """Rows of the table, by workload.

    Args:
        parts: of `divide`.
        costs: workload -> `flops` and `attention_share`.
        growth: whether attention's share is shown.
    """
    rows: dict[str, list[compare.Row]] = {}
    for part, side in parts.values():
        for workload in part.workloads:
            cost = costs[workload.name]
            row = compare.Row(
                side=side,
                workload=workload.name,
                reference=next(iter(parts.values()))[1],
                ours=side.startswith("ours"),
                tokens=workload.tokens,
                flops=cost["flops"],
                notes={"attention's share of FLOPs": f"{cost['attention_share']:.0%}"} if growth else {},
            )
            rows.setdefault(workload.name, []).append(row)
    return [row for workload in rows.values() for row in workload]


def _is_comparable(job: Job, workload: Workload, side: str) -> bool:
    """Whether a side computes the same model: native does not scale RoPE beyond the trained length."""
    return not SIDES[side].to_trained_length or max(workload.lengths) <= job.trained_length


def _measure_and_compare(name: str, job: Job, side: str, reference: str) -> dict[str, compare.Outcome]:
    """Workload -> what `measure` finds in a new process, with `difference` and `cosine`; or the `error`."""
    outcome = compare.try_in_fresh_process(name, measure, job, side)
    if "error" in outcome:
        return {each.name: outcome for each in job.workloads}
    for workload in job.workloads:
        if _is_comparable(job, workload, side):
            outcome[workload.name] |= distance(job, workload, side, reference)
    return outcome


def embed_in_float32(job: Job) -> None:
    """Write the embeddings that lower precisions are compared with."""
    encode_with_prompt = SIDES["ours_tokens"].open(replace(job, precision="fp32"))
    for workload in job.workloads:
        file = job.embeddings_file(workload, _FLOAT32)
        write_array(file, encode_with_prompt(workload.prompt, workload.texts, None))


def distance(job: Job, workload: Workload, side: str, reference: str) -> dict[str, float]:
    """The largest `difference` of a component at unit length; below fp32 the lowest `cosine` with fp32 too.

    Args:
        job: with the embeddings of both.
        workload: that was embedded.
        side: that is compared.
        reference: another side, for fp32; nothing is found where it was not measured.
    """
    file = job.embeddings_file(workload, reference if job.precision == "fp32" else _FLOAT32)
    if not file.is_file():
        return {}
    expected, found = _unit(np.load(file)), _unit(np.load(job.embeddings_file(workload, side)))
    if expected.shape != found.shape:
        return {"difference": float("inf")}
    difference = {"difference": float(np.nan_to_num(np.abs(expected - found).max(), nan=np.inf))}
    return difference if job.precision == "fp32" else difference | {"cosine": float((expected * found).sum(1).min())}


def _unit(embeddings: np.ndarray) -> np.ndarray:
    embeddings = embeddings.astype(np.float64)
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def _explain(size: str, args: argparse.Namespace, sides: Sequence[str], texts: Texts) -> str:
    points = "; ".join(f"{name}: {what}" for name, what in _SWEEPS.items())
    what = f"Points: {points}." if args.growth else f"Workloads: {'; '.join(map(_describe, texts.workloads))}."
    return (
        f"Model: {size}, random weights, {args.precision} on {args.device}. Sides: "
        f"{'; '.join(f'{side}: {SIDES[side].about}' for side in sides)}. {what} Text: {texts.source}, joined and cut. "
        f"Largest difference: of any component from {sides[0] if args.precision == 'fp32' else 'ours in fp32'} at unit "
        "length."
    )


def _describe(workload: Workload) -> str:
    least, most = min(workload.lengths), max(workload.lengths)
    lengths = f"{most:,}" if least == most else f"{least:,} to {most:,}"
    return f"{workload.name}: {len(workload.lengths):,} of {lengths} tokens, {workload.tokens:,} in all"


def _parser() -> argparse.ArgumentParser:
    parser = compare.new_parser(__doc__, ("fp32", "bf16", "int8"))
    parser.add_argument(
        "--sizes",
        nargs="+",
        choices=("tiny", "small", "base"),
        default=["tiny"],
        help="2 layers of 128; 6 of 384; 137M",
    )
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--sides", nargs="+", choices=SIDES, help="default: all that run here")
    parser.add_argument(
        "--growth", action="store_true", help="speed against length, texts at once and spread of lengths instead"
    )
    parser.add_argument("--tokens", type=int, help="of a point of --growth; default 8,192, on a GPU 262,144")
    parser.add_argument("--scale", type=int, help="times as many texts, except of query; default 1, on a GPU 32")
    parser.add_argument(
        "--together", action="store_true", help="all workloads of a side in one process, the longest last"
    )
    parser.add_argument(
        "--texts", nargs="+", default=[], help=".jsonl(.gz) with document or text; default: documentation of packages"
    )
    parser.add_argument(
        "--tokenizer", help="directory, hub name or vocab.txt; default: a WordPiece trained on the text"
    )
    return parser


if __name__ == "__main__":
    compare.start(main)
