"""The report as Markdown for GitHub: `report.md.jinja`, which reads as the page, and the filters that fill it.

GitHub shows no colours, so that a circle stands for one.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from evaluation.report.facts import Grid, Report
from evaluation.report.results import EvaluatedModel
from evaluation.report.tables import Cell, Row, Table, described
from textfiles.markdown import escaped, number, render_page, table


def report_page(report: Report, plots: Mapping[str, str], note: str = "") -> str:
    """The page. Texts from results, such as names, are escaped.

    Args:
        report: the facts.
        plots: key of a table, "overview" or "other_tasks" -> file of the plot, beside the page.
        note: Markdown under the title, such as the date and the hardware.
    """
    filters = {"lengths": _lengths, "score_table": _score_table, "grid_table": _grid_table}
    facts = {"report": report, "plots": plots, "note": note}
    page = render_page(Path(__file__).with_name("report.md.jinja"), facts, filters)
    return re.sub(r"\n{3,}", "\n\n", page).strip() + "\n"


def _lengths(model: EvaluatedModel) -> str:
    """BM25 reads words, and all of them."""
    return "–" if model.is_bm25 else ", ".join("not recorded" if n is None else number(n) for n in model.runs)


def _score_table(scores: Table) -> str:
    benchmark = scores.benchmark
    with_length = bool(benchmark.lengths) or any(row.length for row in scores.rows if not row.reported)
    header = ["Model"] + ["Tokens"] * with_length
    for column, tasks in benchmark.columns.items():
        header.append(benchmark.titles[column] + (f" ({len(tasks)})" if len(tasks) > 1 else ""))
    if any(row.average for row in scores.rows):
        header.append(f"Average ({len(benchmark.tasks)})")
    rows = []
    for row in scores.rows:
        cells = [row.cells[column] for column in benchmark.columns] + ([row.average] if row.average else [])
        in_table = benchmark.lengths or not row.reported
        length = "" if not in_table else "–" if row.length is None else number(row.length)
        shown = (_cell(cell, benchmark.tolerance, row.reported) for cell in cells)
        rows.append([_name(row, scores.reference), *[length] * with_length, *shown])
    return table(header, rows, numbers=len(header) - 1)


def _name(row: Row, reference: str) -> str:
    if row.reported:
        return row.model + ("¹" if row.model == reference else "")
    return f"**{escaped(row.model)}**"


def _cell(cell: Cell, tolerance: float, reported: bool) -> str:
    if cell.score is None:
        return f"– ({cell.present} of {cell.total})" if cell.present else "–"
    text = cell.shown if reported else f"**{cell.shown}**"
    if cell.note:
        text += f" ({cell.note})"
    if cell.difference is None:
        return text
    decimals = len(cell.shown.partition(".")[2])
    rounded = round(cell.difference, decimals) + 0.0  # which makes -0.0 of a small loss 0.0
    return f"{text} {circle(cell.difference, tolerance)} {rounded:+.{decimals}f}"


def circle(difference: float, tolerance: float) -> str:
    """Better, worse, or within the rounding of the number that is compared with."""
    if abs(difference) <= tolerance + 1e-9:  # binary fractions: 62.45 - 62.4 is a little more than 0.05
        return "⚪"
    return "🟢" if difference > 0 else "🔴"


def _grid_table(grid: Grid) -> str:
    header = ["Task", "Metric", *(escaped(described(label, length)) for label, length in grid.columns)]
    rows = []
    for task, by_column in grid.scores.items():
        scores = [f"{by_column[column]:.2f}" if column in by_column else "–" for column in grid.columns]
        rows.append([escaped(task), escaped(grid.metrics[task] or ""), *scores])
    return table(header, rows, numbers=len(grid.columns))
