"""The facts of the page and of report.json: what was evaluated, the tables, and what is not like for like."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evaluation.glue.results import summary_content
from evaluation.protocol import PAPER_LENGTH, PAPER_SCALING
from evaluation.report.results import EvaluatedEncoder, EvaluatedModel, Results, Run, short_revision
from evaluation.report.tables import (
    JINA_BENCHMARK,
    LOCO_BENCHMARK,
    Benchmark,
    Table,
    described,
    embedding_table,
    glue_table,
    mteb_benchmark,
    overview_table,
    takes_part,
)
from evaluation.report.task_scores import AGGREGATE, aggregate_parts, known_task
from evaluation.reported import MISPRINTS, TABLES, Misprint
from evaluation.tasks.local_data import LEFT_OUT

_TRAINED_LENGTH = 2048  # paper §4.1.2: longer texts are scaled
_CHANGED_DATA = (
    "mteb has other revisions of some data than in 2024, when the paper was written (of the four reranking tasks, "
    "SciFact, WikiCitiesClustering and AmazonCounterfactualClassification among others): small differences can come "
    "from there."
)


@dataclass(frozen=True)
class Grid:
    """Scores task by task.

    Attributes:
        columns: (label, length) of the models under test.
        metrics: task -> main metric; the order of the rows.
        scores: task -> column -> score in percent.
    """

    columns: Sequence[tuple[str, int | None]]
    metrics: Mapping[str, str | None]
    scores: Mapping[str, Mapping[tuple[str, int | None], float]]


@dataclass(frozen=True)
class Report:
    """Everything that the page and the JSON file say.

    Attributes:
        models: under test.
        encoders: fine-tuned on GLUE.
        overview: averages as in Table 1; None if no embedder has run one of its benchmarks.
        tables: those that include a model under test.
        mteb_tasks: tasks of MTEB one by one.
        other_tasks: tasks outside the benchmarks.
        notes: key of a table, or "other_tasks" -> which of its numbers are not like for like.
    """

    models: Sequence[EvaluatedModel]
    encoders: Sequence[EvaluatedEncoder]
    overview: Table | None
    tables: Sequence[Table]
    mteb_tasks: Grid
    other_tasks: Grid
    notes: Mapping[str, Sequence[str]]

    def misprints(self, number: int) -> list[Misprint]:
        """Those of a table of the paper."""
        return [misprint for misprint in MISPRINTS if misprint.table == number]

    @property
    def not_evaluated(self) -> list[str]:
        """Titles of the benchmarks without results."""
        titles = {"mteb": "MTEB", "jina_long_context": "Jina's long-context benchmark", "loco": "LoCo", "glue": "GLUE"}
        there = {table.benchmark.key for table in self.tables}
        return [title for key, title in titles.items() if key not in there]

    def prompts(self) -> list[tuple[str, list[str]]]:
        """Prompts as text, each with the labels of the models that were asked with them."""
        users: dict[str, dict[str, None]] = {}
        for model in self.models:
            for run in model.runs.values():
                if run.protocol is not None:
                    prompts = run.setting("prompts") or {}
                    shown = ", ".join(f'{name} "{text}"' for name, text in prompts.items())
                    users.setdefault(shown, {})[model.label] = None
        return [(shown, list(labels)) for shown, labels in users.items()]

    def incomplete(self) -> Iterator[tuple[str, str, str]]:
        """Tasks without a score: model at a length, task, and what is missing."""
        for model in self.models:
            for length, run in model.runs.items():
                for task, why in run.incomplete.items():
                    yield described(model.label, length), task, why


def build_report(results: Results, compare: Sequence[str]) -> Report:
    """Set results beside the paper's.

    Args:
        results: what was found.
        compare: rows of the paper to show, first the one that differences are from. A table that has none of them
            shows its usual rows.

    Raises:
        ValueError: no table has a row of one of these names.
    """
    names = {row.model for table in TABLES for row in table.rows}
    for name in compare:
        if name not in names:
            raise ValueError(f"--compare {name!r}: the paper's tables have {', '.join(sorted(names))}.")
    models = sorted(results.models, key=lambda model: model.is_bm25)
    benchmarks = (mteb_benchmark(), LOCO_BENCHMARK, JINA_BENCHMARK)  # the order of Table 1
    mteb_table, loco, jina = (embedding_table(benchmark, models, compare) for benchmark in benchmarks)
    tables = [table for table in (mteb_table, jina, loco) if _is_measured(table)]
    in_benchmarks = {task for benchmark in benchmarks for task in benchmark.tasks}
    mteb_tasks = _grid(models, mteb_table.benchmark.tasks, mteb_table.benchmark)
    found = {task for model in models for run in model.runs.values() for task in run.scores}
    others = _grid(models, sorted(found - in_benchmarks - set(aggregate_parts())), None)
    notes = {table.benchmark.key: list(_notes(table.benchmark, models)) for table in tables}
    notes["other_tasks"] = list(_data_notes(models, others))
    if results.encoders:
        tables.append(glue_table(results.encoders, compare))
        notes["glue"] = []  # its runs have a table of their own
    overview = overview_table((mteb_table, loco, jina), models, compare)
    return Report(
        models,
        results.encoders,
        overview if _is_measured(overview) else None,
        tables,
        mteb_tasks,
        others,
        notes,
    )


def as_json(report: Report) -> dict[str, Any]:
    """The report as JSON values."""
    tables = [table for table in (report.overview, *report.tables) if table is not None]
    return {
        "models": [_model_json(model) for model in report.models],
        "encoders": [
            {"label": one.label, "weights": one.weights, **summary_content(one.tasks)} for one in report.encoders
        ],
        "tables": {table.benchmark.key: _table_json(table, report) for table in tables},
        "other_tasks": {
            task: [{"model": label, "length": length, "score": score} for (label, length), score in by_column.items()]
            for task, by_column in report.other_tasks.scores.items()
        },
        "notes": report.notes,
    }


def _model_json(model: EvaluatedModel) -> dict[str, Any]:
    runs = [
        {
            "length": length,
            "revision": run.revision,
            "protocol": run.protocol,
            "scores": {task: asdict(score) for task, score in sorted(run.scores.items())},
            "incomplete": run.incomplete,
        }
        for length, run in model.runs.items()
    ]
    return {"label": model.label, "name": model.name, "weights": model.weights, "runs": runs}


def _table_json(table: Table, report: Report) -> dict[str, Any]:
    misprints = [
        {**asdict(misprint), "printed": str(misprint.printed), "recomputed": str(misprint.recomputed)}
        for misprint in report.misprints(table.benchmark.reported.number)
    ]
    return {
        "paper_table": table.benchmark.reported.number,
        "reference": table.reference,
        "columns": table.benchmark.columns,
        "rows": [asdict(row) for row in table.rows],
        "misprints": misprints,
    }


def _is_measured(table: Table) -> bool:
    return any(not row.reported for row in table.rows)


def _grid(models: Sequence[EvaluatedModel], tasks: Sequence[str], benchmark: Benchmark | None) -> Grid:
    columns, metrics = [], {}
    scores: dict[str, dict[tuple[str, int | None], float]] = {}
    for model in models:
        for length, run in model.runs.items():
            found = {task: run.scores[task] for task in tasks if task in run.scores}
            if not found or benchmark and not takes_part(benchmark, run.scores):
                continue
            columns.append((model.label, length))
            for task, score in found.items():
                scores.setdefault(task, {})[model.label, length] = score.score
                metrics[task] = score.metric
    ordered = [task for task in tasks if task in scores]
    return Grid(columns, {task: metrics[task] for task in ordered}, {task: scores[task] for task in ordered})


def _notes(benchmark: Benchmark, models: Sequence[EvaluatedModel]) -> Iterator[str]:
    """What is not like for like, each with the rows that it applies to."""
    rows: dict[str, list[str]] = {}
    for model in models:
        for length, run in model.runs.items():
            if takes_part(benchmark, run.scores):
                for note in (
                    *_length_notes(benchmark, model, run),
                    *_protocol_notes(run),
                    *_revision_notes(benchmark, run),
                ):
                    rows.setdefault(note, []).append(described(model.label, length))
    for note, described_rows in rows.items():
        yield f"{', '.join(described_rows)}: {note}."
    if benchmark.key in ("mteb", "jina_long_context"):
        yield _CHANGED_DATA


def _length_notes(benchmark: Benchmark, model: EvaluatedModel, run: Run) -> Iterator[str]:
    if run.protocol is not None and run.length is None:
        yield "a server truncated the texts, to a length that it does not tell"
        return
    if run.length is None:
        if not model.is_bm25:
            yield "no protocol.json is beside the results, so length, prompts and rules are not known"
        return
    requested = run.setting("requested_length")
    if requested and requested != run.length:
        yield f"{requested:,} tokens were asked for, and the model reads {run.length:,}"
    if not benchmark.lengths and run.length != PAPER_LENGTH:
        yield f"texts are truncated to {run.length:,} tokens, in the paper to {PAPER_LENGTH}"
    if benchmark.lengths and run.length not in benchmark.lengths:
        lengths = ", ".join(f"{length:,}" for length in benchmark.lengths)
        yield f"the paper has lengths {lengths} only, so there is nothing to compare with"


def _protocol_notes(run: Run) -> Iterator[str]:
    rules, scaling = run.setting("rules"), run.setting("rotary_scaling_factor")
    if rules == "model":
        yield 'evaluated by its own rules ("model"): its prompts, and its embeddings as they are'
    elif run.length and run.length > _TRAINED_LENGTH and scaling != PAPER_SCALING:
        given = "without scaling" if scaling is None else f"with alpha {scaling:g}"
        yield f"texts beyond the trained length are read {given}, in the paper with alpha {PAPER_SCALING:g}"


def _revision_notes(benchmark: Benchmark, run: Run) -> Iterator[str]:
    tasks = [task for task in benchmark.tasks if task in run.scores and task != AGGREGATE]
    other: dict[str, str] = {}
    for task in tasks + [part for part in aggregate_parts() if benchmark.key == "mteb" and part in run.scores]:
        known, revision = known_task(task), run.scores[task].dataset_revision
        if known is not None and revision != known.metadata.revision:
            other[task] = revision
    local = [task for task, revision in other.items() if revision == "local"]
    if local:
        yield f"data from local files, of whatever revision: {', '.join(local)}"
    if len(local) < len(other):
        named = [f"{task} ({short_revision(revision)})" for task, revision in other.items() if revision != "local"]
        yield f"data of another revision than mteb has now: {', '.join(named)}"


def _data_notes(models: Sequence[EvaluatedModel], grid: Grid) -> Iterator[str]:
    for task in grid.scores:
        revisions: dict[str, list[str]] = {}
        left_out: dict[str, Mapping[str, int]] = {}
        for model in models:
            for length, run in model.runs.items():
                if task in run.scores:
                    left_out[run.scores[task].dataset_revision] = run.scores[task].left_out
                    revisions.setdefault(run.scores[task].dataset_revision, []).append(described(model.label, length))
        if len(revisions) > 1:
            groups = "; ".join(f"{revision}: {', '.join(rows)}" for revision, rows in revisions.items())
            yield f"{task} was run on different data ({groups})."
        for revision, counts in left_out.items():
            for name, count in counts.items():
                yield f"{task}: {count:,} {LEFT_OUT[name]} were left out (data {revision})."
