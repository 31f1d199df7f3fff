"""How fast texts are embedded: ours beside sentence-transformers on transformers' own NomicBert, and ONNX Runtime.

python benchmarks/encode.py
python benchmarks/encode.py --sizes base --texts pairs.jsonl.gz manuals.jsonl.gz --tokenizer vocab.txt --growth
python benchmarks/encode.py --sizes base --device cuda --precision bf16

All sides read one directory and embed the same texts, whole calls with tokenizing, each workload in a process of its
own (with --together, each side), in turn. Their embeddings are compared: in fp32 a side whose embeddings differ fails.
With --growth, speed is measured against length, texts at once and the spread of lengths instead. With --profile, one
more call of each workload shows where its time goes.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.encode_report import plot_growth, plot_speeds, render, render_growth, summarize, unequal
from benchmarks.encode_sides import ONNX_FILE, SIDES, Job, Workload, measure, missing_for
from benchmarks.measure import (
    alternate,
    describe_rounds,
    exit_at_sigterm,
    in_fresh_process,
    in_whole_rounds,
    measure_matmul,
    try_in_fresh_process,
    write_results,
)

# What imports our package is imported in functions below: every measuring process imports this file again, and in
# native's, our classes would take the place of transformers' own.

WORKLOADS = {"query": "query", "queries": "query", "mixed": "document", "long": "document", "longest": "document"}
_GROWTH_SIDES = ("ours_tokens", "native_sorted")
_REFERENCE = "ours_tokens"
_MATMUL = "matmul"


def main(argv: Sequence[str]) -> None:
    """Measure as the command line says."""
    args = _parser().parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: --device cuda, but torch sees no GPU here.")
    if args.threads:
        torch.set_num_threads(args.threads)
    failures = []
    try:
        sides = choose_sides(args.sides, args.device, args.growth)
        with tempfile.TemporaryDirectory() as directory:
            texts = _prepare_texts(args, Path(directory))
            for size in args.sizes:
                failures += _measure_size(args, size, sides, texts)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    if failures:
        raise SystemExit(f"error: {'; '.join(failures)}; see the table above.")


def choose_sides(asked: Sequence[str] | None, device: str, growth: bool) -> list[str]:
    """The sides to measure, the one that all others are compared with first.

    Args:
        asked: names; None: every one that runs here, or for growth ours and native's best.
        device: "cpu" or "cuda".
        growth: whether it is for --growth.

    Raises:
        ValueError: a side that was asked for does not run here.
    """
    if asked is not None and (missing := [why for side in asked if (why := missing_for(side, device))]):
        raise ValueError(f"--sides: {'; '.join(missing)}.")
    wanted = asked or (_GROWTH_SIDES if growth else list(SIDES))
    for side in wanted:
        if why := missing_for(side, device):
            print(f"left out: {why}", flush=True)
    return [side for side in SIDES if side in wanted and not missing_for(side, device)]


class Texts(NamedTuple):
    """The tokenizer, the workloads, and where their text is from."""

    tokenizer: Any
    workloads: tuple[Workload, ...]
    source: str


def _prepare_texts(args: argparse.Namespace, directory: Path) -> Texts:
    from benchmarks import encode_workloads as prepare

    on_gpu = args.device == "cuda"
    texts, source = prepare.read_texts(args.texts)
    tokenizer = prepare.prepare_tokenizer(args.tokenizer, texts, directory / "tokenizer")
    if args.growth:
        lengths = prepare.growth_lengths(args.tokens or (262_144 if on_gpu else 8_192))
    else:
        scale = args.scale or (32 if on_gpu else 1)
        lengths = {name: prepare.workload_lengths(name, scale) for name in WORKLOADS if name in args.workloads}
    cutter = prepare.TextCutter(texts, tokenizer)
    workloads = (cutter.workload(name, WORKLOADS.get(name, "document"), each) for name, each in lengths.items())
    return Texts(tokenizer, tuple(workloads), source)


def _measure_size(args: argparse.Namespace, size: str, sides: Sequence[str], texts: Texts) -> list[str]:
    """Measure a model of one size in rounds; returns what failed."""
    with tempfile.TemporaryDirectory() as directory:
        job, setting = _prepare_size(args, size, sides, texts, Path(directory))
        parts = divide(job, sides, args.growth, args.together)
        measurements: dict[str, Callable[[], Any]] = {
            _MATMUL: partial(in_fresh_process, measure_matmul, job.device, job.precision, job.threads)
        }  # first, because all others are compared with it
        for name, (part, side) in parts.items():
            measurements[name] = partial(_measure_and_compare, f"{size}, {name}", part, side)
        table, failures = "", list[str]()

        def write(outcomes: dict[str, list]) -> None:
            nonlocal table, failures
            rates = outcomes[_MATMUL]
            report = summarize(collect(parts, outcomes), setting["workloads"], max(rates))
            measured = {**setting, "rounds": describe_rounds(outcomes), "matmul_flops": rates}
            table = _write(args, size, report, measured, plotted=in_whole_rounds(outcomes))
            failures = _failures(report, args.precision)

        alternate(measurements, args.repeats, write)
    print(f"\n{table}", flush=True)
    return failures


def _prepare_size(
    args: argparse.Namespace, size: str, sides: Sequence[str], texts: Texts, directory: Path
) -> tuple[Job, dict[str, Any]]:
    """Write the model; what to measure, and what the results say about it."""
    from benchmarks.encode_workloads import forward_cost, save_model
    from publishing.onnx_export import export_onnx

    config = save_model(size, texts.tokenizer, directory / "model")
    if "onnx" in sides:
        in_fresh_process(export_onnx, directory / "model", directory / ONNX_FILE)  # whose memory goes with it
    job = Job(
        model=directory / "model",
        workloads=texts.workloads,
        device=args.device,
        precision=args.precision,
        threads=torch.get_num_threads(),
        trained_length=config.max_trained_positions,
        embeddings=directory,
        profiled=args.profile,
    )
    setting = {
        "size": f"{size}, {config.num_hidden_layers} layers of {config.hidden_size}",
        "device": args.device,
        "precision": args.precision,
        "source": texts.source,
        "tokens_in_vocabulary": len(texts.tokenizer),
        "workloads": {each.name: _describe(each) | forward_cost(config, each) for each in texts.workloads},
    }
    return job, setting


def _describe(workload: Workload) -> dict[str, Any]:
    lengths = workload.lengths
    about = {"texts": len(lengths), "tokens": workload.tokens, "shortest": min(lengths), "longest": max(lengths)}
    return about | {"prompt": workload.prompt}


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


def _is_comparable(job: Job, workload: Workload, side: str) -> bool:
    """Whether a side computes the same model: native does not scale RoPE beyond the trained length."""
    return not side.startswith("native") or max(workload.lengths) <= job.trained_length


def _measure_and_compare(name: str, job: Job, side: str) -> dict[str, Any]:
    """Workload -> what `measure` finds in a new process, with the `difference`; or the `error`."""
    outcome = try_in_fresh_process(name, _show, measure, job, side)
    if "error" in outcome:
        return {each.name: outcome for each in job.workloads}
    for workload in job.workloads:
        comparable = _is_comparable(job, workload, side)
        outcome[workload.name]["difference"] = largest_difference(job, workload, side) if comparable else None
    return outcome


def largest_difference(job: Job, workload: Workload, side: str) -> float | None:
    """Of any component of any embedding from the reference's at unit length; None: the reference was not measured."""
    reference = job.embeddings_file(workload, _REFERENCE)
    if not reference.is_file():
        return None
    expected, found = (_unit(np.load(file)) for file in (reference, job.embeddings_file(workload, side)))
    if expected.shape != found.shape:
        return float("inf")
    return float(np.nan_to_num(np.abs(expected - found).max(), nan=np.inf))


def _unit(embeddings: np.ndarray) -> np.ndarray:
    embeddings = embeddings.astype(np.float64)
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def _show(outcome: dict[str, Any]) -> str:
    return ", ".join(f"{name} {each['seconds']:.3f} s" for name, each in outcome.items())


def collect(parts: Mapping[str, tuple[Job, str]], outcomes: Mapping[str, list]) -> dict[str, dict[str, list]]:
    """What each measurement found in each round, rearranged: workload -> side -> one outcome a round, perhaps none."""
    collected: dict[str, dict[str, list]] = {}
    for name, (job, side) in parts.items():
        for workload in job.workloads:
            rounds = [found[workload.name] for found in outcomes[name]]
            collected.setdefault(workload.name, {})[side] = rounds
    return collected


def _write(args: argparse.Namespace, size: str, report: dict[str, Any], setting: dict[str, Any], plotted: bool) -> str:
    """Table, figures and, after a whole round, the plot, as files; returns the table."""
    table = render_growth(report, setting) if args.growth else render(report, setting)
    name = f"{'encode_growth' if args.growth else 'encode'}-{size}-{args.device}-{args.precision}"
    page = write_results(name, {**setting, "figures": report}, table, args.results)
    if plotted and args.growth:
        plot_growth(report, setting, page.with_suffix(".png"))
    elif plotted:
        plot_speeds(report, page.with_suffix(".png"))
    return table


def _failures(report: dict[str, Any], precision: str) -> list[str]:
    """Sides of ours without figures, and in fp32 every side with other embeddings."""
    failed = [
        f"{workload}, {side} failed"
        for workload, figures in report.items()
        for side, figure in figures.items()
        if "error" in figure and side.startswith("ours")
    ]
    return failed + [f"{name}: not the same embeddings" for name in unequal(report) if precision == "fp32"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=("tiny", "base"), default=["tiny"], help="2 layers of 128; 137M")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument(
        "--sides", nargs="+", choices=SIDES, help="default: all that run here; compared with ours_tokens"
    )
    more = parser.add_mutually_exclusive_group()
    more.add_argument("--growth", action="store_true", help="speed against length, texts at once and spread instead")
    more.add_argument("--profile", action="store_true", help="profile one more call of each, by kind of work")
    parser.add_argument("--tokens", type=int, help="of a point of --growth; default 8,192, on a GPU 262,144")
    parser.add_argument("--scale", type=int, help="times as many texts, save of query; default 1, on a GPU 32")
    parser.add_argument(
        "--together", action="store_true", help="all workloads of a side in one process, the longest last"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument(
        "--texts", nargs="+", default=[], help=".jsonl(.gz) with document or text; default: documentation of packages"
    )
    parser.add_argument(
        "--tokenizer", help="directory, hub name or vocab.txt; default: a WordPiece trained on the text"
    )
    parser.add_argument("--repeats", type=int, default=3, help="rounds")
    parser.add_argument("--threads", type=int, help="on the CPU; default: as torch chooses")
    parser.add_argument("--results", type=Path, default=Path("outputs/benchmarks"), help="directory")
    return parser


if __name__ == "__main__":
    exit_at_sigterm()
    main(sys.argv[1:])
