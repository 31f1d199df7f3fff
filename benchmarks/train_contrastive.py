"""Stage 2's speed and memory: ContrastiveTrainer against sentence-transformers' trainer and losses, in one run.

python benchmarks/train_contrastive.py --size small
python benchmarks/train_contrastive.py --memory
python benchmarks/train_contrastive.py --size base --device cuda --precision bf16 --pairs 16384

All sides train on the same batches of texts of mixed length, from the same weights, with the same optimizer, threads
and loader workers, each in a process of its own, in turn. Before that, all batches must hold the same tokens, and both
must give the same loss. Theirs runs transformers' own NomicBertModel. With --memory, ours alone is measured at growing
global batches.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.contrastive_sides import (
    Side,
    Workload,
    compare_sides,
    describe_losses,
    measure,
    needed_flops,
    prepare,
)
from benchmarks.measure import (
    NOT_MEASURED,
    alternate,
    describe_rounds,
    exit_at_sigterm,
    in_fresh_process,
    markdown_table,
    measure_matmul,
    spread,
    try_in_fresh_process,
    write_results,
)
from benchmarks.mlm_sides import SIZES
from benchmarks.profiles import STEP_HEADING, profile_table
from benchmarks.texts import VOCAB_SIZE
from nomic_bert import NomicBertConfig

_MEMORY_SIZE = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
_MEMORY_PAIRS = (256, 1024, 4096)
_MATMUL = "matmul"


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
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: --device cuda, but torch sees no GPU here.")
    if args.threads:
        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as directory:
        try:
            table = (_measure_speed if args.memory is None else _measure_memory)(args, Path(directory))
        except (ValueError, OSError) as error:
            raise SystemExit(f"error: {error}") from error
    print(f"\n{table}", flush=True)


def _measure_speed(args: argparse.Namespace, directory: Path) -> str:
    workload, config = _workload(args, directory), _config(SIZES[args.size])
    on_gpu = args.device == "cuda"
    chunk_tokens = args.chunk_tokens or (65_536 if on_gpu else 4_096)
    mini_batch_tokens = chunk_tokens if args.mini_batch_tokens is None else args.mini_batch_tokens
    one_pass = not on_gpu if args.one_pass is None else args.one_pass
    sides = build_sides(chunk_tokens, args.mini_batch_sizes, mini_batch_tokens, one_pass)
    text = prepare(workload, args.pairs_files, args.tokenizer, config)
    same = in_fresh_process(compare_sides, workload)
    print(describe_losses(same), flush=True)
    setting = {"size": args.size, **workload.shown(), "text": text, "same": same}
    name, table = f"train_contrastive-{args.size}-{args.device}-{args.precision}", ""

    def write(outcomes: dict[str, list]) -> None:
        nonlocal table
        rate, flops = max(outcomes[_MATMUL]), needed_flops(config, same["tokens"], same["attended"])
        report = summarize(outcomes, sides, rate, flops, workload.pairs, same["tokens"])
        shown = {**setting, "matmul_flops": rate, "needed_flops": flops, "rounds": describe_rounds(outcomes)}
        table = render(report, shown)
        result = {**setting, "needed_flops": flops, "matmul_flops": outcomes[_MATMUL], "sides": report}
        write_results(name, result, table, args.results)

    machine = (workload.device, workload.precision, workload.threads)
    measurements: dict[str, Callable[[], Any]] = {
        _MATMUL: partial(in_fresh_process, measure_matmul, *machine)  # first: all others are compared with it
    }
    for side in sides:
        measurements[side.name] = partial(try_in_fresh_process, side.name, _show, measure, workload, side)
    outcomes = alternate(measurements, args.repeats, write)
    if failed := [side.name for side in sides if side.ours and "error" in outcomes[side.name][-1]]:
        raise SystemExit(f"{table}\n\nerror: {', '.join(failed)} failed; see the table above.")
    return table


def _show(outcome: dict[str, Any]) -> str:
    return f"{outcome['seconds']:,.2f} s a step, loss {outcome['loss']:.4f}, {outcome['peak_memory'] / 2**30:.2f} GiB"


def summarize(
    outcomes: dict[str, list], sides: Sequence[Side], rate: float, flops: float, pairs: int, tokens: float
) -> dict[str, dict[str, Any]]:
    """Side -> spread of its seconds a step, and what follows; or its `error`; nothing where it was not measured.

    Args:
        outcomes: side -> what `measure` returned, one a repeat.
        sides: that were measured.
        rate: FLOP/s of matrix products on the machine.
        flops: that a step must cost.
        pairs: of a step.
        tokens: of a step, real ones.

    Returns:
        `times_ours` is the ratio of the median to ours in the same way (GradCache or one pass), `share_of_matmul` the
        part of the measured matmul rate that needed work reached.
    """
    report: dict[str, dict[str, Any]] = {}
    for side in sides:
        errors = [outcome["error"] for outcome in outcomes[side.name] if "error" in outcome]
        if errors:
            report[side.name] = {"error": errors[0]}
            continue
        if not outcomes[side.name]:
            report[side.name] = {}
            continue
        repeats = [outcome["seconds"] for outcome in outcomes[side.name]]
        seconds = spread(repeats)
        report[side.name] = {
            "seconds": seconds,
            "repeats": repeats,
            "pairs_per_second": pairs / seconds["median"],
            "tokens_per_second": tokens / seconds["median"],
            "share_of_matmul": flops / seconds["median"] / rate,
            "peak_memory": max(outcome["peak_memory"] for outcome in outcomes[side.name]),
            "loss": spread([outcome["loss"] for outcome in outcomes[side.name]]),
            "profile": outcomes[side.name][-1]["profile"],
        }
    for side in sides:
        ours = next((other.name for other in sides if other.ours and other.cached == side.cached), "")
        if "seconds" in report[side.name] and "seconds" in report.get(ours, {}):
            median = report[side.name]["seconds"]["median"]
            report[side.name]["times_ours"] = median / report[ours]["seconds"]["median"]
    return report


def render(report: dict[str, dict[str, Any]], setting: dict[str, Any]) -> str:
    """The tables, and under them what was measured."""
    header = ["side", "s a step, median", "min to max", "times ours", "pairs/s", "tokens/s", "share of matmul rate"]
    header += ["peak memory, GiB", "loss"]
    rows = []
    for name, side in report.items():
        if "seconds" not in side:
            why = f"failed: {side['error'].replace('|', '/')}" if "error" in side else NOT_MEASURED
            rows.append([name, why, *[""] * (len(header) - 2)])
            continue
        seconds = side["seconds"]
        rows.append(
            [
                name,
                f"{seconds['median']:,.2f}",
                f"{seconds['min']:,.2f} to {seconds['max']:,.2f}",
                f"{side['times_ours']:.2f}" if "times_ours" in side else "",
                f"{side['pairs_per_second']:,.1f}",
                f"{side['tokens_per_second']:,.0f}",
                f"{side['share_of_matmul']:.0%}",
                f"{side['peak_memory'] / 2**30:.2f}",
                f"{side['loss']['median']:.4f}",
            ]
        )
    profiles = {name: side.get("profile", {}) for name, side in report.items()}
    return "\n\n".join([markdown_table(header, rows), _explain(setting), *profile_table(STEP_HEADING, profiles)])


def _explain(setting: dict[str, Any]) -> str:
    text, same = setting["text"], setting["same"]
    where = "allocated on the GPU" if setting["device"] == "cuda" else "resident"
    texts = 2 * setting["pairs"]
    return (
        f"{setting['size']} model, {setting['precision']}, {setting['pairs']:,} pairs a step: {same['tokens']:,.0f} "
        f"real tokens, {same['tokens'] / texts:,.0f} a text on average, cut at {setting['max_length']:,}. "
        f"{setting['steps']} steps timed after {setting['warmup']}; {setting['rounds']}, each in a new process, sides "
        "in turn. Time is of whole optimizer steps: loader, tokenizing, forward, backward, clipping, AdamW. Theirs: "
        "sentence-transformers' trainer and (Cached)MultipleNegativesRankingLoss around transformers' NomicBertModel, "
        "padded; its GradCache takes texts or tokens at a time. Times ours compares GradCache with GradCache and one "
        f"pass with one pass. Peak memory is {where}. Matmul rate: {setting['matmul_flops'] / 1e12:,.3f} TFLOP/s, the "
        f"best of all rounds; its share counts, for every side, the {setting['needed_flops'] / 1e12:,.2f} TFLOP of one "
        "forward and backward pass over real tokens: GradCache's second forward pass counts as nothing. Before timing, "
        f"all batches of both sides held the same tokens. {describe_losses(same)} The loss in the table is the mean of "
        f"a run. Text: {text['source']}, {text['distinct_pairs']:,} distinct pairs of {text['pairs']:,}; "
        f"{text['tokens_in_vocabulary']:,} tokens in the tokenizer, {VOCAB_SIZE:,} rows in the model."
    )


def _measure_memory(args: argparse.Namespace, directory: Path) -> str:
    sizes, config = args.memory or list(_MEMORY_PAIRS), _config(_MEMORY_SIZE)
    workload = replace(_workload(args, directory), warmup=1, steps=1, profiled=0)
    side = Side(ours=True, tokens=args.chunk_tokens or 2_048)
    text = prepare(workload, args.pairs_files, args.tokenizer, config, pairs=max(sizes) * workload.all_steps)
    setting = {**workload.shown(), "chunk_tokens": side.tokens, "text": text, "model": _MEMORY_SIZE}
    table = ""

    def write(outcomes: dict[str, list]) -> None:
        nonlocal table
        report = summarize_memory(outcomes, config.hidden_size)
        table = render_memory(report, setting)
        write_results(f"contrastive_memory-{args.device}", {**setting, "batches": report}, table, args.results)

    measurements: dict[str, Callable[[], Any]] = {
        str(pairs): partial(
            try_in_fresh_process, f"{pairs:,} pairs", _show, measure, replace(workload, pairs=pairs), side
        )
        for pairs in sizes
    }
    alternate(measurements, args.repeats, write)
    return table


def summarize_memory(outcomes: dict[str, list], dimension: int) -> dict[str, dict[str, Any]]:
    """Pairs of a step -> `peak_memory`, its `growth` over the first batch, and the bytes of the `embeddings`."""
    report: dict[str, dict[str, Any]] = {}
    for pairs, repeats in outcomes.items():
        errors = [outcome["error"] for outcome in repeats if "error" in outcome]
        report[pairs] = {"embeddings": 2 * int(pairs) * dimension * torch.float32.itemsize}
        if errors:
            report[pairs]["error"] = errors[0]
        elif repeats:
            report[pairs]["peak_memory"] = spread([outcome["peak_memory"] for outcome in repeats])
    first = next(iter(report.values()))
    for batch in report.values():
        if "peak_memory" in batch and "peak_memory" in first:
            batch["growth"] = batch["peak_memory"]["median"] - first["peak_memory"]["median"]
    return report


def render_memory(report: dict[str, dict[str, Any]], setting: dict[str, Any]) -> str:
    """The table, and under it what was measured."""
    header = ["global batch, pairs", "peak memory, MiB, median", "min to max", "more than the first", "embeddings, MiB"]
    rows = []
    for pairs, batch in report.items():
        cells = [f"failed: {batch['error'].replace('|', '/')}" if "error" in batch else NOT_MEASURED, "", ""]
        if peak := batch.get("peak_memory"):
            growth = f"{batch['growth'] / 2**20:,.0f}" if "growth" in batch else ""
            span = f"{peak['min'] / 2**20:,.0f} to {peak['max'] / 2**20:,.0f}"
            cells = [f"{peak['median'] / 2**20:,.0f}", span, growth]
        rows.append([f"{int(pairs):,}", *cells, f"{batch['embeddings'] / 2**20:,.2f}"])
    model, text = setting["model"], setting["text"]
    where = "allocated on the GPU" if setting["device"] == "cuda" else "resident, Python and its packages included"
    return markdown_table(header, rows) + (
        f"\n\nOurs, GradCache of {setting['chunk_tokens']:,} tokens, {model['num_hidden_layers']} layers of "
        f"{model['hidden_size']}, {setting['precision']}, texts cut at {setting['max_length']:,} tokens. Most memory "
        f"{where}, of a new process after one step of warm-up and one more. Embeddings: one float32 vector a text. "
        f"Text: {text['source']}, {text['distinct_pairs']:,} distinct pairs of {text['pairs']:,}."
    )


def _config(size: dict[str, int]) -> NomicBertConfig:
    return NomicBertConfig(**size, vocab_size=VOCAB_SIZE, rotary_scaling_factor=None)


def _workload(args: argparse.Namespace, directory: Path) -> Workload:
    return Workload(
        directory=directory,
        device=args.device,
        precision=args.precision,
        pairs=args.pairs,
        max_length=args.max_length,
        warmup=args.warmup,
        steps=args.steps or (1 if args.size == "base" and args.device == "cpu" else 2),
        profiled=int(args.profile),
        workers=4 if args.device == "cuda" else 0,
        threads=torch.get_num_threads(),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small", help="6 layers of 384, or 137M parameters")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--pairs", type=int, default=128, help="of a step")
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
    parser.add_argument(
        "--tokenizer", help="directory, hub name or vocab.txt; default: a WordPiece trained on the text"
    )
    parser.add_argument("--warmup", type=int, default=1, help="steps before the clock starts")
    parser.add_argument("--steps", type=int, help="timed steps; default 2, for base on a CPU 1")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each side")
    parser.add_argument("--threads", type=int, help="of torch; default: its own choice")
    parser.add_argument("--profile", action="store_true", help="also profile a step of each side, by kind of work")
    parser.add_argument("--results", type=Path, default=Path("outputs/benchmarks"), help="directory")
    return parser


if __name__ == "__main__":
    exit_at_sigterm()
    main(sys.argv[1:])
