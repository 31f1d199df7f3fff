"""Where the data of a task come from: a directory laid out like the hub, or the hub."""

import shlex
from pathlib import Path
from typing import Any, ClassVar

from datasets.exceptions import DatasetsError
from mteb.abstasks import AbsTask, AbsTaskClassification
from mteb.abstasks.aggregated_task import AbsTaskAggregate
from mteb.abstasks.task_metadata import TaskMetadata
from pyarrow import ArrowException

from evaluation.tasks.sampling import QuickSampling

LOCAL_REVISION = "local"
# Branch on which the hub keeps every data set as <configuration>/<split>/*.parquet
PARQUET_REVISION = "refs/convert/parquet"


class LoadingError(FileNotFoundError):
    """The data of a task could not be loaded; the message says what to do.

    mteb continues after the `DatasetNotFoundError` of `datasets`, but not after this.
    """


def with_data_dir(task: AbsTask, data_dir: Path | None) -> AbsTask:
    """A new task like `task` that reads its data set from `data_dir` if it is there, and otherwise from the hub.

    A data set is there if DATA_DIR/<task name> or DATA_DIR/<hub name> is a directory, laid out as on the hub. Results
    of such a task have the data set revision "local". The parts of an aggregate are looked for one by one.

    Args:
        task: not changed, nor is its class, which mteb shares.
        data_dir: None: everything comes from the hub or its cache.

    Raises:
        FileNotFoundError: `data_dir` is not a directory.
    """
    if data_dir is not None and not data_dir.is_dir():
        raise FileNotFoundError(f"{data_dir}: no such directory; give the one that data sets were fetched into.")
    changes: dict[str, Any] = {}
    mixins: tuple[type, ...] = ()
    if isinstance(task, AbsTaskAggregate):
        parts = [with_data_dir(part, data_dir) for part in task.metadata.tasks]
        changes["tasks"] = parts
        if any(part.metadata.revision == LOCAL_REVISION for part in parts):
            changes["dataset"] = {**task.metadata.dataset, "revision": LOCAL_REVISION}
    else:
        mixins = (_ExplainsLoading, QuickSampling) if isinstance(task, AbsTaskClassification) else (_ExplainsLoading,)
        if directory := _find(task.metadata, data_dir):
            changes["dataset"] = {**task.metadata.dataset, "path": str(directory), "revision": LOCAL_REVISION}
    attributes = {
        "__module__": __name__,
        "__doc__": type(task).__doc__,
        "metadata": task.metadata.model_copy(update=changes),
        "hub_metadata": task.metadata,
        "data_dir": data_dir,
    }
    new = type(type(task).__name__, (*mixins, type(task)), attributes)()
    new.hf_subsets = list(task.hf_subsets)
    return new.filter_eval_splits(task._eval_splits)


def loading_error(task: AbsTask, error: BaseException, data_dir: Path | None) -> str:
    """The message for an error that `mteb.evaluate` raised; one of loading data says what to do.

    Args:
        task: the task that was evaluated.
        error: the error that was raised.
        data_dir: where data were looked for first.
    """
    hub: TaskMetadata | None = getattr(task, "hub_metadata", None)
    if isinstance(error, LoadingError) or (hub is None and isinstance(error, ValueError)):
        return str(error)
    if hub is None or task.data_loaded or isinstance(task, AbsTaskAggregate):
        return f"{type(error).__name__}: {error}"
    path, revision = hub.dataset["path"], hub.dataset["revision"]
    place = shlex.quote(str(data_dir or "DIR"))
    only = f" --include '{hub.dataset['name']}/{hub.dataset['split']}/*'" if revision == PARQUET_REVISION else ""
    fetch = f"hf download {path} --repo-type dataset --revision {revision}{only} --local-dir {place}/{path}"
    reason = f"{type(error).__name__}: {error}".rstrip(". ")
    if directory := _find(hub, data_dir):
        return (
            f"{hub.name}: the data set in {directory} could not be read ({reason}). It must be laid out as on the hub, "
            f"with the README.md that names its parts if it has one; fetch it again: {fetch}"
        )
    looked = f"it is not in {data_dir} (as {hub.name} or {path}), and " if data_dir else ""
    return (
        f"{hub.name}: no data set {path}: {looked}the hub did not give it ({reason}). Either connect to the hub, "
        f"without HF_HUB_OFFLINE, or fetch it where there is a connection and give --data_dir {place} here: {fetch}"
    )


def _find(metadata: TaskMetadata, data_dir: Path | None) -> Path | None:
    if data_dir is None:
        return None
    places = (data_dir / metadata.name, data_dir / metadata.dataset["path"])
    return next((place for place in places if place.is_dir()), None)


class _ExplainsLoading:
    """Put before the class of a task: errors of loading name what is missing and what to do."""

    hub_metadata: ClassVar[TaskMetadata]
    data_dir: ClassVar[Path | None]

    def load_data(self, num_proc: int | None = None, **arguments: Any) -> None:
        try:
            super().load_data(num_proc=num_proc, **arguments)  # type: ignore[misc]
        except (OSError, ValueError, KeyError, ArithmeticError, RecursionError, ArrowException, DatasetsError) as error:
            raise LoadingError(loading_error(self, error, self.data_dir)) from error  # type: ignore[arg-type]
