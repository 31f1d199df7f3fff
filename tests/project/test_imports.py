"""Imports go one way, hub repositories can carry the model files, and what is imported is declared."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from transformers.dynamic_module_utils import get_relative_imports

ROOMS = {"textfiles", "nomic_bert", "curation", "trainers", "evaluation", "publishing", "hub_upload"}
# Each part of the project, and the other parts that it may import.
ALLOWED = {
    "textfiles": set(),
    "nomic_bert": {"textfiles"},
    "curation": {"textfiles", "nomic_bert"},
    "trainers": {"textfiles", "nomic_bert"},
    "evaluation": {"textfiles", "nomic_bert"},
    "publishing": {"textfiles", "nomic_bert"},
    "hub_upload": {"textfiles", "nomic_bert", "publishing"},
    "recipes": ROOMS,
    "benchmarks": ROOMS | {"recipes"},
}
PARTS = ALLOWED.keys() | {"tests"}
EXTRAS = {
    "textfiles": {"train"},
    "nomic_bert": {"openvino"},
    "curation": {"train", "map"},
    "trainers": {"train"},
    "evaluation": {"train", "evaluation"},
    "publishing": {"onnx", "openvino", "train"},
}
REMOTE_CODE = ("attention", "configuration", "cpu", "heads", "layers", "loading", "modeling", "rotary", "unpadding")
REMOTE_CODE_MAY_IMPORT = sys.stdlib_module_names | {"torch", "transformers"}


def files_of(root: Path, part: str) -> list[Path]:
    """The Python files of a package, or the single file of a module."""
    return sorted((root / part).rglob("*.py")) + [path for path in [root / f"{part}.py"] if path.exists()]


def imports_of(path: Path, package: tuple[str, ...] = ()) -> Iterator[tuple[int, str]]:
    """Every import in a file, inside functions too, as (line, absolute dotted name); `package` resolves dots."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, node.module or ""
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - (node.level - 1)]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from ((node.lineno, ".".join([*base, name])) for name in names)


def wrong_arrows(root: Path) -> list[str]:
    found = []
    for part, allowed in ALLOWED.items():
        for path in files_of(root, part):
            relative = path.relative_to(root)
            for line, name in imports_of(path, relative.parent.parts):
                target = name.split(".")[0]
                if target in PARTS - {part} - allowed:
                    found.append(f"{relative}:{line} imports {target}")
    return found


def remote_code_faults(package: Path) -> list[str]:
    """What would break once the model files are saved flat in a hub repository, without the rest of the package."""
    found = []
    names = {f"{stem}_nomic_bert" for stem in REMOTE_CODE}
    for path in (package / f"{name}.py" for name in sorted(names)):
        siblings = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                siblings.add(node.module)
                if node.level != 1 or node.module not in names:
                    found.append(f"{path.name}:{node.lineno} imports something that is not one of the model files")
            elif isinstance(node, ast.Import | ast.ImportFrom):
                modules = [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                roots = {str(module).split(".")[0] for module in modules}
                found.extend(f"{path.name}:{node.lineno} imports {r}" for r in roots - REMOTE_CODE_MAY_IMPORT)
        # transformers looks for imports with a regex, which also matches lines of a docstring.
        if set(get_relative_imports(path)) != siblings:
            found.append(f"{path.name}: transformers reads other relative imports than Python does")
    return found


def undeclared_imports(root: Path) -> list[str]:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    distributions = packages_distributions()

    def declared(requirements: list[str]) -> set[str]:
        return {canonicalize_name(Requirement(line).name) for line in requirements}

    found = []
    for part in ROOMS:
        allowed = declared(project["dependencies"]).union(
            *(declared(project["optional-dependencies"][extra]) for extra in EXTRAS.get(part, ()))
        )
        for path in files_of(root, part):
            relative = path.relative_to(root)
            for line, name in imports_of(path, relative.parent.parts):
                module = name.split(".")[0]
                if module in sys.stdlib_module_names | PARTS:
                    continue
                providers = {canonicalize_name(dist) for dist in distributions.get(module, [module])}
                if not providers & allowed:
                    found.append(f"{relative}:{line} imports {module}, which {part} does not declare")
    return found


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def test_imports_go_one_way(repository: Path) -> None:
    for part in ALLOWED:
        assert files_of(repository, part), f"{part} has no Python files: nothing was checked"
    assert wrong_arrows(repository) == []


@pytest.mark.parametrize(
    ("path", "line", "target"),
    [
        ("textfiles/rows.py", "from nomic_bert import prompts", "nomic_bert"),
        ("nomic_bert/embedder.py", "import trainers.losses", "trainers"),
        ("trainers/mlm.py", "from curation.packing import pack_documents", "curation"),
        ("evaluation/report.py", "def late():\n    import curation", "curation"),
        ("curation/negatives.py", "from evaluation import retrieval", "evaluation"),
        ("curation/deep/inner.py", "from ... import trainers", "trainers"),
        ("hub_upload.py", "from recipes import stage1", "recipes"),
        ("evaluation/glue.py", "import hub_upload", "hub_upload"),
        ("recipes/stage1.py", "import benchmarks", "benchmarks"),
        ("trainers/losses.py", "from tests import conftest", "tests"),
    ],
)
def test_a_wrong_arrow_is_found(tmp_path: Path, path: str, line: str, target: str) -> None:
    found = wrong_arrows(write(tmp_path, {path: line + "\n"}))
    assert len(found) == 1 and found[0].startswith(path) and found[0].endswith(f"imports {target}")


def test_right_arrows_pass(tmp_path: Path) -> None:
    files = {
        "nomic_bert/embedder.py": "from .prompts import PROMPTS\n",
        "trainers/mlm.py": "import torch\nfrom nomic_bert import NomicBertForMaskedLM\nfrom . import losses\n",
        "recipes/stage1.py": "import curation.packing\nfrom trainers.mlm import MLMTrainer\n",
    }
    assert wrong_arrows(write(tmp_path, files)) == []


def test_hub_repositories_can_carry_the_model_files(repository: Path) -> None:
    package = repository / "nomic_bert"
    assert {path.stem for path in package.glob("*_nomic_bert.py")} == {f"{s}_nomic_bert" for s in REMOTE_CODE}
    assert remote_code_faults(package) == []
    # transformers < 5 copies the files that the opened one names itself, from a local directory
    named = set(get_relative_imports(package / "modeling_nomic_bert.py"))
    assert named == {f"{stem}_nomic_bert" for stem in REMOTE_CODE} - {"modeling_nomic_bert"}


@pytest.mark.parametrize(
    "line",
    [
        "import numpy",
        "try:\n    from flash_attn import flash_attn_func\nexcept ImportError:\n    pass",
        "from . import rotary_nomic_bert",
        "from .prompts import PREFIXES",
        "from nomic_bert.rotary_nomic_bert import rotate",
        '"""Rotation.\n\nfrom .example import this reads as an import\n"""',
    ],
)
def test_a_file_that_a_hub_repository_cannot_carry_is_found(tmp_path: Path, line: str) -> None:
    package = write(tmp_path, {f"{stem}_nomic_bert.py": "import torch\n" for stem in REMOTE_CODE})
    assert remote_code_faults(package) == []
    write(tmp_path, {"modeling_nomic_bert.py": line + "\n"})
    assert remote_code_faults(package)


def test_third_party_imports_are_declared(repository: Path) -> None:
    """nomic_bert needs the base dependencies only; the others name their extra."""
    assert undeclared_imports(repository) == []


def test_an_undeclared_import_is_found(repository: Path, tmp_path: Path) -> None:
    declared = (repository / "pyproject.toml").read_text(encoding="utf-8")
    files = {"pyproject.toml": declared, "nomic_bert/embedder.py": "import torch\nimport datasets\n"}
    assert undeclared_imports(write(tmp_path, files)) == [
        "nomic_bert/embedder.py:2 imports datasets, which nomic_bert does not declare"
    ]


def test_commands_begin_without_the_packages_of_extras_that_they_do_not_name(repository: Path) -> None:
    steps = [f"recipes.steps.{path.stem}" for path in sorted((repository / "recipes/steps").glob("[a-z]*.py"))]
    commands = [*steps, "recipes.shared.contrastive", "evaluation.mteb_run", "evaluation.long_context", "hub_upload"]
    program = f"""
import importlib, sys
sys.modules |= dict.fromkeys(["openvino", "onnx", "onnxruntime", "onnxscript", "deepspeed", "peft"])
for name in {commands}:
    importlib.import_module(name)
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=repository, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
