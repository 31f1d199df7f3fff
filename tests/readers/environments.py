"""Environments of their own for the programs: a venv or a folder of npm packages for each set of requirements."""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from publishing.readers import environment_without_tokens

_SECONDS = 1_500  # a program may take, on two busy cores


class NotInstalled(Exception):
    """A program could not be installed; says why."""


def python_environment(root: Path, requirements: Sequence[str]) -> Path:
    """The Python of a venv that has these packages; made if it is not there.

    uv is used where it is installed, since it takes a tenth of pip's time.

    Args:
        root: folder of the environments.
        requirements: as pip takes them. PIP_ARGS in the environment is passed on, for a torch without CUDA say.

    Raises:
        NotInstalled: the packages cannot be had.
    """
    directory = root / _name(requirements)
    python = directory / "bin" / "python"
    if not (directory / "installed").is_file():
        shutil.rmtree(directory, ignore_errors=True)
        _install([sys.executable, "-m", "venv", "--without-pip", str(directory)])
        if uv := shutil.which("uv"):
            pip, yes, where = [uv, "pip"], [], ["--python", str(python)]
        else:
            pip, yes, where = [sys.executable, "-m", "pip", "--python", str(python)], ["--yes"], []
        _install([*pip, "install", *where, "--quiet", *shlex.split(os.environ.get("PIP_ARGS", "")), *requirements])
        # texts need none of these, and builds for CUDA beside a torch for CPUs stop transformers
        _install([*pip, "uninstall", *where, "--quiet", *yes, "torchvision", "torchaudio", "torchcodec"])
        (directory / "installed").touch()
    return python


def node_environment(root: Path, requirements: Sequence[str]) -> Path:
    """A folder with these npm packages; made if it is not there.

    Raises:
        NotInstalled: the packages cannot be had, or there is no npm.
    """
    directory = root / _name(requirements)
    if not (directory / "installed").is_file():
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        (directory / "package.json").write_text('{"private": true}\n')
        _install(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *requirements], directory)
        (directory / "installed").touch()
    return directory


def installed_versions(environment: Path, packages: Sequence[str]) -> dict[str, str]:
    """Of packages in a venv, given its Python, or in a folder of npm packages."""
    if environment.is_dir():
        files = {name: environment / "node_modules" / name / "package.json" for name in packages}
        return {name: json.loads(file.read_text(encoding="utf-8"))["version"] for name, file in files.items()}
    code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    found = subprocess.run([environment, "-I", "-c", code, *packages], capture_output=True, text=True, check=True)
    return dict(zip(packages, found.stdout.split(), strict=True))


def llama_cpp_sources(environment: Path) -> Path:
    """llama.cpp's sources, the converter among them, out of the bundle that node-llama-cpp ships."""
    directory = environment / "llama.cpp"
    if not directory.is_dir():
        bundle = environment / "node_modules" / "node-llama-cpp" / "llama" / "gitRelease.bundle"
        _install(["git", "clone", "--quiet", str(bundle), str(directory)])
    return directory


def llama_embedding(environment: Path) -> Path:
    """llama.cpp's program, compiled where node-llama-cpp has its libraries, since it ships no programs.

    Raises:
        NotInstalled: there is no g++, or this is no x64 Linux.
    """
    libraries = environment / "node_modules" / "@node-llama-cpp" / "linux-x64" / "bins" / "linux-x64"
    program, sources = libraries / "llama-embedding", llama_cpp_sources(environment)
    if not program.is_file():
        linked = [str(file) for name in ("libllama-common", "libllama", "libggml", "libggml-base")
                  for file in sorted(libraries.glob(f"{name}.*so"))]  # fmt: skip
        headers = [f"-I{sources / folder}" for folder in ("include", "ggml/include", "common", "vendor")]
        code = str(sources / "examples" / "embedding" / "embedding.cpp")
        _install(["g++", "-std=c++17", *headers, code, "-o", str(program), *linked, "-Wl,-rpath,$ORIGIN"])
    return program


def source_distribution(root: Path, requirement: str) -> Path:
    """A package's source distribution, as its registry has it; fetched if it is not there.

    Raises:
        NotInstalled: it cannot be had.
    """
    name, _, version = requirement.partition("==")
    file = root / f"{name}-{version}.tar.gz"
    if not file.is_file():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", name]
        _install([*command, requirement, "--dest", str(root)])
    return file


def without_secrets() -> Mapping[str, str]:
    """This process's environment without tokens and without a way to this project's modules."""
    return {name: value for name, value in environment_without_tokens().items() if name != "PYTHONPATH"}


def _name(requirements: Sequence[str]) -> str:
    """The first package that others are not held back for, and a digest of all."""
    digest = hashlib.sha256("\n".join(requirements).encode()).hexdigest()[:8]
    first = next(name for name in requirements if not name.startswith(("torch==", "numpy", "huggingface_hub")))
    return f"{re.sub(r'[^a-z.-]', '-', re.split(r'[=<>[]|(?<!^)@', first)[0]).strip('-')}-{digest}"


def call(command: Sequence[str], directory: Path, *, seconds: int | None = _SECONDS, shown: int = -1) -> None:
    """Run a program without tokens and without the hub.

    Args:
        command: program and arguments.
        directory: where it runs.
        seconds: that it may take; None: any number.
        shown: which of the errors that it printed is raised: the last, or 0 for the first.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    environment = {**without_secrets(), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, errors="replace", timeout=seconds, env=environment
        )
    except FileNotFoundError:
        raise RuntimeError(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"no answer in {seconds} seconds") from None
    if done.returncode:
        said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        errors = [line for line in said if re.search(r"Error|error[: ]|ERROR", line)]
        raise RuntimeError((errors or said or [f"exit {done.returncode}"])[shown][:300])


def _install(command: Sequence[str], directory: Path | None = None) -> None:
    try:
        call(command, directory or Path.cwd(), seconds=None, shown=0)
    except RuntimeError as error:
        raise NotInstalled(str(error)) from error
