"""The paper's tables with the models under test in them. A mean is given only if none of its tasks is missing."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from evaluation.glue.results import TASKS as GLUE_TITLES
from evaluation.protocol import LENGTHS, PAPER_LENGTH
from evaluation.report.results import EvaluatedEncoder, EvaluatedModel
from evaluation.report.task_scores import aggregate_parts, paper_tasks
from evaluation.reported import (
    GLUE,
    JINA,
    LOCO,
    MTEB,
    OVERVIEW,
    PAPER_ENCODERS,
    PAPER_MODELS,
    ReportedRow,
    ReportedTable,
)


@dataclass(frozen=True)
class Benchmark:
    """A table of the paper, with the tasks behind its columns.

    Attributes:
        key: in the JSON file.
        title: above the table.
        reported: the paper's table.
        columns: column -> tasks whose mean it is.
        titles: column -> as the page shows it.
        lengths: that the paper reads texts to; its rows are compared with models at the same length. Empty for one
            that the table does not say.
        tolerance: a difference that means nothing, because the paper's numbers are rounded by as much.
    """

    key: str
    title: str
    reported: ReportedTable
    columns: Mapping[str, tuple[str, ...]]
    titles: Mapping[str, str]
    lengths: tuple[int, ...]
    tolerance: float

    @property
    def tasks(self) -> list[str]:
        """All tasks, each of the same weight in the average."""
        return [task for tasks in self.columns.values() for task in tasks]


@dataclass(frozen=True)
class Cell:
    """A number of a table.

    Attributes:
        score: None if a task of it is missing.
        shown: the number as text: of the paper as printed.
        present: tasks that have a score.
        total: tasks that it is the mean of.
        difference: from the reference; None without one.
        note: beside the number, such as the length where it is not the paper's; may be empty.
    """

    score: float | None
    shown: str
    present: int
    total: int
    difference: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Row:
    """A line of a table: of the paper, or of a model under test.

    Attributes:
        model: name of the paper's model, or label of the other.
        length: in tokens; None if the table has none, or it is not recorded.
        reported: whether the line is the paper's.
        cells: column -> number.
        average: over all tasks; None where the table has no average.
        missing: tasks that have no score.
    """

    model: str
    length: int | None
    reported: bool
    cells: Mapping[str, Cell]
    average: Cell | None
    missing: Sequence[str] = ()

    @property
    def title(self) -> str:
        """The model at its length, in words."""
        return described(self.model, self.length)


@dataclass(frozen=True)
class Table:
    """Rows in the order of the page, and the model of the paper that differences are from."""

    benchmark: Benchmark
    reference: str
    rows: Sequence[Row]

    @property
    def has_gaps(self) -> bool:
        """Whether a score is missing."""
        return any(cell.score is None for row in self.rows for cell in row.cells.values())

    def missing(self, row: Row) -> Iterator[str]:
        """Names of the tasks that a row lacks; where a column lacks all of its tasks, its title."""
        columns, titles = self.benchmark.columns, self.benchmark.titles
        for column, tasks in columns.items():
            absent = [task for task in tasks if task in row.missing]
            if len(columns) == len(self.benchmark.tasks):
                yield from [titles[column]] * len(absent)
            elif len(absent) == len(tasks) > 1:
                yield f"all {len(tasks)} of {titles[column]}"
            else:
                yield from absent

    def lengths_not_run(self) -> Iterator[tuple[str, list[int]]]:
        """Models under test that were not run at each of the paper's lengths, with the lengths that they lack."""
        for label in dict.fromkeys(row.model for row in self.rows if not row.reported):
            there = {row.length for row in self.rows if row.model == label and not row.reported}
            absent = [length for length in self.benchmark.lengths if length not in there]
            if absent and None not in there:
                yield label, absent


def described(label: str, length: int | None) -> str:
    """A model at a length, in words."""
    return label if length is None else f"{label} at {length:,}"


def _single(reported: ReportedTable) -> dict[str, tuple[str, ...]]:
    return {column: (column,) for column in reported.columns}


def mteb_benchmark() -> Benchmark:
    """Table 4."""
    columns = {
        category: tuple(name for name, task in paper_tasks().items() if task.metadata.type == category)
        for category in MTEB.columns
    }
    titles = {"PairClassification": "Pair class.", "Summarization": "Summ."}
    return Benchmark("mteb", "MTEB", MTEB, columns, {name: titles.get(name, name) for name in columns}, (), 0.05)


JINA_BENCHMARK = Benchmark(
    "jina_long_context",
    "Jina's long-context benchmark",
    JINA,
    _single(JINA),
    dict(zip(JINA.columns, ("NarrativeQA", "WikiCities", "SciFact", "BigPatent"), strict=True)),
    LENGTHS["JinaLongContext"],
    0.05,
)
LOCO_BENCHMARK = Benchmark(
    "loco",
    "LoCo",
    LOCO,
    _single(LOCO),
    dict(zip(LOCO.columns, ("SummScreenFD", "GovReport", "QMSum", "QASPER title", "QASPER abstract"), strict=True)),
    LENGTHS["LoCo"],
    0.05,
)
GLUE_BENCHMARK = Benchmark("glue", "GLUE", GLUE, _single(GLUE), GLUE_TITLES, (), 0.005)


def embedding_table(benchmark: Benchmark, models: Sequence[EvaluatedModel], compare: Sequence[str]) -> Table:
    """A benchmark of embedders; a row for every length of a model that has results of it."""
    measured = []
    for model in models:
        for length, run in model.runs.items():
            scores = {task: score.score for task, score in run.scores.items()}
            if takes_part(benchmark, scores):
                measured.append((model.label, length, scores))
    return _table(benchmark, measured, compare, digits=2)


def glue_table(encoders: Sequence[EvaluatedEncoder], compare: Sequence[str]) -> Table:
    """Table 2, in fractions."""
    measured = [(one.label, None, {task: found.score for task, found in one.tasks.items()}) for one in encoders]
    return _table(GLUE_BENCHMARK, measured, compare, digits=3)


def takes_part(benchmark: Benchmark, tasks: Collection[str]) -> bool:
    """Whether a run, by its tasks, is one of a benchmark.

    SciFact is a task of MTEB and of Jina's: with tasks of only one of them beside it, it belongs to that one.
    """
    shared = set(JINA_BENCHMARK.tasks) & set(paper_tasks())
    own = set(tasks) & set(benchmark.tasks)
    if benchmark.key == "mteb":
        own |= set(tasks) & set(aggregate_parts())
    others = set(tasks) & (set(JINA_BENCHMARK.tasks) | set(paper_tasks())) - shared
    return bool(own - shared) or bool(own) and not others


def overview_table(tables: Sequence[Table], models: Sequence[EvaluatedModel], compare: Sequence[str]) -> Table:
    """Table 1: the averages of the three benchmarks of embedders.

    A model's average is the one at the paper's longest length, or else at the longest that is complete.

    Args:
        tables: of MTEB, LoCo and Jina's.
        models: under test.
        compare: rows of the paper, the reference first.
    """
    columns = {column: tuple(table.benchmark.tasks) for column, table in zip(OVERVIEW.columns, tables, strict=True)}
    benchmark = Benchmark("overview", "Overview", OVERVIEW, columns, dict(zip(columns, columns, strict=True)), (), 0.05)
    reference, reported = _paper_rows(OVERVIEW, compare)
    rows = [_reported_row(benchmark, row) for row in reported]
    first = next(row for row in OVERVIEW.rows if row.model == reference)
    for model in models:
        cells = {}
        for column, table in zip(columns, tables, strict=True):
            theirs = [row for row in table.rows if row.model == model.label and not row.reported]
            cells[column] = _headline(theirs, table.benchmark, first.scores.get(column))
        if any(cell.present for cell in cells.values()):
            rows.append(Row(model.label, None, False, cells, None))
    return Table(benchmark, reference, rows)


def _headline(rows: Sequence[Row], benchmark: Benchmark, reference: Decimal | None) -> Cell:
    """The average that stands for a benchmark."""
    usual = benchmark.lengths[-1] if benchmark.lengths else PAPER_LENGTH
    ranked = sorted(rows, key=lambda row: (not row.missing, row.length == usual, row.length or 0))
    if not ranked:
        return Cell(None, "–", 0, len(benchmark.tasks))
    chosen = ranked[-1]
    assert chosen.average is not None
    cell = chosen.average
    like = not benchmark.lengths or chosen.length == usual
    difference = cell.score - float(reference) if cell.score is not None and reference is not None and like else None
    note = f"at {chosen.length:,}" if chosen.length and chosen.length != usual and cell.score is not None else ""
    return Cell(cell.score, cell.shown, cell.present, cell.total, difference, note)


def _table(
    benchmark: Benchmark,
    measured: Sequence[tuple[str, int | None, Mapping[str, float]]],
    compare: Sequence[str],
    *,
    digits: int,
) -> Table:
    reference, reported = _paper_rows(benchmark.reported, compare)
    rows = [_reported_row(benchmark, row) for row in reported]
    for label, length, scores in measured:
        against = benchmark.reported.find(
            reference, length if benchmark.lengths else _only_length(benchmark, reference)
        )
        rows.append(_measured_row(benchmark, label, length, scores, against, digits))
    if benchmark.lengths:
        rows.sort(key=lambda row: (row.length is None, row.length or 0))
    return Table(benchmark, reference, rows)


def _only_length(benchmark: Benchmark, model: str) -> int | None:
    return next(row.length for row in benchmark.reported.rows if row.model == model)


def _paper_rows(reported: ReportedTable, compare: Sequence[str]) -> tuple[str, list[ReportedRow]]:
    """The first name that the table has, and its rows of all the names."""
    there = {row.model for row in reported.rows}
    names = [name for name in compare if name in there]
    if not names:
        names = [name for name in (*PAPER_ENCODERS, *PAPER_MODELS) if name in there]
    return names[0], [row for row in reported.rows if row.model in names]


def _reported_row(benchmark: Benchmark, row: ReportedRow) -> Row:
    cells = {}
    for column, tasks in benchmark.columns.items():
        printed = row.scores.get(column)
        score = None if printed is None else float(printed)
        cells[column] = Cell(score, "–" if printed is None else str(printed), len(tasks), len(tasks))
    total = len(benchmark.tasks)
    average = None if row.average is None else Cell(float(row.average), str(row.average), total, total)
    return Row(row.model, row.length, True, cells, average)


def _measured_row(
    benchmark: Benchmark,
    label: str,
    length: int | None,
    scores: Mapping[str, float],
    reference: ReportedRow | None,
    digits: int,
) -> Row:
    cells = {
        column: _mean(tasks, scores, reference.scores.get(column) if reference else None, digits)
        for column, tasks in benchmark.columns.items()
    }
    average = _mean(benchmark.tasks, scores, reference.average if reference else None, digits)
    missing = [task for task in benchmark.tasks if task not in scores]
    return Row(label, length, False, cells, average, missing)


def _mean(tasks: Sequence[str], scores: Mapping[str, float], reference: Decimal | None, digits: int) -> Cell:
    present = [scores[task] for task in tasks if task in scores]
    if len(present) < len(tasks):
        return Cell(None, "–", len(present), len(tasks))
    score = sum(present) / len(present)
    difference = None if reference is None else score - float(reference)
    return Cell(score, f"{score:.{digits}f}", len(tasks), len(tasks), difference)
