"""The three stages of a tiny model, killed while they train, save, remove older checkpoints and write `final`."""

import json
import random
from typing import Any

import pytest

from tests.checkpoints import save_nomic
from tests.crash.damage import assert_notices_damage
from tests.crash.harness import Case, assert_survives
from tests.trainers.toys import WORDS, blocks, tokenizer

SETTINGS = {"max_steps": 5, "save_steps": 2, "save_total_limit": 1, "logging_steps": 1, "warmup_steps": 1}
SETTINGS |= {"learning_rate": 0.01, "seed": 3, "use_cpu": "true", "report_to": "none", "disable_tqdm": "true"}
LEFT: dict[str, Any] = {
    "may_differ": {
        "outputs/.in-use": "names the process",
        "*trainer_state.json": "its logs hold tokens a second, and running times",
    },
    "not_compared": {
        "*training.json": rb'"cost": \{[^}]*\},?\s*',  # seconds
        "*/files.json": rb'"(trainer_state|training).json": \{[^}]*\}|"sha256": "\w+"\n\}',  # the checksums of those
        "*/.nomic-embed-files.json": rb'"training.json": "\w+",?',  # likewise
    },
    "says_finished": "so this run is finished",
}


def arguments(**settings):
    return tuple(word for key, value in {**SETTINGS, **settings}.items() for word in (f"--{key}", str(value)))


def prepare_blocks(directory):
    tokenizer().save_pretrained(directory / "tokenizer")
    blocks(16).save_to_disk(directory / "blocks")


def prepare_pairs(directory):
    save_nomic(directory / "model")
    chosen = random.Random(0)
    with open(directory / "pairs.jsonl", "w") as file:
        for _ in range(12):
            query, document, *negatives = (" ".join(chosen.choices(WORDS, k=count)) for count in (2, 5, 4, 6))
            file.write(json.dumps({"query": query, "document": document, "negatives": negatives}) + "\n")


def stage1(schedule):
    model = json.dumps({"n_embd": 16, "n_layer": 1, "n_head": 2, "n_inner": 32, "vocab_size": 128})
    data = {"train_data": "blocks", "tokenizer": "tokenizer", "model": model, "output_dir": "outputs"}
    settings = {"global_batch_size": 4, "per_device_train_batch_size": 4, "peak_tflops": 0.1}
    command = arguments(**data, **settings, lr_scheduler_type=schedule)
    return Case(f"stage1, {schedule}", "recipes/stage1.py", command, prepare_blocks, **LEFT)


def stage2(schedule):
    data = {"model_name_or_path": "model", "train_file": "pairs.jsonl", "output_dir": "outputs"}
    command = arguments(**data, global_batch_size=4, lr_scheduler_type=schedule)
    return Case(f"stage2, {schedule}", "recipes/stage2.py", command, prepare_pairs, **LEFT)


def stage3(schedule):
    data = {"model_name_or_path": "model", "train_file": "pairs.jsonl", "output_dir": "outputs"}
    command = arguments(**data, global_batch_size=4, num_hard_negatives=2, lr_scheduler_type=schedule)
    return Case(f"stage3, {schedule}", "recipes/stage3.py", command, prepare_pairs, **LEFT)


@pytest.mark.crash
@pytest.mark.parametrize("schedule", ["constant", "inverse_sqrt"])
@pytest.mark.parametrize("stage", [stage1, stage2, stage3])
def test_a_stage_ends_with_the_same_files_wherever_it_was_killed(tmp_path, stage, schedule):
    assert_survives(stage(schedule), tmp_path)


@pytest.mark.crash
@pytest.mark.parametrize("stage", [stage1, stage2, stage3])
def test_a_stage_refuses_damaged_checkpoints(tmp_path, stage):
    copies = {"*.arrow": "a copy of the rows is as large as they are, and is read as memory: only its ends are checked"}
    assert_notices_damage(stage("inverse_sqrt"), tmp_path, bits_not_checked=copies)
