"""The plots of a report."""

from collections.abc import Collection, Mapping
from pathlib import Path

from evaluation.plots import plot_scores, plot_scores_by_length
from evaluation.report.facts import Grid, Report
from evaluation.report.tables import Row, Table

# paper Figure 1
_FIGURE_1 = (
    "nomic-embed-text-v1",
    "jina-embeddings-v2-base-en",
    "text-embedding-3-small",
    "text-embedding-ada-002",
)
_PERCENT = "score in percent"
_Panels = dict[str, dict[str, dict[int, float]]]  # task -> model -> length -> score


def draw_plots(report: Report, directory: Path) -> dict[str, str]:
    """Draw the plots that there are numbers for.

    Args:
        report: the numbers.
        directory: where the images go.

    Returns:
        key of a table, "overview" or "other_tasks" -> name of the file.
    """
    plots = {}
    lengthless = {model.label for model in report.models if model.is_bm25}
    if report.overview is not None and _bars(report.overview, directory / "overview.png", _FIGURE_1):
        plots["overview"] = "overview.png"
    for table in report.tables:
        key = table.benchmark.key
        file = f"{key}.png"
        if key == "glue":
            _bars(table, directory / file, [row.model for row in table.rows if row.reported])
            plots[key] = file
        elif table.benchmark.lengths and _lines(table, lengthless, directory / file):
            plots[key] = file
    by_length = _by_length(report.other_tasks, lengthless)
    if by_length:
        plot_scores_by_length(by_length, directory / "other_tasks.png", ylabel=_PERCENT)
        plots["other_tasks"] = "other_tasks.png"
    return plots


def _bars(table: Table, path: Path, reported: Collection[str]) -> bool:
    """Draw bars of the paper and of the models under test, where these have numbers; False if nowhere."""
    benchmark = table.benchmark
    measured = [row for row in table.rows if not row.reported]
    columns = [column for column in benchmark.columns if any(row.cells[column].score is not None for row in measured)]
    if not columns:
        return False
    scores: dict[str, dict[str, float]] = {}
    for row in [row for row in _reference_first(table) if row.model in reported] + measured:
        for column in columns:
            score = row.cells[column].score
            if score is not None:
                scores.setdefault(_legend_name(row), {})[benchmark.titles[column]] = score
    is_glue = benchmark.key == "glue"
    plot_scores(
        scores,
        path,
        xlabel="score as a fraction" if is_glue else "average in percent",
        digits=2 if is_glue else 1,
        grey={_legend_name(row) for row in table.rows if row.reported},
    )
    return True


def _reference_first(table: Table) -> list[Row]:
    """Rows of the paper, first the reference, which gets the darkest grey."""
    return sorted((row for row in table.rows if row.reported), key=lambda row: row.model != table.reference)


def _lines(table: Table, lengthless: Collection[str], path: Path) -> bool:
    """Draw a line for each task and model, the paper's too; False if no model under test was run at a length."""
    panels: _Panels = {}
    constant: dict[str, dict[str, float]] = {}
    rows = _reference_first(table) + [row for row in table.rows if not row.reported]
    for column, title in {**table.benchmark.titles, "": "Average"}.items():
        for row in rows:
            cell = row.cells[column] if column else row.average
            if cell is None or cell.score is None:
                continue
            if row.length is not None:
                panels.setdefault(title, {}).setdefault(_legend_name(row), {})[row.length] = cell.score
            elif row.model in lengthless:
                constant.setdefault(title, {})[row.model] = cell.score
    if all(row.reported or row.length is None for row in rows):
        return False
    grey = {_legend_name(row) for row in rows if row.reported}
    drawn: _Panels = {}
    for title, lines in panels.items():
        # A single point of the paper is not a line, and may be far from all others.
        kept = {name: scores for name, scores in lines.items() if len(scores) > 1 or name not in grey}
        if kept:
            drawn[title] = kept
    plot_scores_by_length(_with_constants(drawn, constant), path, ylabel=_PERCENT, grey=grey)
    return True


def _by_length(grid: Grid, lengthless: Collection[str]) -> _Panels:
    """Tasks that a model was run on at several lengths."""
    panels: _Panels = {}
    constant: dict[str, dict[str, float]] = {}
    for task, by_column in grid.scores.items():
        lines: dict[str, dict[int, float]] = {}
        for (label, length), score in by_column.items():
            if length is not None:
                lines.setdefault(label, {})[length] = score
            elif label in lengthless:
                constant.setdefault(task, {})[label] = score
        if any(len(scores) > 1 for scores in lines.values()):
            panels[task] = lines
    return _with_constants(panels, constant)


def _with_constants(panels: _Panels, constant: Mapping[str, Mapping[str, float]]) -> _Panels:
    """Panels with level lines for models that have no length."""
    for title, lines in panels.items():
        lengths = {length for scores in lines.values() for length in scores}
        for name, score in constant.get(title, {}).items():
            lines[name] = dict.fromkeys(lengths, score)
    return panels


def _legend_name(row: Row) -> str:
    return f"{row.model} (paper)" if row.reported else row.model
