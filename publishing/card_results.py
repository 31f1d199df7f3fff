"""Results of the published weights, and of no others, from report.json of `python -m evaluation.report`."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult

from textfiles.markdown import escaped, literal, number, table

Report = Mapping[str, Any]
_TITLES = {
    "overview": "Overview",
    "mteb": "MTEB",
    "jina_long_context": "Jina's long-context benchmark",
    "loco": "LoCo",
}


def evaluated_models(report: Report, weights: str) -> list[Mapping[str, Any]]:
    """The report's models of these weights; several where they were asked in several ways.

    Raises:
        ValueError: there are none; names the weights and those that the report has.
    """
    models = [model for model in report.get("models") or [] if model.get("weights")]
    found = [model for model in models if model["weights"] == weights]
    if not found:
        there = ", ".join(f"{model['weights']} ({model['label']})" for model in models) or "none"
        raise ValueError(
            f"the report has no results of the weights {weights}; it has {there}. Evaluate this directory and make the "
            "report again, or give the report of these weights."
        )
    return found


def results(report: Report | None, weights: str) -> str:
    """The section: protocol, the paper's tables with this model in them, and every task.

    Raises:
        ValueError: the report has nothing for these weights.
    """
    if report is None:
        return "## Results\n\nNo evaluation of these weights is recorded."
    models = evaluated_models(report, weights)
    parts = ["## Results", f"Of the weights {literal(weights)}, by `python -m evaluation.report` of nomic-embed-hf."]
    for place, model in enumerate(models, 1):
        if len(models) > 1:
            parts.append(f"### Protocol {place} of {len(models)}")
        parts.append(_protocols(model))
        for key, title in _TITLES.items():
            if key in (report.get("tables") or {}):
                parts += _paper_table(title, report["tables"][key], model)
        parts.append(f"{_heading(models)} Every task\n\n" + _every_task(model))
        notes = [f"- {note}" for note in _notes(report, model)]
        if notes:
            parts.append("Not like for like:\n\n" + "\n".join(notes))
    return "\n\n".join(parts)


def _heading(models: Sequence[Any]) -> str:
    return "####" if len(models) > 1 else "###"


def _protocols(model: Mapping[str, Any]) -> str:
    """How the model was asked, once where only the length differs."""
    lengths: dict[str, list[str]] = {}
    for run in model["runs"]:
        lengths.setdefault(_protocol(run.get("protocol") or {}), []).append(_cut(run))
    return "\n\n".join(f"Texts cut at {', '.join(cuts)}. {protocol}".strip() for protocol, cuts in lengths.items())


def _cut(run: Mapping[str, Any]) -> str:
    length, asked = run.get("length"), (run.get("protocol") or {}).get("requested_length")
    if length is None:
        return "a length that is not recorded"
    return f"{length:,} tokens" + (f" ({asked:,} were asked for)" if asked and asked != length else "")


def _protocol(protocol: Mapping[str, Any]) -> str:
    if not protocol:
        return "How the model was asked is not recorded."
    said = []
    if prompts := protocol.get("prompts"):
        named = ", ".join(f"{escaped(name)} {literal(text)}" for name, text in prompts.items())
        said.append(f"Prefixes, by task type or side: {named}.")
    if rules := protocol.get("rules"):
        said.append(f"Rules: {escaped(rules)}.")
    alpha = protocol.get("rotary_scaling_factor")
    said.append("RoPE not scaled." if alpha is None else f"Alpha {alpha:g} beyond the trained length.")
    if dtype := protocol.get("dtype"):
        said.append(f"Computed in {escaped(dtype)}.")
    if versions := protocol.get("versions"):
        said.append(f"Versions: {number(versions)}.")
    return " ".join(said)


def _paper_table(title: str, content: Mapping[str, Any], model: Mapping[str, Any]) -> Iterator[str]:
    """A table of the paper with this model's rows; nothing where it has none."""
    own = [row for row in content["rows"] if not row["reported"] and row["model"] == model["label"]]
    if not own:
        return
    lengths = {row["length"] for row in own}
    reported = [row for row in content["rows"] if row["reported"]]
    # the paper's other lengths say nothing here, unless its table has a length for each model
    like = [row for row in reported if row["length"] in lengths] or reported
    columns = list(content["columns"])
    with_average = any(row["average"] for row in own + like)
    rows = [
        (
            "this model" if not row["reported"] else f"{escaped(row['model'])} (paper)",
            "" if row["length"] is None else f"{row['length']:,}",
            *(_cell(row["cells"][column]) for column in columns),
            *([_cell(row["average"])] if with_average else []),
        )
        for row in own + like
    ]
    header = ["model", "length", *map(escaped, columns), *(["average"] if with_average else [])]
    yield f"### {title}, beside the paper's Table {content['paper_table']}\n\n" + table(header, rows, len(header) - 1)
    for row in own:
        if missing := row.get("missing"):
            total = sum(len(tasks) for tasks in content["columns"].values())
            at, named = f" at {row['length']:,}" if row["length"] else "", ", ".join(map(escaped, missing))
            yield f"{len(missing)} of {total} tasks are missing{at}, so there is no average: {named}."


def _cell(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return ""
    if cell["score"] is None and 0 < cell["present"] < cell["total"]:
        return f"{cell['present']} of {cell['total']} tasks"
    note = f" {escaped(cell['note'])}" if cell.get("note") else ""
    return escaped(cell["shown"]) + note


def _every_task(model: Mapping[str, Any]) -> str:
    runs = model["runs"]
    tasks = {task: score.get("metric") for run in runs for task, score in run["scores"].items()}
    rows = []
    for task, metric in sorted(tasks.items()):
        cells = [f"{run['scores'][task]['score']:.2f}" if task in run["scores"] else "" for run in runs]
        rows.append((escaped(task), escaped(metric or ""), *cells))
    header = ["task", "metric, in percent", *(f"at {_cut(run)}" for run in runs)]
    incomplete = [
        f"{escaped(task)} at {_cut(run)}: {escaped(why)}" for run in runs for task, why in run["incomplete"].items()
    ]
    parts = [table(header, rows, len(runs))]
    local = {task for run in runs for task, score in run["scores"].items() if _is_local(score)}
    if local:
        parts.append(f"On files of the evaluator's own, not the hub's data: {', '.join(map(escaped, sorted(local)))}.")
    if incomplete:
        parts.append(f"Not finished: {'; '.join(incomplete)}.")
    return "\n\n".join(parts)


def _is_local(score: Mapping[str, Any]) -> bool:
    """Whether the data were files, of whatever revision; they may be the hub's by name alone."""
    return str(score.get("dataset_revision") or "local").startswith("local")


def _notes(report: Report, model: Mapping[str, Any]) -> Iterator[str]:
    """The report's notes that name this model, without the other models that they name."""
    own = {_described(model["label"], run["length"]): run["length"] for run in model["runs"]}
    others = [_described(one["label"], run["length"]) for one in report["models"] for run in one["runs"]]
    begins = re.compile("(" + "|".join(map(re.escape, sorted(others, key=len, reverse=True))) + ")(?:, |: )")
    seen: set[str] = set()
    for note in (note for notes in (report.get("notes") or {}).values() for note in notes):
        named: list[str] = []
        rest = note
        while match := begins.match(rest):
            named, rest = [*named, match[1]], rest[match.end() :]
        lengths = [own[name] for name in named if name in own]
        if lengths:
            at = ", ".join("at a length that is not recorded" if n is None else f"at {n:,}" for n in lengths)
            seen.add(f"{at}: {escaped(rest)}")
    yield from sorted(seen)


def _described(label: str, length: int | None) -> str:
    return label if length is None else f"{label} at {length:,}"


def is_on_mteb(report: Report, weights: str) -> bool:
    """Whether these weights have results in the report's table of MTEB."""
    labels = {model["label"] for model in evaluated_models(report, weights)}
    rows = ((report.get("tables") or {}).get("mteb") or {}).get("rows") or []
    return any(row["model"] in labels and not row["reported"] for row in rows)


def eval_results(report: Report, weights: str) -> list[EvalResult]:
    """Scores on data sets of the hub, for the metadata: of the run with the most tasks, then of the others.

    A score counts where the report says its data set (`dataset`, a hub name) and task type (`task_type`), and where the
    data came from there: those of local files have the revision `local`.
    """
    runs = [run for model in evaluated_models(report, weights) for run in model["runs"]]
    found: dict[str, EvalResult] = {}
    for run in sorted(runs, key=lambda run: (-len(run["scores"]), run["length"] or 0)):
        for task, score in run["scores"].items():
            if task in found or _is_local(score) or not score.get("dataset") or not score.get("task_type"):
                continue
            found[task] = EvalResult(
                task_type=score["task_type"],
                dataset_type=score["dataset"],
                dataset_name=f"MTEB {task}",
                dataset_config=score.get("subset") or "default",
                dataset_split=score.get("split") or "test",
                dataset_revision=score["dataset_revision"],
                metric_type=score.get("metric") or "main_score",
                metric_value=score["score"],
                metric_args={"max_seq_length": run["length"]} if run["length"] else None,
            )
    return [found[task] for task in sorted(found)]
