"""Tiny GLUE data, whose label is in the first letter of a text, and short runs on it."""

import json
import random
import shutil

from evaluation.glue.__main__ import main
from evaluation.glue.tasks import GLUE

TRAIN_ROWS, DEV_ROWS = 32, 20


def rows(task, count, seed):
    """Rows as columns -> values, labels by name."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        number = rng.randrange(len(task.labels) or 6)
        texts = ["abcdef"[number] + " " + "".join(rng.choices("uvwxyz ", k=rng.randint(3, 12))) + "z"]
        texts += ["".join(rng.choices("rstuv", k=rng.randint(2, 9)))] * (len(task.columns) - 1)
        made.append({**dict(zip(task.columns, texts, strict=True)), task.targets[0]: _target(task, number)})
    return made


def _target(task, number):
    return task.labels[number] if task.labels else str(float(number))


def write_tsv(path, made):
    lines = ["\t".join(made[0]), *("\t".join(row.values()) for row in made)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_data(directory):
    """Every task's training and dev set, and MNLI's second one."""
    directory.mkdir()
    for name, task in GLUE.items():
        write_tsv(directory / f"{name}_train.tsv", rows(task, TRAIN_ROWS, f"{name} train"))
        write_tsv(directory / f"{name}_dev.tsv", rows(task, DEV_ROWS, f"{name} dev"))
    write_tsv(directory / "mnli_dev_mismatched.tsv", rows(GLUE["mnli"], DEV_ROWS, "mismatched"))
    return directory


def arguments(place, *more, tasks=("cola",)):
    """One run a task unless `more` says otherwise: two epochs of four steps."""
    argv = [str(place / "model"), "--output_dir", str(place / "out"), "--data_dir", str(place / "data")]
    argv += ["--tasks", *tasks, "--tier", "quick", "--epochs", "2"]
    return [*argv, "--batch_sizes", "8", "--learning_rates", "3e-3", *map(str, more)]


def run(place, *more, tasks=("cola",)):
    """The command line on tiny data; what it wrote."""
    main(arguments(place, *more, tasks=tasks))
    return results(place)


def results(place, label="model"):
    """Run name -> content, without what no two runs share."""
    return {path.stem: read(path) for path in sorted((place / "out" / label / "runs").glob("[!.]*.json"))}


def read(path):
    content = json.loads(path.read_text())
    del content["seconds"]
    return content


def remove_results(place):
    shutil.rmtree(place / "out")
