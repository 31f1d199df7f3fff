"""Stage 1's speed: MLMTrainer against transformers' Trainer with its own NomicBertForMaskedLM and collator, in one run.

python benchmarks/train_mlm.py --size small
python benchmarks/train_mlm.py --size base --device cuda --precision bf16 --compile off on --profile

Both sides train on the same packed 2,048-token blocks, from the same weights, with the same optimizer, threads and
loader workers, each in a process of its own, in turn. Before that, both must give the same loss on one masked batch.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

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
from benchmarks.mlm_sides import (
    BLOCK_SIZE,
    SIZES,
    Side,
    Workload,
    compare_losses,
    describe_losses,
    measure,
    prepare_data,
    prepare_weights,
    useful_flops,
)
from benchmarks.profiles import STEP_HEADING, profile_table
from benchmarks.texts import VOCAB_SIZE
from nomic_bert import NomicBertConfig

_MATMUL = "matmul"


def build_sides(attend: Sequence[str], compiled: Sequence[str]) -> list[Side]:
    """Ours for each way to attend, and native beside attention across documents: it knows no other."""
    sides = []
    for state in compiled:
        on = state == "on"
        if "across" in attend:
            sides += [Side(native=False, compiled=on), Side(native=True, compiled=on)]
        if "inside" in attend:
            sides.append(Side(native=False, inside=True, compiled=on))
    return sides


def main(argv: Sequence[str]) -> None:
    """Measure as the command line says."""
    args = _parser().parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: --device cuda, but torch sees no GPU here.")
    if args.threads:
        torch.set_num_threads(args.threads)
    sides = build_sides(args.attend, args.compile)
    with tempfile.TemporaryDirectory() as directory:
        workload = _workload(args, Path(directory))
        config = NomicBertConfig(**SIZES[args.size], vocab_size=VOCAB_SIZE, rotary_scaling_factor=None)
        try:
            text = prepare_data(workload, args.documents, args.tokenizer)
        except (ValueError, OSError) as error:
            raise SystemExit(f"error: {error}") from error
        prepare_weights(workload.directory, config)
        same = in_fresh_process(compare_losses, workload)
        print(describe_losses(same), flush=True)
        setting = {"size": args.size, **workload.shown(), "text": text, "same_loss": same}
        name = f"train_mlm-{args.size}-{args.device}-{args.precision}"
        table = ""

        def write(outcomes: dict[str, list]) -> None:
            nonlocal table
            rate = max(outcomes[_MATMUL])
            report = summarize(outcomes, sides, rate, config, text["attended_tokens"])
            table = render(report, {**setting, "matmul_flops": rate, "rounds": describe_rounds(outcomes)})
            write_results(name, {**setting, "matmul_flops": outcomes[_MATMUL], "sides": report}, table, args.results)

        machine = (workload.device, workload.precision, workload.threads)
        measurements: dict[str, Callable[[], Any]] = {
            _MATMUL: partial(in_fresh_process, measure_matmul, *machine)  # first: all others are compared with it
        }
        for side in sides:
            measurements[side.name] = partial(try_in_fresh_process, side.name, _show, measure, workload, side)
        outcomes = alternate(measurements, args.repeats, write)
    print(f"\n{table}", flush=True)
    if failed := [side.name for side in sides if not side.native and "error" in outcomes[side.name][-1]]:
        raise SystemExit(f"error: {', '.join(failed)} failed; see the table above.")


def _show(outcome: dict[str, Any]) -> str:
    return f"{outcome['tokens_per_second']:,.0f} tokens/s, loss {outcome['loss']:.3f}"


def summarize(
    outcomes: dict[str, list], sides: Sequence[Side], rate: float, config: NomicBertConfig, document_tokens: float
) -> dict[str, dict[str, Any]]:
    """Side -> spread of its tokens per second, and what follows; or its `error`; nothing where it was not measured.

    `times_native` is the ratio of the medians to native's with the same compilation, `share_of_matmul` the part of
    the measured matmul rate that useful work reached.
    """
    report: dict[str, dict[str, Any]] = {}
    for side in sides:
        good = [outcome for outcome in outcomes[side.name] if "error" not in outcome]
        if len(good) < len(outcomes[side.name]):
            report[side.name] = {"error": next(o["error"] for o in outcomes[side.name] if "error" in o)}
            continue
        if not good:
            report[side.name] = {}
            continue
        speed = spread([outcome["tokens_per_second"] for outcome in good])
        flops = useful_flops(config, document_tokens if side.inside else BLOCK_SIZE)
        report[side.name] = {
            "tokens_per_second": speed,
            "repeats": [outcome["tokens_per_second"] for outcome in good],
            "peak_memory": max(outcome["peak_memory"] for outcome in good),
            "loss": spread([outcome["loss"] for outcome in good]),
            "flops_per_token": flops,
            "share_of_matmul": speed["median"] * flops / rate,
            "profile": good[-1]["profile"],
        }
    for side in sides:
        own, native = report[side.name], report.get(Side(native=True, compiled=side.compiled).name, {})
        if "tokens_per_second" in own and "tokens_per_second" in native:
            own["times_native"] = own["tokens_per_second"]["median"] / native["tokens_per_second"]["median"]
    return report


def render(report: dict[str, dict[str, Any]], setting: dict[str, Any]) -> str:
    """The tables, and under them what was measured."""
    rows = []
    for name, side in report.items():
        if "tokens_per_second" not in side:
            why = f"failed: {side['error'].replace('|', '/')}" if "error" in side else NOT_MEASURED
            rows.append([name, why, "", "", "", ""])
            continue
        speed = side["tokens_per_second"]
        ratio = f"{side['times_native']:.2f}" if "times_native" in side else ""
        rows.append(
            [
                name,
                f"{speed['median']:,.0f}",
                f"{speed['min']:,.0f} to {speed['max']:,.0f}",
                ratio,
                f"{side['peak_memory'] / 2**30:.2f}",
                f"{side['share_of_matmul']:.0%}",
            ]
        )
    header = ["side", "tokens/s, median", "min to max", "times native", "peak memory, GiB", "share of matmul rate"]
    profiles = {name: side.get("profile", {}) for name, side in report.items()}
    return "\n\n".join([markdown_table(header, rows), _explain(setting), *profile_table(STEP_HEADING, profiles)])


def _explain(setting: dict[str, Any]) -> str:
    text = setting["text"]
    where = "allocated on the GPU" if setting["device"] == "cuda" else "resident"
    return (
        f"{setting['size']} model, {setting['precision']}, {setting['blocks']} blocks of {BLOCK_SIZE:,} tokens a step, "
        f"{setting['steps']} steps timed after {setting['warmup']}; {setting['rounds']}, each in a new process, sides "
        "in turn. All tokens are real; time is of whole optimizer steps with loader and collator. "
        f"Peak memory is {where}. "
        f"Matmul rate: {setting['matmul_flops'] / 1e12:,.2f} TFLOP/s, the best of all rounds; its share "
        f"counts useful work only, for every side the head on masked tokens. {describe_losses(setting['same_loss'])} "
        f"Text: {text['source']}, {text['distinct_blocks']:,} distinct blocks of {text['blocks']:,}, documents of "
        f"{text['mean_document_tokens']:,.0f} tokens on average ({text['attended_tokens']:,.0f} weighted by tokens); "
        f"{text['tokens_in_vocabulary']:,} tokens in the tokenizer, {VOCAB_SIZE:,} rows in the model."
    )


def _workload(args: argparse.Namespace, directory: Path) -> Workload:
    on_gpu, small = args.device == "cuda", args.size == "small"
    return Workload(
        directory=directory,
        device=args.device,
        precision=args.precision,
        blocks=args.blocks or (32 if on_gpu else 2 if small else 1),
        warmup=args.warmup or (10 if on_gpu else 2),
        steps=args.steps or (30 if on_gpu else 10 if small else 5),
        profiled=(10 if on_gpu else 3) if args.profile else 0,
        workers=4 if on_gpu else 0,
        threads=torch.get_num_threads(),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small", help="6 layers of 384, or 137M parameters")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--attend", nargs="+", choices=("across", "inside"), default=["across", "inside"])
    parser.add_argument("--compile", nargs="+", choices=("off", "on"), default=["off"], help="torch_compile, all sides")
    parser.add_argument(
        "--documents", nargs="+", default=[], help="files of text; default: docstrings of torch and transformers"
    )
    parser.add_argument(
        "--tokenizer", help="directory, hub name or vocab.txt; default: a WordPiece trained on the text"
    )
    parser.add_argument("--blocks", type=int, help="of 2,048 tokens, a step; default 2 (small), 1 (base), 32 (GPU)")
    parser.add_argument("--warmup", type=int, help="steps before the clock starts")
    parser.add_argument("--steps", type=int, help="timed steps")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each side")
    parser.add_argument("--threads", type=int, help="of torch; default: its own choice")
    parser.add_argument("--profile", action="store_true", help="also profile a few steps of each side, by kind of work")
    parser.add_argument("--results", type=Path, default=Path("outputs/benchmarks"), help="directory")
    return parser


if __name__ == "__main__":
    exit_at_sigterm()
    main(sys.argv[1:])
