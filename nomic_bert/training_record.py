"""The training that made a checkpoint: its stages, oldest first, in `training.json` beside the weights.

Each stage is a mapping that the trainer writes (`trainers.base.StepTrainer.training_stage`). A stage that starts from a
checkpoint appends to that checkpoint's list, so the file of a finished model describes its whole training. The model
card is made from it. The file is published with the weights, so it has no path of the training machine. The keys of a
stage:

- `stage`: one of `STAGES`.
- `start`: what it started from: null for new weights, a hub name, `STAGE_BEFORE` for the list's entry before it, or
  `UNRECORDED` for a local checkpoint without a record. `start_revision`: the commit, for a hub name.
- `sources`: what it trained on, each with `name`, `rows`, `weight` (passes over the rows in an epoch) and
  `batches_per_epoch`; on pairs also `query_prefix`, `document_prefix`, `hard_negatives` a row and the
  `rows_without_negatives` that were left out of the rows; on blocks also `block_size` in tokens, and `parts`, what the
  blocks were packed from, with the number of `documents` of each. A source or part that is on the hub has its
  `dataset`, and where they are set `subset`, `split` and `revision`.
- `hyperparameters`: name -> value, those that decide the result, as they took effect.
- `steps`, `epochs`, `tokens`: that these weights have seen, over all processes; tokens after cutting, without padding.
  `scheduled_steps`: that the learning rate was laid out for.
- `training_loss`: {`step`, `value`}, the last logged one. `evaluation`: {`step`, `metrics`}, the last one, if any.
- `cost`: `seconds` of the run by the clock, evaluations and saves among them; `device_seconds`, that times the
  processes; and where the machines tell, `joules`: of the `gpu`s by NVML, of the `cpu`s and their memory by RAPL. Steps
  that an interruption lost are not counted.
- `processes`, `devices` (name -> number), `versions` (package -> version), `date` (UTC, of the weights' last save).

An empty list says that the weights are new; where there is no file, nothing is known.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from textfiles.atomic import read_json, write_json

TRAINING_FILE = "training.json"
STAGES = ("masked language modelling", "contrastive", "contrastive with hard negatives")
STAGE_BEFORE = "the stage before"
UNRECORDED = "a local checkpoint without a record"


def read_training(directory: str | Path) -> list[dict[str, Any]]:
    """The stages recorded in a directory, oldest first; none where it has no record, as a hub name has none.

    Raises:
        ValueError: the file is not a record; names it.
    """
    file = Path(directory, TRAINING_FILE)
    if not file.is_file():
        return []
    content = read_json(file, "Remove it; the model card then says that the training is unknown.")
    stages = content.get("stages")
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise ValueError(f"{file} must be an object with a list 'stages' of objects. Remove it if it is not.")
    return stages


def write_training(directory: str | Path, stages: Sequence[Mapping[str, Any]]) -> None:
    """Record the stages in a directory, in place of what is recorded there."""
    write_json(Path(directory, TRAINING_FILE), {"stages": list(stages)})
