"""What all benchmarks share: the command line, sides that take turns, the summary, the table and the results.

A benchmark lists its rows (a side, on a workload) and its measurements, and `run` does the rest. Nothing of this
project's model is imported with this file: in the process of a peer our classes would replace transformers' own.
"""

import argparse
import resource
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.plots import can_plot, plot_bars
from benchmarks.profiles import profile_table
from benchmarks.results import write_results
from textfiles.commands import one_line_errors
from textfiles.markdown import table
from textfiles.paths import output_directory

NOT_MEASURED = "not measured"  # a row of a benchmark that was stopped before it
LARGEST_DIFFERENCE = 1e-5  # of results that must be equal in float32
_MATMUL = ("", "matmul")

Outcome = dict[str, Any]
Key = tuple[str, str]  # workload, side


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table: one side's work on one workload.

    Attributes:
        side: who does the work.
        workload: what is done; empty where a benchmark has only one workload.
        reference: side of the same workload that this one's time is compared with; empty: not compared.
        ours: whether the run fails if this row does.
        tokens: real ones, in the work that is timed; 0: not counted.
        flops: that the work must cost, whoever does it; 0: not counted.
        matmul: side of the same workload that shows the rate of matrix products; empty: the rate is measured apart.
        notes: further columns, title -> cell.
    """

    side: str
    workload: str = ""
    reference: str = ""
    ours: bool = False
    tokens: float = 0
    flops: float = 0
    matmul: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """Workload and side."""
        return self.workload, self.side


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One measurement of a side, which may cover several workloads.

    Attributes:
        side: that is measured.
        measure: returns workload -> outcome: `seconds`, and where there is one `peak_memory` in bytes, `loss`,
            `batch_size`, `difference` from the reference's result, lowest `cosine` with float32's, `profile` and
            `counts`; or only `error`.
        workloads: that it covers.
    """

    side: str
    measure: Callable[[], Mapping[str, Outcome]]
    workloads: tuple[str, ...] = ("",)


def new_parser(description: str | None, precisions: Sequence[str] = ("fp32", "bf16")) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark; --precision and --profile only where there are precisions."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    if precisions:
        parser.add_argument("--precision", choices=precisions, default=precisions[0])
        parser.add_argument("--profile", action="store_true", help="also profile each side, by kind of work")
    parser.add_argument("--repeats", type=int, default=3, help="rounds in which every side is measured once")
    parser.add_argument("--threads", type=int, help="of torch on the CPU; default: torch's own choice")
    parser.add_argument("--results", type=output_directory, default=Path("outputs/benchmarks"), help="directory")
    return parser


@contextmanager
def session(args: argparse.Namespace) -> Iterator[Path]:
    """A temporary directory for a benchmark, after its device and threads are set; errors of its input end it.

    Raises:
        SystemExit: no GPU for --device cuda, or a ValueError or OSError was raised.
    """
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("error: --device cuda, but torch sees no GPU here.")
    if args.threads:
        torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as directory, one_line_errors():
        yield Path(directory)


def start(main: Callable[[Sequence[str]], None]) -> None:
    """Run `main` as a program that a time limit may stop: temporary directories go, and what was measured is kept."""

    def stop(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # `timeout` signals twice
        sys.exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    main(sys.argv[1:])


def run(
    name: str,
    rows: Sequence[Row],
    measurements: Sequence[Measurement],
    args: argparse.Namespace,
    setting: Mapping[str, Any],
    text: str,
    plot: Callable[[Sequence[Row], Mapping[Key, Any], Path], None] = plot_bars,
) -> None:
    """Measure all sides in turns, write results after every measurement, and print the table.

    Args:
        name: of the results, such as `search-cpu`.
        rows: of the table, in its order.
        measurements: in the order in which they take turns.
        args: with the options of `new_parser`.
        setting: kept in the JSON file beside the figures.
        text: below the table: what was measured.
        plot: draws rows and figures into a file, after whole rounds.

    Raises:
        SystemExit: a row of ours failed, or results differ that must be equal.
    """
    turns: dict[Key, Callable[[], Any]] = {}
    if any(row.flops and not row.matmul for row in rows):
        machine = (args.device, getattr(args, "precision", "fp32"), torch.get_num_threads())
        turns[_MATMUL] = partial(in_fresh_process, measure_matmul, *machine)  # first: all others are compared with it
    turns |= {(each.workloads[0], each.side): each.measure for each in measurements}
    page, failures = "", list[str]()

    def write(outcomes: Mapping[Key, list]) -> None:
        nonlocal page, failures
        rates = outcomes.get(_MATMUL, [])
        figures = summarize(rows, by_row(measurements, outcomes), max(rates, default=None))
        rounds = describe_rounds(outcomes)
        about = " ".join(filter(None, [text, f"{rounds}.", _describe_matmul(rates), _describe_memory(figures, args)]))
        exact = getattr(args, "precision", "fp32") == "fp32"
        page = "\n\n".join([render(rows, figures, exact), about, *_profiles(rows, figures)])
        kept = [{"workload": row.workload, "side": row.side, **row.notes, **figures[row.key]} for row in rows]
        result = {**setting, "device": args.device, "rounds": rounds, "matmul_flops": rates, "rows": kept}
        path = write_results(name, result, page, args.results)
        if can_plot() and not rounds.startswith("Stopped"):
            plot(rows, figures, path.with_suffix(".png"))
        failures = list(_failures(rows, figures, exact))

    take_turns(turns, args.repeats, write)
    print(f"\n{page}", flush=True)
    if failures:
        raise SystemExit(f"error: {'; '.join(failures)}; see the table above.")


def take_turns(
    sides: Mapping[Key, Callable[[], Any]], repeats: int, after_each: Callable[[dict[Key, list]], None]
) -> dict[Key, list]:
    """Measure every side once a round, so that a machine that slows down or warms up meets all sides alike.

    Args:
        sides: name -> one measurement.
        repeats: rounds.
        after_each: called after each measurement with everything so far, so that a benchmark that is stopped, by
            whatever signal, leaves what it has measured. A side without a measurement has an empty list.

    Returns:
        name -> one outcome a round.
    """
    outcomes: dict[Key, list] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, measure in sides.items():
            outcomes[name].append(measure())
            after_each(outcomes)
    return outcomes


def describe_rounds(outcomes: Mapping[Key, Sequence]) -> str:
    """How many rounds were measured, and whether the last one is whole."""
    rounds = max(len(repeats) for repeats in outcomes.values())
    if len({len(repeats) for repeats in outcomes.values()}) > 1:
        return f"Stopped in round {rounds}"
    return f"{rounds} round{'s' if rounds > 1 else ''}, sides in turn"


def by_row(measurements: Sequence[Measurement], outcomes: Mapping[Key, Sequence]) -> dict[Key, list[Outcome]]:
    """What each measurement found in each round, rearranged: workload and side -> one outcome a round."""
    return {
        (workload, each.side): [found[workload] for found in outcomes[each.workloads[0], each.side]]
        for each in measurements
        for workload in each.workloads
    }


def summarize(
    rows: Sequence[Row], outcomes: Mapping[Key, Sequence[Outcome]], rate: float | None
) -> dict[Key, dict[str, Any]]:
    """Workload and side -> its figures; only the `error` of a round that failed; nothing where none was measured.

    Args:
        rows: of the table.
        outcomes: workload and side -> one outcome a round.
        rate: FLOP/s of matrix products on the machine, if it was measured.

    Returns:
        `seconds` (median, min, max), the `repeats`, `tokens_per_second`, `flops_per_second`, `share_of_matmul`, the
        ratio `times_reference` of the medians, the largest `peak_memory` and `difference`, the lowest `cosine`, the
        `loss` (a spread), the `batch_sizes`, and `profile` and `counts` of the last round; each only where it was
        measured.
    """
    figures = {row.key: _figures(row, outcomes.get(row.key, ())) for row in rows}
    for row in rows:
        own = figures[row.key]
        reference, products = figures.get((row.workload, row.reference)), figures.get((row.workload, row.matmul))
        if "seconds" in own and reference and "seconds" in reference:
            own["times_reference"] = own["seconds"]["median"] / reference["seconds"]["median"]
        reached = products.get("flops_per_second") if products else rate
        if reached and "flops_per_second" in own:
            own["share_of_matmul"] = own["flops_per_second"] / reached
    return figures


def _figures(row: Row, rounds: Sequence[Outcome]) -> dict[str, Any]:
    if errors := [outcome["error"] for outcome in rounds if "error" in outcome]:
        return {"error": errors[0]}
    if not rounds:
        return {}
    repeats = [outcome["seconds"] for outcome in rounds]
    found: dict[str, Any] = {"seconds": spread(repeats), "repeats": repeats}
    if row.tokens:
        found["tokens_per_second"] = row.tokens / found["seconds"]["median"]
    if row.flops:
        found["flops_per_second"] = row.flops / found["seconds"]["median"]
    for name, worst in (("peak_memory", max), ("difference", max), ("cosine", min)):
        if values := [outcome[name] for outcome in rounds if outcome.get(name) is not None]:
            found[name] = worst(values)
    if losses := [outcome["loss"] for outcome in rounds if "loss" in outcome]:
        found["loss"] = spread(losses)
    if sizes := sorted({outcome["batch_size"] for outcome in rounds if outcome.get("batch_size")}):
        found["batch_sizes"] = sizes
    return found | {name: rounds[-1][name] for name in ("profile", "counts") if rounds[-1].get(name)}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, min and max of repeats."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def render(rows: Sequence[Row], figures: Mapping[Key, Mapping[str, Any]], exact: bool) -> str:
    """The table; a column without a value is left out.

    Args:
        rows: in order.
        figures: of `summarize`.
        exact: whether results should agree to float noise; differences are marked where they do not.
    """
    cells: list[dict[str, str]] = []
    for row in rows:
        found = figures[row.key]
        first = {"workload": row.workload, "side": row.side}
        if "seconds" not in found:
            why = f"failed: {found['error'].replace('|', '/')}" if "error" in found else NOT_MEASURED
            cells.append(first | {"s, median": why} | dict(row.notes))
        else:
            cells.append(first | _cells(found, exact) | dict(row.notes))
    header = list(dict.fromkeys(title for row in sorted(cells, key=len, reverse=True) for title in row))
    header = [title for title in header if title in ("side", "s, median") or any(row.get(title) for row in cells)]
    texts = header.index("side") + 1
    return table(header, [[row.get(title, "") for title in header] for row in cells], numbers=len(header) - texts)


def _cells(found: Mapping[str, Any], exact: bool) -> dict[str, str]:
    seconds = found["seconds"]
    shown = {
        "s, median": _seconds(seconds["median"]),
        "min to max": f"{_seconds(seconds['min'])} to {_seconds(seconds['max'])}",
        "ours is faster by": f"{found['times_reference']:.2f}" if "times_reference" in found else "",
        "tokens/s": f"{found['tokens_per_second']:,.0f}" if "tokens_per_second" in found else "",
        "GFLOP/s": f"{found['flops_per_second'] / 1e9:,.0f}" if "flops_per_second" in found else "",
        "share of matmul rate": f"{found['share_of_matmul']:.0%}" if "share_of_matmul" in found else "",
        "peak memory, MiB": f"{found['peak_memory'] / 2**20:,.0f}" if "peak_memory" in found else "",
        "batch size": " or ".join(map(str, found.get("batch_sizes", []))),
        "loss": f"{found['loss']['median']:.4f}" if "loss" in found else "",
        "largest difference": "",
        "lowest cosine": f"{found['cosine']:.5f}" if "cosine" in found else "",
    }
    if "difference" in found:
        wrong = exact and found["difference"] > LARGEST_DIFFERENCE
        shown["largest difference"] = f"{found['difference']:.1e}" + (": **not equal**" if wrong else "")
    return shown


def _seconds(value: float) -> str:
    return f"{value:,.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.4f}"


def _profiles(rows: Sequence[Row], figures: Mapping[Key, Mapping[str, Any]]) -> Iterator[str]:
    """Of each workload a table of kinds of work by side; nothing where nothing was profiled."""
    for workload in dict.fromkeys(row.workload for row in rows):
        sides = {row.side: figures[row.key] for row in rows if row.workload == workload}
        yield from profile_table(
            f"{f'{workload}, m' if workload else 'M'}illiseconds of one step or call, by torch's profiler:",
            {side: found.get("profile", {}) for side, found in sides.items()},
            {side: found.get("counts", {}) for side, found in sides.items()},
        )


def _failures(rows: Sequence[Row], figures: Mapping[Key, Mapping[str, Any]], exact: bool) -> Iterator[str]:
    for row in rows:
        name = ", ".join(filter(None, row.key))
        if row.ours and "error" in figures[row.key]:
            yield f"{name} failed"
        if exact and figures[row.key].get("difference", 0) > LARGEST_DIFFERENCE:
            yield f"{name}: not the same result"


def _describe_matmul(rates: Sequence[float]) -> str:
    if not rates:
        return ""
    return (
        f"Matmul rate: {max(rates) / 1e12:,.3f} TFLOP/s, the best of all rounds; its share counts the operations "
        "that the work needs, on real tokens only, for every side."
    )


def _describe_memory(figures: Mapping[Key, Mapping[str, Any]], args: argparse.Namespace) -> str:
    if not any("peak_memory" in found for found in figures.values()):
        return ""
    on_gpu = args.device == "cuda"
    return f"Peak memory is {'allocated by torch on the GPU' if on_gpu else 'resident, with Python and its packages'}."


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)` in a new Python: no memory, threads, caches or compiled code of an earlier side.

    Both must pickle. What the function raises is raised here.

    Raises:
        BrokenProcessPool: the process died, as it does where memory runs out.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def try_in_fresh_process(name: str, function: Callable[..., Outcome], *arguments: Any) -> Outcome:
    """What `in_fresh_process` returns, or its `error`: a side without memory must not cost the others' figures."""
    try:
        outcome = in_fresh_process(function, *arguments)
    except Exception as error:
        outcome = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    shown = outcome.get("error") or ", ".join(_brief(outcome))
    print(f"{name}: {shown}", flush=True)
    return outcome


def _brief(outcome: Mapping[str, Any]) -> Iterator[str]:
    """Seconds and loss of an outcome, or of each workload's."""
    for name, value in outcome.items():
        if isinstance(value, Mapping) and "seconds" in value:
            yield f"{name} {value['seconds']:.4g} s"
        elif name == "seconds":
            yield f"{value:.4g} s"
        elif name == "loss":
            yield f"loss {value:.4f}"


def measure_matmul(device: str, precision: str, threads: int) -> float:
    """FLOP/s of large matrix products on this machine.

    Args:
        device: "cpu" or "cuda".
        precision: "fp32" or "bf16", of the matrices.
        threads: of torch, on the CPU.
    """
    from nomic_bert.flops import matmul_rate  # here, for a peer's process must not have our classes

    torch.set_num_threads(threads)
    return matmul_rate(torch.device(device), torch.bfloat16 if precision == "bf16" else torch.float32)


def peak_memory(device: torch.device) -> int:
    """Most bytes that this process has held: allocated by torch on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        # getrusage would do, but on Linux a new process starts with its parent's maximum
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
