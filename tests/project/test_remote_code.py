"""No Auto class is asked for a model without being told whether it may run that model's code."""

import ast
from pathlib import Path

ROOMS = ("nomic_bert", "curation", "trainers", "evaluation", "publishing", "recipes", "benchmarks", "hub_upload.py")


def test_every_auto_class_is_told_whether_it_may_run_code_of_a_checkpoint(repository: Path) -> None:
    """Untold, transformers asks on a terminal, where `yes |` answers."""
    files = [file for room in ROOMS for file in sorted((repository / room).rglob("*.py")) or [repository / room]]
    calls = [
        (file, node)
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "from_pretrained"
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id.startswith("Auto")
    ]
    untold = [
        f"{file.relative_to(repository)}:{call.lineno}"
        for file, call in calls
        if not any(keyword.arg == "trust_remote_code" for keyword in call.keywords)
    ]
    assert len(calls) > 10 and untold == []
