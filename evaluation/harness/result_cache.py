"""mteb's tree of results, with files that are whole or absent, and with the protocol beside them."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from tempfile import TemporaryDirectory
from typing import Any

from mteb.cache import ResultCache
from mteb.models import ModelMeta
from mteb.results import TaskResult

from evaluation.harness.encoder import Protocol
from textfiles.atomic import atomic_file, write_json
from textfiles.locks import locked

PROTOCOL_FILE = "protocol.json"  # beside the results: how the model was asked
DAMAGES = (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError)


class AtomicResultCache(ResultCache):
    """mteb's `ResultCache`: DIRECTORY/results/<organization__model>/<revision>/<Task>.json, as its leaderboard has it.

    mteb writes its files in place, so that an interrupted run leaves one that is cut off. Here they get their names
    once they are complete.
    """

    def save_to_cache(
        self,
        task_result: TaskResult,
        model_name: str | ModelMeta,
        model_revision: str | None = None,
        *,
        encode_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the result of a task, with the metadata of the model and the settings of the run.

        Raises:
            ValueError: a main score is not finite; nothing is written.
        """
        _require_finite(task_result)
        place = self.get_task_result_path(task_result.task_name, model_name, model_revision).parent
        place.mkdir(parents=True, exist_ok=True)
        # processes that share the tasks of a model add to the same files
        with locked(self.cache_path / ".work" / "results.lock"), TemporaryDirectory() as directory:
            scratch = ResultCache(directory)
            written = scratch.get_task_result_path(task_result.task_name, model_name, model_revision).parent
            written.mkdir(parents=True)
            if (place / "run_settings.jsonl").is_file():  # mteb adds its lines to those that are there
                shutil.copy(place / "run_settings.jsonl", written)
            scratch.save_to_cache(task_result, model_name, model_revision, encode_kwargs=encode_kwargs)
            # The result comes last: once it is there, the task is finished and nothing beside it is written again.
            for file in sorted(written.iterdir(), key=lambda file: file.stem == task_result.task_name):
                with atomic_file(place / file.name) as partial:
                    shutil.copyfile(file, partial)

    def load_task_result(self, task_name: str, *arguments: Any, **options: Any) -> TaskResult | None:
        """Read the result of a task; None if there is none.

        Raises:
            ValueError: the file cannot be read, or a main score in it is not finite; the message names it.
        """
        try:
            result = super().load_task_result(task_name, *arguments, **options)
            if result is not None:
                _require_finite(result)
            return result
        except DAMAGES as error:  # not JSON, or other content; pydantic raises ValueErrors
            file = self.get_task_result_path(task_name, *arguments)
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise ValueError(f"{file} cannot be used ({reason}). Remove it to run the task again.") from error

    def write_protocol(self, meta: ModelMeta, protocol: Protocol) -> None:
        """Record beside the results how the model was asked."""
        write_json(self.get_task_result_path("any", meta).with_name(PROTOCOL_FILE), asdict(protocol))


def _require_finite(result: TaskResult) -> None:
    for split, rows in result.scores.items():
        for row in rows:
            if not math.isfinite(row["main_score"]):
                raise ValueError(f"the main score of the split {split!r} is {row['main_score']}, not a number")
