"""What the model was trained with, from its record (`nomic_bert.training_record`)."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nomic_bert.training_record import STAGE_BEFORE, UNRECORDED
from textfiles.hub_names import is_hub_name
from textfiles.markdown import escaped, literal, number, table

Stage = Mapping[str, Any]
_HUB = "https://huggingface.co"
# Keys of `hyperparameters` by the names that people know them by; others are shown by their own.
_NAMES = {"adam_beta1": "beta 1", "adam_beta2": "beta 2", "adam_epsilon": "epsilon", "max_grad_norm": "clipped at norm",
          "mlm_probability": "share of tokens to predict",
          "eval_mlm_probability": "share of tokens to predict in evaluation"}  # fmt: skip


def base_model(stages: Sequence[Stage]) -> str | None:
    """Hub name that the first stage started from, if it did."""
    start = stages[0].get("start") if stages else None
    return start if isinstance(start, str) and is_hub_name(start) else None


def datasets_used(stages: Sequence[Stage]) -> list[str]:
    """Hub names of the data sets among the sources, each once."""
    found: dict[str, None] = {}
    for stage in stages:
        for source in stage.get("sources") or []:
            for part in [source, *(source.get("parts") or [])]:
                name = part.get("dataset")
                if isinstance(name, str) and is_hub_name(name):
                    found[name] = None
    return list(found)


def training(stages: Sequence[Stage]) -> str:
    """The section: for each stage its start, sources, settings and end."""
    if not stages:
        return "## Training\n\nHow the model was trained is not recorded with its weights."
    parts = ["## Training"]
    for place, stage in enumerate(stages, 1):
        name = escaped(stage.get("stage", "not named"))
        parts += [f"### Stage {place} of this record: {name}", f"{_start(stage)} {_extent(stage)}".strip()]
        if sources := list(stage.get("sources") or []):
            parts.append(_sources(sources))
            parts += _parts(sources)
        if settings := _settings(stage):
            parts.append(settings)
        if made := _made_on(stage):
            parts.append(made)
    return "\n\n".join(parts)


def _start(stage: Stage) -> str:
    start = stage.get("start")
    if start is None:
        return "From new weights."
    if start == STAGE_BEFORE:
        return "From the weights of the stage before."
    if isinstance(start, str) and is_hub_name(start):
        revision = stage.get("start_revision")
        at = f" at {literal(revision)}" if revision else ""
        return f"From [{escaped(start)}]({_HUB}/{start}){at}."
    return f"From {UNRECORDED}: what it had been through is not known."


def _extent(stage: Stage) -> str:
    said = []
    if "steps" in stage:
        scheduled = stage.get("scheduled_steps", stage["steps"])
        of = (
            f" of the {number(scheduled)} that the learning rate was laid out for"
            if scheduled != stage["steps"]
            else ""
        )
        said.append(f"{number(stage['steps'])} steps{of}")
    if "epochs" in stage:
        said.append(f"{stage['epochs']:.3g} epochs")
    if "tokens" in stage:
        said.append(f"{number(stage['tokens'])} tokens")
    lines = [", ".join(said) + "."] if said else []
    if loss := stage.get("training_loss"):
        lines.append(f"Training loss {loss['value']:.4g}, logged at step {number(loss['step'])}.")
    if found := stage.get("evaluation"):
        metrics = ", ".join(f"{escaped(name)} {value:.4g}" for name, value in found["metrics"].items())
        lines.append(f"Evaluated at step {number(found['step'])}: {metrics}.")
    return " ".join(lines)


def _sources(sources: Sequence[Mapping[str, Any]]) -> str:
    """A table with the columns that any of the sources fills."""
    columns = {
        "source": lambda s: escaped(s.get("name", "")),
        "data set": _dataset,
        "rows": lambda s: number(s.get("rows", "")),
        "tokens a row": lambda s: number(s.get("block_size", "")),
        "passes an epoch": lambda s: number(s.get("weight", "")),
        "batches an epoch": lambda s: number(s.get("batches_per_epoch", "")),
        "query prefix": lambda s: literal(s["query_prefix"]) if "query_prefix" in s else "",
        "document prefix": lambda s: literal(s["document_prefix"]) if "document_prefix" in s else "",
        "hard negatives a row": lambda s: number(s["hard_negatives"]) if s.get("hard_negatives") else "",
        "rows left out, without negatives": lambda s: number(s.get("rows_without_negatives") or ""),
    }
    cells = {title: [show(source) for source in sources] for title, show in columns.items()}
    filled = {title: column for title, column in cells.items() if any(column)}
    return table(list(filled), list(zip(*filled.values(), strict=True)))


def _parts(sources: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for source in sources:
        if parts := source.get("parts"):
            rows = [(_dataset(part) or "local files", number(part.get("documents", ""))) for part in parts]
            yield f"The {escaped(source.get('name', 'rows'))} were packed from:\n\n" + table(
                ["data set", "documents"], rows, numbers=1
            )


def _dataset(source: Mapping[str, Any]) -> str:
    name = source.get("dataset")
    if not isinstance(name, str) or not is_hub_name(name):
        return ""
    details = [f"{key} {escaped(source[key])}" for key in ("subset", "split", "revision") if source.get(key)]
    return ", ".join([f"[{escaped(name)}]({_HUB}/datasets/{name})", *details])


def _settings(stage: Stage) -> str:
    rows = [
        (_NAMES.get(key, escaped(key.replace("_", " "))), number(value))
        for key, value in (stage.get("hyperparameters") or {}).items()
        if value is not None
    ]
    return table(["setting", "value"], rows) if rows else ""


def _made_on(stage: Stage) -> str:
    devices = " and ".join(f"{number(count)} x {escaped(name)}" for name, count in (stage.get("devices") or {}).items())
    versions = number(stage.get("versions") or {})
    when = escaped(stage["date"]) if stage.get("date") else ""
    return "; ".join(part for part in (when, devices, versions) if part) + "." if when or devices or versions else ""
