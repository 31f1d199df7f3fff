"""The tables and plots of encode.py. Nothing of ours is imported with this file, as with encode_sides.py."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.encode_sides import PROFILED_TEXTS, SIDES, TUNED
from benchmarks.measure import NOT_MEASURED, markdown_table, spread
from benchmarks.profiles import profile_table

LARGEST_DIFFERENCE = 1e-5  # between embeddings of unit length in float32
BASELINES = ("native_default", "native_sorted")
_SWEEPS = {
    "length": "tokens of every text",
    "batch": "texts at once",
    "spread": "standard deviation of the lengths' logarithm",
}
_COLOURS = dict(zip(SIDES, ("#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#CC79A7", "#009E73"), strict=True))

Report = Mapping[str, Mapping[str, Mapping[str, Any]]]  # workload -> side -> figures


def summarize(
    outcomes: Mapping[str, Mapping[str, Sequence[dict[str, Any]]]], costs: Mapping[str, Mapping[str, Any]], rate: float
) -> dict[str, dict[str, dict[str, Any]]]:
    """Workload -> side -> what its rounds come to, or the `error` of one; nothing of a side that was not measured.

    Args:
        outcomes: workload -> side -> what was measured, one a round.
        costs: workload -> its `tokens`, and the `flops` that they must cost.
        rate: FLOP/s of matrix products on the machine.

    Returns:
        `seconds` as a spread, `tokens_per_second`, `share_of_matmul`, the most `peak_memory`, the `batch_sizes` that
        were the fastest, the largest `difference` (None: not compared), `profile` and `counts` of the last round (see
        `profile_call`), and of each baseline `times_...`, how many times its tokens a second.
    """
    report: dict[str, dict[str, dict[str, Any]]] = {}
    for workload, sides in outcomes.items():
        figures = report[workload] = {}
        for side, rounds in sides.items():
            if errors := [outcome["error"] for outcome in rounds if "error" in outcome]:
                figures[side] = {"error": errors[0]}
                continue
            if not rounds:
                figures[side] = {}
                continue
            seconds = spread([outcome["seconds"] for outcome in rounds])
            differences = [outcome["difference"] for outcome in rounds if outcome["difference"] is not None]
            figures[side] = {
                "seconds": seconds,
                "rounds": [outcome["seconds"] for outcome in rounds],
                "tokens_per_second": costs[workload]["tokens"] / seconds["median"],
                "share_of_matmul": costs[workload]["flops"] / seconds["median"] / rate,
                "peak_memory": max(outcome["peak_memory"] for outcome in rounds),
                "batch_sizes": sorted({outcome["batch_size"] for outcome in rounds if outcome["batch_size"]}),
                "difference": max(differences, default=None),
                "profile": rounds[-1].get("profile", {}),
                "counts": rounds[-1].get("counts", {}),
            }
        for figure in figures.values():
            for baseline in BASELINES:
                if "seconds" in figure and "seconds" in figures.get(baseline, {}):
                    ratio = figures[baseline]["seconds"]["median"] / figure["seconds"]["median"]
                    figure[f"times_{baseline}"] = ratio
    return report


def unequal(report: Report) -> list[str]:
    """Where embeddings differ by more than float noise, as `workload, side`."""
    return [
        f"{workload}, {side}"
        for workload, sides in report.items()
        for side, figure in sides.items()
        if (figure.get("difference") or 0) > LARGEST_DIFFERENCE
    ]


def render(report: Report, setting: Mapping[str, Any]) -> str:
    """The table, under it what was measured, and where the time goes if that was asked for."""
    header = ["workload", "side", "s, median", "min to max", "tokens/s", "share of matmul rate", "peak memory, GiB"]
    header += ["largest difference", *(f"times {baseline}" for baseline in BASELINES)]
    rows = []
    for workload, sides in report.items():
        for side, figure in sides.items():
            if "seconds" not in figure:
                why = f"failed: {figure['error'].replace('|', '/')}" if "error" in figure else NOT_MEASURED
                rows.append([workload, side, why, *[""] * (len(header) - 3)])
                continue
            sizes = " or ".join(map(str, figure["batch_sizes"]))
            rows.append(
                [
                    workload,
                    f"{side}, batches of {sizes}" if sizes else side,
                    _seconds(figure["seconds"]["median"]),
                    f"{_seconds(figure['seconds']['min'])} to {_seconds(figure['seconds']['max'])}",
                    f"{figure['tokens_per_second']:,.0f}",
                    f"{figure['share_of_matmul']:.0%}",
                    f"{figure['peak_memory'] / 2**30:.2f}",
                    _difference(figure["difference"], setting["precision"]),
                    *(_ratio(figure, baseline) for baseline in BASELINES),
                ]
            )
    return "\n\n".join([markdown_table(header, rows), _explain(report, setting), *_profiles(report, setting)])


def _profiles(report: Report, setting: Mapping[str, Any]) -> list[str]:
    """Of each workload a table of side and kind of work, and what they show; nothing where nothing was profiled."""
    tables = []
    for workload, sides in report.items():
        tables += profile_table(
            f"{workload}, milliseconds of one call, by torch's profiler:",
            {side: figure.get("profile", {}) for side, figure in sides.items()},
            {side: figure.get("counts", {}) for side, figure in sides.items()},
        )
    if not tables:
        return []
    if setting["device"] == "cuda":
        meaning = (
            "Kinds of work are of the GPU's kernels; the rest is what they leave of the same call's time without the "
            "profiler. Two waits of the host are the measurement's own."
        )
    else:
        meaning = (
            "Kinds of work are of torch's operators; the rest is tokenizing, Python and all else of that call. ONNX "
            "Runtime does not show in this profiler."
        )
    texts = f"Of a workload of more than {PROFILED_TEXTS} texts so many at most, evenly over the order of length."
    return [*tables, f"{meaning} {texts}"]


def _seconds(value: float) -> str:
    return f"{value:,.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.4f}"


def _difference(value: float | None, precision: str) -> str:
    if value is None:
        return "-"
    return f"**{value:.1e}: not equal**" if precision == "fp32" and value > LARGEST_DIFFERENCE else f"{value:.1e}"


def _ratio(figure: Mapping[str, Any], baseline: str) -> str:
    return f"{figure[f'times_{baseline}']:.2f}" if f"times_{baseline}" in figure else "-"


def _explain(report: Report, setting: Mapping[str, Any]) -> str:
    shown = dict.fromkeys(side for sides in report.values() for side in sides)
    texts = "; ".join(f"{name}: {_texts(about)}" for name, about in setting["workloads"].items())
    sides = "; ".join(f"{side}: {SIDES[side]}" for side in shown)
    trial = " Batch sizes are tried on a part of the texts before the clock starts." if set(TUNED) & set(shown) else ""
    return (
        f"{_model(setting)} Sides: {sides}.{trial} Texts: {texts}; made of {setting['source']}, joined and cut. Tokens "
        "are those of the texts with prompt and special tokens; padding does not count. Time is of a whole call with "
        "tokenizing, the median of several where it is short. Sides take turns, in new processes. "
        f"{_memory(setting)} {_matmul(setting)} Largest difference: of any component from ours_tokens at unit length; "
        "native is compared where no text is longer than the trained length, beyond which it does not scale RoPE."
    )


def _texts(about: Mapping[str, Any]) -> str:
    least, most = about["shortest"], about["longest"]
    lengths = f"{most:,}" if least == most else f"{least:,} to {most:,}"
    return f"{about['texts']:,} of {lengths} tokens, {about['tokens']:,} in all"


def _model(setting: Mapping[str, Any]) -> str:
    return (
        f"Model: {setting['size']}, random weights, {setting['precision']} on {setting['device']}; {setting['rounds']}."
    )


def _memory(setting: Mapping[str, Any]) -> str:
    what = "allocated by torch on the GPU" if setting["device"] == "cuda" else "resident, with Python and its packages"
    return f"Peak memory is {what}, from when the clock starts."


def _matmul(setting: Mapping[str, Any]) -> str:
    return (
        f"Matmul rate: {max(setting['matmul_flops']) / 1e12:,.3f} TFLOP/s, the best of all rounds; its share counts "
        "one forward pass over real tokens."
    )


def render_growth(report: Report, setting: Mapping[str, Any]) -> str:
    """The table of the three sweeps, and under it what was measured."""
    sides = list(dict.fromkeys(side for figures in report.values() for side in figures))
    header = ["point", "texts", "tokens", *(f"{side}, tokens/s" for side in sides)]
    header += [f"{sides[0]}: share of matmul rate", "attention's share of FLOPs", "largest difference"]
    rows = []
    for point, figures in report.items():
        about = setting["workloads"][point]
        differences = [figure["difference"] for figure in figures.values() if figure.get("difference") is not None]
        rows.append(
            [
                point,
                f"{about['texts']:,}",
                f"{about['tokens']:,}",
                *(_speed(figures.get(side, {})) for side in sides),
                _share(figures.get(sides[0], {})),
                f"{about['attention_share']:.0%}",
                _difference(max(differences, default=None), setting["precision"]),
            ]
        )
    sweeps = "; ".join(f"{name}: {what}" for name, what in _SWEEPS.items())
    return (
        f"{markdown_table(header, rows)}\n\n{_model(setting)} Points: {sweeps}. The tokens of a length and of a spread "
        "stay about the same; texts of a batch have 128 tokens, those of a spread 256 on average. "
        f"Text: {setting['source']}, joined and cut. {_matmul(setting)} Attention's share is by arithmetic: the part "
        "of the operations that grows with the square of a text's length. Native is measured to its trained length."
    )


def _share(figure: Mapping[str, Any]) -> str:
    return f"{figure['share_of_matmul']:.0%}" if "share_of_matmul" in figure else "-"


def _speed(figure: Mapping[str, Any]) -> str:
    return f"{figure['tokens_per_second']:,.0f}" if "tokens_per_second" in figure else "failed" if figure else "-"


def plot_speeds(report: Report, path: Path) -> None:
    """Bars of tokens a second by workload and side; nothing without matplotlib."""
    if not _can_plot():
        return
    from matplotlib.figure import Figure

    sides = list(dict.fromkeys(side for figures in report.values() for side in figures))
    figure = Figure(figsize=(2 + 0.4 * len(sides) * len(report), 3.8), layout="constrained")
    panel = figure.subplots()
    width = 0.85 / len(sides)
    for number, side in enumerate(sides):
        speeds = [figures.get(side, {}).get("tokens_per_second", 0.0) for figures in report.values()]
        places = [place + (number - (len(sides) - 1) / 2) * width for place in range(len(report))]
        bars = panel.bar(places, speeds, width, label=side, color=_COLOURS[side])
        panel.bar_label(
            bars, [f"{speed:,.0f}" if speed else "" for speed in speeds], fontsize=6, rotation=90, padding=2
        )
    panel.set_xticks(range(len(report)), list(report))
    panel.set(xlabel="workload", ylabel="tokens/s")
    panel.margins(y=0.2)
    panel.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, path)


def plot_growth(report: Report, setting: Mapping[str, Any], path: Path) -> None:
    """Tokens a second as lines, a panel for each sweep, and attention's share; nothing without matplotlib."""
    if not _can_plot():
        return
    from matplotlib.figure import Figure

    sides = list(dict.fromkeys(side for figures in report.values() for side in figures))
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    for panel, (sweep, what) in zip(figure.subplots(1, len(_SWEEPS)), _SWEEPS.items(), strict=True):
        points = {point: float(point.split()[1]) for point in report if point.split()[0] == sweep}
        for side in sides:
            measured = [
                (place, report[point][side]["tokens_per_second"])
                for point, place in points.items()
                if "tokens_per_second" in report[point].get(side, {})
            ]
            panel.plot([x for x, _ in measured], [y for _, y in measured], "o-", label=side, color=_COLOURS[side])
        if sweep != "spread":
            panel.set_xscale("log", base=2)
            panel.set_xticks(list(points.values()), [f"{place:,.0f}" for place in points.values()])
        panel.set(xlabel=what, ylabel="tokens/s")
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8, loc="lower left")
        if sweep == "length":
            share = panel.twinx()
            shares = [100 * setting["workloads"][point]["attention_share"] for point in points]
            share.plot(list(points.values()), shares, ":", color="#4D4D4D")
            share.set(ylabel="attention's share of FLOPs, % (dotted)", ylim=(0, 100))
    _save(figure, path)


def _can_plot() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def _save(figure: Any, path: Path) -> None:
    from textfiles.atomic import atomic_file

    with atomic_file(path) as partial:
        figure.savefig(partial, format=path.suffix[1:], dpi=150)
