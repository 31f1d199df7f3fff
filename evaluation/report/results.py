"""Reading results: mteb's trees, ours or those of its public repository, and GLUE directories.

A tree is ROOT/results/<organization__model>/<revision>/<Task>.json, as mteb's `ResultCache` writes it. Where our
command lines wrote it, each revision has a `protocol.json`, which records how the model was asked.
"""

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mteb.results import TaskResult
from tqdm.auto import tqdm

from evaluation.glue.results import GlueTaskSummary, is_glue_directory, read_runs, summarise
from evaluation.harness.result_cache import DAMAGES, PROTOCOL_FILE
from evaluation.report.task_scores import AGGREGATE, TaskScore, aggregate_parts, paper_tasks, task_score
from textfiles.atomic import read_json

_NO_TASKS = ("model_meta.json", PROTOCOL_FILE)
_REMEDY = "Remove it and run the task again."


@dataclass(frozen=True)
class Run:
    """A revision folder: one model asked in one way.

    Attributes:
        name: of the model, "organization/model".
        revision: name of the folder.
        protocol: content of `protocol.json`; None for results of others.
        scores: task -> score.
        incomplete: task -> which part of its results is missing, so that it has no score.
    """

    name: str
    revision: str
    protocol: Mapping[str, Any] | None
    scores: Mapping[str, TaskScore]
    incomplete: Mapping[str, str]

    @property
    def length(self) -> int | None:
        """Tokens to which texts were truncated; None if not recorded."""
        return self.setting("max_seq_length")

    def setting(self, name: str) -> Any:
        """An entry of the protocol; None if it is not recorded."""
        return (self.protocol or {}).get(name)


@dataclass(frozen=True)
class EvaluatedModel:
    """A model with its results at one or more lengths.

    Attributes:
        label: a name that no other model of the report has.
        name: "organization/model".
        weights: hash of the weights; None if not recorded.
        runs: length (None if not recorded) -> results.
    """

    label: str
    name: str
    weights: str | None
    runs: Mapping[int | None, Run]

    @property
    def is_bm25(self) -> bool:
        """Whether it is our BM25 or mteb's, which has no length, and not an embedder."""
        return self.name.split("/")[-1].startswith(("bm25", "baseline-bm25"))

    @property
    def tasks(self) -> set[str]:
        """Tasks that have a score at one length or more."""
        return {task for run in self.runs.values() for task in run.scores}

    @property
    def revision(self) -> str:
        """The first folder's name, by which results of others are known."""
        return short_revision(next(iter(self.runs.values())).revision)

    def rules(self) -> list[str]:
        """How it was asked: rules, alpha of Eq. 5, and type of the weights."""
        runs = self.runs.values()
        factors = sorted({run.setting("rotary_scaling_factor") for run in runs} - {None})
        rules, types = (dict.fromkeys(run.setting(name) for run in runs) for name in ("rules", "dtype"))
        shown = [str(rule) for rule in rules if rule] or ["not recorded"]
        return [*shown, *(f"alpha {factor:g}" for factor in factors), *(str(kind) for kind in types if kind)]

    def versions(self) -> Iterator[str]:
        """Packages by the protocols, and mteb by the results, which may be older."""
        versions: dict[str, dict[str, None]] = {"mteb": {}}
        for run in self.runs.values():
            for score in run.scores.values():
                if score.mteb_version:
                    versions["mteb"][score.mteb_version] = None
            for package, version in (run.setting("versions") or {}).items():
                if package != "mteb":
                    versions.setdefault(package, {})[version] = None
        for package, found in versions.items():
            more = f" and {len(found) - 2} more" if len(found) > 2 else ""
            yield f"{package} {', '.join(list(found)[:2])}{more}" if found else f"{package} not recorded"


@dataclass(frozen=True)
class EvaluatedEncoder:
    """An encoder fine-tuned on GLUE.

    Attributes:
        label: a name that no other encoder of the report has.
        weights: hash of its weights.
        tasks: GLUE task -> score (fraction) and the runs behind it.
    """

    label: str
    weights: str
    tasks: Mapping[str, GlueTaskSummary]


@dataclass(frozen=True)
class Results:
    """Everything that was found."""

    models: Sequence[EvaluatedModel]
    encoders: Sequence[EvaluatedEncoder]


def read_results(paths: Sequence[Path]) -> Results:
    """Read all results under some directories.

    Args:
        paths: roots of mteb trees, or a `results`, model or revision folder of one; GLUE directories; or directories
            that hold any of these.

    Raises:
        FileNotFoundError: a path does not exist, nothing under it is a result, or no task is finished.
        ValueError: a file cannot be read, or two files give one task of one run different scores.
    """
    folders: dict[Path, None] = {}
    glue: dict[Path, None] = {}
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; give the --output_dir of an evaluation.")
        found = list(_result_folders(path.resolve()))
        if not found:
            raise FileNotFoundError(
                f"{path} has no results: neither results/<model>/<revision>/<Task>.json, as mteb writes them, nor "
                "the settings.json and runs of evaluation.glue."
            )
        for folder, is_glue in found:
            (glue if is_glue else folders)[folder] = None
    results = Results(_models(folders), _encoders(glue))
    if not results.models and not results.encoders:
        raise FileNotFoundError(f"{', '.join(map(str, paths))}: no task is finished.")
    return results


def _result_folders(root: Path) -> Iterator[tuple[Path, bool]]:
    """Revision folders and GLUE directories at or under a directory, and whether it is the latter."""
    for place, below, files in os.walk(root):
        directory = Path(place)
        below[:] = sorted(name for name in below if not name.startswith("."))
        is_glue = is_glue_directory(directory)
        # Trees of others may lack the model's metadata, and are then known by their place.
        in_tree = directory.parent.parent.name == "results" and any(name.endswith(".json") for name in files)
        if is_glue or in_tree or any(name in files for name in _NO_TASKS):
            below.clear()  # a revision may hold a folder of experiments, which are other settings
            yield directory, is_glue


def _models(folders: Iterable[Path]) -> list[EvaluatedModel]:
    runs: dict[tuple[str, str], Run] = {}
    files = [(folder, file) for folder in folders for file in sorted(folder.glob("[!.]*.json"))]
    files = [(folder, file) for folder, file in files if file.name not in _NO_TASKS]
    read: dict[Path, list[TaskResult]] = {}
    for folder, file in tqdm(files, desc="Reading results", unit="file", disable=len(files) < 300):
        read.setdefault(folder, []).append(_read_task(file))
    for folder, results in read.items():
        run = _read_run(folder, results)
        key = (run.name, run.revision)
        runs[key] = _merged(runs[key], run, folder) if key in runs else run
    families: dict[tuple, list[Run]] = {}
    for run in runs.values():
        families.setdefault(_family(run), []).append(run)
    models = []
    for family in families.values():
        for members in _separated(family):
            lengths = {run.length: run for run in sorted(members, key=lambda run: run.length or 0)}
            models.append(EvaluatedModel("", members[0].name, members[0].setting("weights"), lengths))
    return _labelled(models)


def _read_task(file: Path) -> TaskResult:
    """A file of results, of any version of mteb."""
    try:
        try:
            return TaskResult.from_disk(file, load_historic_data=False)
        except ValueError:
            return TaskResult.from_disk(file)  # before mteb 1.11 files had another form
    except DAMAGES as error:
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{file} cannot be read as a result of mteb ({line}). {_REMEDY}") from error


def _read_run(folder: Path, results: Sequence[TaskResult]) -> Run:
    protocol = _read_facts(folder / PROTOCOL_FILE)
    meta = _read_facts(folder / "model_meta.json")
    name = (protocol or meta or {}).get("name") or folder.parent.name.replace("__", "/")
    scores, incomplete = {}, {}
    for result in results:
        try:
            scores[result.task_name] = task_score(result)
        except ValueError as error:
            incomplete[result.task_name] = str(error)
    parts = [scores[part] for part in aggregate_parts() if part in scores]
    if AGGREGATE not in scores and len(parts) == len(aggregate_parts()):
        incomplete.pop(AGGREGATE, None)
        mean = sum(part.score for part in parts) / len(parts)
        scores[AGGREGATE] = replace(parts[0], score=mean, dataset_revision=paper_tasks()[AGGREGATE].metadata.revision)
    elif AGGREGATE not in scores and parts:
        incomplete[AGGREGATE] = f"{len(parts)} of its {len(aggregate_parts())} parts are there"
    return Run(name, folder.name, protocol, scores, incomplete)


def _read_facts(file: Path) -> dict[str, Any] | None:
    return read_json(file, "Remove it, and evaluate the model again.") if file.is_file() else None


def _merged(one: Run, other: Run, folder: Path) -> Run:
    """Two folders of the same model and revision, from two directories: the tasks of both."""
    for task in one.scores.keys() & other.scores.keys():
        if not math.isclose(one.scores[task].score, other.scores[task].score, abs_tol=0.01):
            raise ValueError(
                f"{folder / task}.json: {other.scores[task].score:.2f}, and {one.scores[task].score:.2f} in another "
                "directory for the same model and revision. Give one of the directories, or remove one of the files."
            )
    scores = {**other.scores, **one.scores}
    incomplete = {task: why for task, why in {**other.incomplete, **one.incomplete}.items() if task not in scores}
    return replace(one, protocol=one.protocol or other.protocol, scores=scores, incomplete=incomplete)


def _family(run: Run) -> tuple:
    """What the runs of one model at several lengths have in common."""
    return run.name, *(str(run.setting(key)) for key in ("weights", "rules", "prompts", "dtype"))


def _separated(family: Sequence[Run]) -> list[list[Run]]:
    """One list if every run has a length of its own; else runs that differ in more than length are kept apart.

    So are the revisions of others' results, which have no recorded length.
    """
    if len({run.length for run in family}) == len(family):
        return [list(family)]
    apart: dict[str, list[Run]] = {}
    for run in family:
        apart.setdefault(run.revision.removesuffix(f"-seq{run.length}"), []).append(run)
    return list(apart.values())


def _labelled(models: Sequence[EvaluatedModel]) -> list[EvaluatedModel]:
    """Models with labels: their names, and where these are equal what tells them apart."""
    describe: list[Callable[[EvaluatedModel], str]] = [
        lambda model: model.weights[:7] if model.weights else short_revision(_first(model).revision),
        lambda model: f"rules {_first(model).setting('rules')}",
        lambda model: f"alpha {next(reversed(list(model.runs.values()))).setting('rotary_scaling_factor')}",
        lambda model: str(_first(model).setting("dtype")),
        lambda model: _first(model).revision,
    ]
    labels = _distinct(
        [model.name.removeprefix("local/").removeprefix("baseline/") for model in models], models, describe
    )
    return [replace(model, label=label) for model, label in zip(models, labels, strict=True)]


def short_revision(revision: str) -> str:
    """A commit's hash as git abbreviates it; other names in full."""
    return revision[:7] if re.fullmatch("[0-9a-f]{40}", revision) else revision


def _first(model: EvaluatedModel) -> Run:
    return next(iter(model.runs.values()))


def _distinct(names: Sequence[str], things: Sequence[Any], describe: Sequence[Callable[[Any], str]]) -> list[str]:
    """Names, with the descriptions in parentheses that tell equal ones apart."""
    described: list[tuple[str, ...]] = [(name,) for name in names]
    for description in describe:
        groups: dict[tuple[str, ...], set[str]] = {}
        for key, thing in zip(described, things, strict=True):
            groups.setdefault(key, set()).add(description(thing))
        described = [
            (*key, description(thing)) if len(groups[key]) > 1 else key
            for key, thing in zip(described, things, strict=True)
        ]
    return [f"{name} ({', '.join(details)})" if details else name for name, *details in described]


def _encoders(directories: Iterable[Path]) -> list[EvaluatedEncoder]:
    found: list[tuple[EvaluatedEncoder, Path]] = []
    for directory in directories:
        runs = read_runs(directory)
        if runs:
            try:
                found.append((EvaluatedEncoder(runs[0].model, runs[0].weights, summarise(runs)), directory))
            except ValueError as error:
                raise ValueError(f"{directory}: {error}") from error
    describe: list[Callable[[Any], str]] = [lambda one: one[0].weights[:7], lambda one: one[1].parent.name]
    labels = _distinct([encoder.label for encoder, _ in found], found, describe)
    return [replace(encoder, label=label) for (encoder, _), label in zip(found, labels, strict=True)]
