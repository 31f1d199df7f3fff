"""The wheel and the sdist, built from a copy of the checkout, hold what they should and nothing else."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

PACKAGES = ("textfiles", "nomic_bert", "curation", "trainers", "evaluation", "publishing")
NOMIC_BERT_FILES = {
    "attention_nomic_bert.py",
    "configuration_nomic_bert.py",
    "cpu_nomic_bert.py",
    "heads_nomic_bert.py",
    "layers_nomic_bert.py",
    "loading_nomic_bert.py",
    "modeling_nomic_bert.py",
    "rotary_nomic_bert.py",
    "unpadding_nomic_bert.py",
    "prompts.py",
    "embedder.py",
}


@pytest.fixture(scope="module")
def built(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one sdist, and the wheel that was built from it."""
    copy = tmp_path_factory.mktemp("checkout") / "repository"
    unwanted = shutil.ignore_patterns(".git", ".venv*", "outputs", "build", "dist", "__pycache__", ".*_cache")
    shutil.copytree(repository, copy, ignore=unwanted)
    # What a working checkout also has: a run's outputs and compiled files.
    for stray in ("outputs/model.safetensors", "nomic_bert/__pycache__/prompts.cpython-311.pyc"):
        (copy / stray).parent.mkdir(exist_ok=True)
        (copy / stray).write_bytes(b"stray")
    destination = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(destination), str(copy)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return destination


@pytest.fixture(scope="module")
def wheel(built: Path) -> zipfile.ZipFile:
    (path,) = built.glob("*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_every_module(repository: Path, wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert {f"nomic_bert/{name}" for name in NOMIC_BERT_FILES} <= names
    for package in PACKAGES:
        files = {path for path in (repository / package).rglob("*") if path.suffix in (".py", ".jinja", ".json")}
        assert files, f"{package} has no files"
        assert {str(path.relative_to(repository)) for path in files} <= names
    assert "publishing/card.md.jinja" in names
    assert ("hub_upload.py" in names) == (repository / "hub_upload.py").exists()


def test_the_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    top = {name.split("/")[0] for name in wheel.namelist()} - {"hub_upload.py"}
    assert {name for name in top if not name.endswith(".dist-info")} == set(PACKAGES)
    assert [name for name in wheel.namelist() if "__pycache__" in name or name.endswith(".safetensors")] == []


def test_the_wheel_says_what_it_needs(wheel: zipfile.ZipFile) -> None:
    (path,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(wheel.read(path).decode("utf-8"))
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert set(metadata.get_all("Provides-Extra")) == {
        "train",
        "evaluation",
        "map",
        "flash",
        "deepspeed",
        "onnx",
        "openvino",
        "docs",
        "dev",
    }
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel.namelist())


def test_the_sdist_holds_the_recipes_and_no_outputs(repository: Path, built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"Makefile", "constraints.txt", "LICENSE", "tests/conftest.py"} <= names
    configs = (repository / "recipes" / "configs").glob("*.yaml")
    assert {str(path.relative_to(repository)) for path in configs} <= names
    assert not any(name.startswith("outputs") or "__pycache__" in name for name in names)
