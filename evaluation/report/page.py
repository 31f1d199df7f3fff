"""The report as Markdown that GitHub shows: it keeps no colours, so a circle stands for one."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from evaluation.glue.results import TASKS as GLUE_TITLES
from evaluation.report.content import Grid, Report, described
from evaluation.report.results import EvaluatedModel, Run, short_revision
from evaluation.report.tables import Cell, Row, Table
from evaluation.reported import Misprint

_INTRODUCTION = """\
Models under test are in bold. The other rows are the paper's numbers as printed (arXiv 2402.01613). Scores are main
scores of mteb in percent, and fractions for GLUE, as in the paper.

- Differences are to the row marked ¹: 🟢 better, 🔴 worse, ⚪ within the rounding of the paper's numbers (0.05, and for
  GLUE 0.005).
- – is a score that is not there. An average is given only if all of its tasks are: – (3 of 12) says that nine are
  missing.
"""


def render_page(report: Report, plots: Mapping[str, str], note: str = "") -> str:
    """The page.

    Args:
        report: What it says.
        plots: key of a table, "overview" or "other_tasks" -> file of the plot, beside the page.
        note: What stands under the title, such as the date and the hardware.
    """
    parts = ["# Evaluation", *([note] if note else []), _INTRODUCTION, *_evaluated(report)]
    if report.overview is not None:
        parts += ["## Overview (Table 1)", _table(report.overview), *_plot(plots, "overview")]
        if "overview" in plots and any(
            cell.score is None for row in report.overview.rows for cell in row.cells.values()
        ):
            parts.append("The plot leaves out averages that are not complete.")
    for table in report.tables:
        benchmark = table.benchmark
        parts += [f"## {benchmark.title} (Table {benchmark.reported.number})", _table(table)]
        parts += _plot(plots, benchmark.key)
        misprints = map(_misprint, report.misprints(benchmark.reported.number))
        parts += _list([*_missing(table), *report.notes[benchmark.key], *misprints])
        if benchmark.key == "mteb":
            parts += ["### MTEB task by task", _grid(report.mteb_tasks)]
        if benchmark.key == "glue":
            parts += ["### The runs behind each number", _glue_runs(report)]
    if report.other_tasks.columns:
        parts += ["## Other tasks", _grid(report.other_tasks), *_plot(plots, "other_tasks")]
        parts += _list(report.notes["other_tasks"])
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _evaluated(report: Report) -> Iterator[str]:
    yield "## What was evaluated"
    if report.models:
        header = ["Model", "Weights", "Tokens", "Rules", "Tasks", "Evaluated by"]
        yield _markdown(header, [_model_line(model) for model in report.models], texts=len(header))
    encoders = (f"GLUE: **{_escaped(encoder.label)}**, weights `{encoder.weights}`" for encoder in report.encoders)
    yield from _list([*_prompts(report.models), *_incomplete(report), *encoders])
    without = {"mteb", "jina_long_context", "loco", "glue"} - {table.benchmark.key for table in report.tables}
    titles = {"mteb": "MTEB", "jina_long_context": "Jina's long-context benchmark", "loco": "LoCo", "glue": "GLUE"}
    if without:
        yield f"There are no results of {', '.join(titles[key] for key in titles if key in without)}."


def _model_line(model: EvaluatedModel) -> list[str]:
    runs = list(model.runs.values())
    lengths = ", ".join("not recorded" if length is None else f"{length:,}" for length in model.runs)
    scaling = {run.setting("rotary_scaling_factor") for run in runs} - {None}
    rules = [str(rule) for rule in _distinct(run.setting("rules") for run in runs)] or ["not recorded"]
    rules += [f"alpha {factor:g}" for factor in sorted(scaling)]
    rules += _distinct(run.setting("dtype") for run in runs)
    tasks = len({task for run in runs for task in run.scores})
    weights = f"`{model.weights}`" if model.weights else f"revision `{short_revision(runs[0].revision)}`"
    if model.is_bm25:  # which reads words, and all of them
        lengths, rules = "–", ["–"]
    return [f"**{_escaped(model.label)}**", weights, lengths, ", ".join(rules), str(tasks), _versions(runs)]


def _versions(runs: Sequence[Run]) -> str:
    """Of packages by the protocols, and of mteb by the results, which may be older."""
    versions: dict[str, dict[str, None]] = {"mteb": {}}
    for run in runs:
        for score in run.scores.values():
            if score.mteb_version:
                versions["mteb"][score.mteb_version] = None
        for package, version in (run.setting("versions") or {}).items():
            if package != "mteb":
                versions.setdefault(package, {})[version] = None
    shown = []
    for package, found in versions.items():
        numbers = list(found)[:2]
        more = f" and {len(found) - 2} more" if len(found) > 2 else ""
        shown.append(f"{package} {', '.join(numbers)}{more}" if numbers else f"{package} not recorded")
    return "; ".join(shown)


def _prompts(models: Sequence[EvaluatedModel]) -> Iterator[str]:
    users: dict[str, list[str]] = {}
    for model in models:
        for run in model.runs.values():
            if run.protocol is not None:
                prompts = run.setting("prompts") or {}
                shown = ", ".join(f'{name} "{text}"' for name, text in prompts.items()) or "none"
                users.setdefault(shown, []).append(model.label)
    for shown, labels in users.items():
        yield f"Prompts of {', '.join(_distinct(labels))}: `{shown}`"


def _table(table: Table) -> str:
    benchmark = table.benchmark
    with_length = bool(benchmark.lengths) or any(row.length for row in table.rows if not row.reported)
    with_average = any(row.average for row in table.rows)
    counts = {column: len(tasks) for column, tasks in benchmark.columns.items()}
    header = [
        "Model",
        *(["Tokens"] if with_length else []),
        *(
            f"{benchmark.titles[name]} ({count})" if count > 1 else benchmark.titles[name]
            for name, count in counts.items()
        ),
        *([f"Average ({len(benchmark.tasks)})"] if with_average else []),
    ]
    lines = []
    for row in table.rows:
        cells = [row.cells[column] for column in benchmark.columns] + ([row.average] if row.average else [])
        shown = [_name(row, table.reference)]
        if with_length:
            in_table = benchmark.lengths or not row.reported
            shown.append("" if not in_table else "–" if row.length is None else f"{row.length:,}")
        lines.append(shown + [_cell(cell, benchmark.tolerance, row.reported) for cell in cells])
    return _markdown(header, lines)


def _name(row: Row, reference: str) -> str:
    if row.reported:
        return row.model + ("¹" if row.model == reference else "")
    return f"**{_escaped(row.model)}**"


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


def _missing(table: Table) -> Iterator[str]:
    benchmark = table.benchmark
    total = len(benchmark.tasks)
    for row in table.rows:
        if row.missing:
            tasks = ", ".join(_missing_tasks(table, row.missing))
            yield f"**{_escaped(described(row.model, row.length))}**: missing {len(row.missing)} of {total}: {tasks}"
    for label in _distinct(row.model for row in table.rows if not row.reported):
        there = {row.length for row in table.rows if row.model == label and not row.reported}
        absent = [f"{length:,}" for length in benchmark.lengths if length not in there]
        if absent and None not in there:
            yield f"**{_escaped(label)}**: not run at {', '.join(absent)} tokens"


def _missing_tasks(table: Table, missing: Sequence[str]) -> Iterator[str]:
    """Names of tasks; of a column of which all are missing, its title."""
    for column, tasks in table.benchmark.columns.items():
        absent = [task for task in tasks if task in missing]
        if len(table.benchmark.columns) == len(table.benchmark.tasks):
            yield from [table.benchmark.titles[column]] * len(absent)
        elif len(absent) == len(tasks) > 1:
            yield f"all {len(tasks)} of {table.benchmark.titles[column]}"
        else:
            yield from absent


def _incomplete(report: Report) -> Iterator[str]:
    for model in report.models:
        for length, run in model.runs.items():
            for task, why in run.incomplete.items():
                yield f"**{_escaped(described(model.label, length))}**, {task}: no score, {why}"


def _misprint(misprint: Misprint) -> str:
    row = described(misprint.model, misprint.length)
    remark = f" ({misprint.remark})" if misprint.remark else ""
    return (
        f"Misprint in the paper: {row}, {misprint.column}: {misprint.printed} is printed, and it is "
        f"{misprint.recomputed} by {misprint.by}{remark}."
    )


def _grid(grid: Grid) -> str:
    header = ["Task", "Metric", *(_escaped(described(label, length)) for label, length in grid.columns)]
    lines = []
    for task, by_column in grid.scores.items():
        scores = [f"{by_column[column]:.2f}" if column in by_column else "–" for column in grid.columns]
        lines.append([_escaped(task), grid.metrics[task] or "", *scores])
    return _markdown(header, lines, texts=2)


def _glue_runs(report: Report) -> str:
    header = ["Encoder", "Task", "Metric", "Batch, rate", "Epochs", "Start", "Unlike the paper"]
    lines = []
    for encoder in report.encoders:
        for name, task in encoder.tasks.items():
            best = f"{task.batch_size}, {task.learning_rate:g}"
            unlike = "; ".join(task.differences) or "nothing"
            cells = [GLUE_TITLES[name], task.metric, best, str(task.epochs), task.start, unlike]
            lines.append([f"**{_escaped(encoder.label)}**", *map(_escaped, cells)])
    return _markdown(header, lines, texts=len(header))


def _plot(plots: Mapping[str, str], key: str) -> list[str]:
    return [f"![Plot: {key.replace('_', ' ')}]({plots[key]})"] if key in plots else []


def _list(items: Iterable[str]) -> list[str]:
    lines = [f"- {item}" for item in items]
    return ["\n".join(lines)] if lines else []


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]], *, texts: int = 1) -> str:
    """A table: the first columns, which are text, to the left, the others to the right."""
    lines = [header, ["---"] * texts + ["---:"] * (len(header) - texts), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _escaped(text: str) -> str:
    """A name that may hold what Markdown reads as something else."""
    return "".join(f"\\{character}" if character in "|*_<>`[]\\" else character for character in text)


def _distinct(values: Iterable) -> list:
    return list(dict.fromkeys(value for value in values if value is not None))
