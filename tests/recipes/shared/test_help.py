"""--help is whole, true to the dataclasses, and answered without importing torch."""

import dataclasses
import importlib
import subprocess
import sys
import typing
from pathlib import Path

import pytest
from transformers import TrainingArguments

from recipes.shared.help import attribute_meanings, help_page, own_keys, training_argument_groups

RECIPES = Path(__file__).resolve().parents[3] / "recipes"
STEPS = {
    "audit": "recipes.steps.audit:audit",
    "embed": "recipes.steps.embed:embed",
    "filter_pairs": "recipes.steps.filter_pairs:filter_pairs",
    "gpu_train": "recipes.steps.gpu_train:gpu_train",
    "make_pairs": "recipes.steps.make_pairs:make_pairs",
    "map": "recipes.steps.map:draw_map",
    "mine_negatives": "recipes.steps.mine_negatives:mine_negatives",
    "pack_corpus": "recipes.steps.pack_corpus:pack_corpus",
    "quickstart": "recipes.steps.quickstart:quickstart",
    "stage1": "recipes.steps.stage1:stage1",
    "stage2": "recipes.shared.contrastive:stage2",
    "stage3": "recipes.shared.contrastive:stage3",
}
INHERITED = {field.name for field in dataclasses.fields(TrainingArguments)}
# Runs a command's own module as a person's shell would, and fails if a heavy package was imported.
WITHOUT_TORCH = """
import runpy, sys
sys.argv[0], module = sys.argv[1], sys.argv[2] == "-m"
command, sys.argv[1:] = sys.argv[1], ["--help"]
try:
    runpy.run_module(command, run_name="__main__") if module else runpy.run_path(command, run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
heavy = {"torch", "transformers", "datasets", "accelerate", "sentence_transformers", "mteb", "scipy"} & set(sys.modules)
assert not heavy, heavy
"""


def test_every_recipe_is_listed_here():
    scripts = {path.stem for path in RECIPES.glob("*.py")} - {"__init__", "search"}
    assert scripts == STEPS.keys()


COMMANDS = [
    *(f"recipes/{name}.py" for name in [*STEPS, "search"]),
    *(f"-m evaluation.{name}" for name in ["mteb_run", "long_context", "glue", "report"]),
    "hub_upload.py",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_no_torch(command, repository):
    program = [sys.executable, "-c", WITHOUT_TORCH, command.removeprefix("-m "), command.partition(" ")[0]]
    run = subprocess.run(program, cwd=repository, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert len(run.stdout.splitlines()) > 8


@pytest.mark.parametrize("step", STEPS.values())
def test_help_names_every_field_once_with_its_default(step):
    module, _, name = step.partition(":")
    page = help_page("usage", module, name)
    hints = typing.get_type_hints(getattr(importlib.import_module(module), name))
    for kind in [kind for parameter, kind in hints.items() if parameter != "return"]:
        keys = {key.name: key for key in own_keys(kind.__module__, kind.__name__)}
        for field in dataclasses.fields(kind):
            if field.name in INHERITED and not (field.name in keys and keys[field.name].meaning):
                continue
            assert keys[field.name].meaning, f"{kind.__name__}.{field.name} is not under Attributes:"
            assert page.count(f"--{field.name}  ") == 1
            has_default = (field.default, field.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)
            assert (keys[field.name].default is None) != has_default, field.name


def test_defaults_and_types_are_those_of_the_fields():
    keys = {key.name: key for key in own_keys("trainers", "ContrastiveConfig")}
    assert keys["chunk_tokens"][1:3] == ("integer or null", "null")
    assert keys["global_batch_size"][1:3] == ("integer", "256")
    assert keys["hard_negative_scope"][1:3] == ("global or own", "global")
    assert keys["matryoshka_dims"][1:3] == ("list or null", "null")
    assert keys["mask_duplicate_documents"][1:3] == ("true or false", "false")
    assert own_keys("recipes.steps.audit", "AuditArguments")[0].default is None  # what is required comes first


def test_the_keys_of_transformers_are_all_named_by_group():
    groups = training_argument_groups()
    named = [name for names in groups.values() for name in names]
    assert sorted(named) == sorted(field.name for field in dataclasses.fields(TrainingArguments) if field.init)
    assert "learning_rate" in groups["Learning Rate & Scheduler"] and len(groups.get("Others", [])) < 5


def test_meanings_are_read_from_a_docstring():
    text = "What.\n\nAttributes:\n    a: one\n        and more.\n    b: two: three.\n\nRaises:\n    x: no.\n"
    assert attribute_meanings(text) == {"a": "one and more.", "b": "two: three."}
    assert attribute_meanings("What.") == {}
