"""Open a published directory in every program that reads such directories, and compare their embeddings.

python -m tests.readers.run [--model DIR] [--only WORD ...] [--authors CHECKOUT] [--publish]

Each program is installed in an environment of its own and run as its users do. Without --model the directory is a
small one with random weights. Results are kept under outputs/readers: if interrupted, rerun the command to resume. A
program that cannot be installed, or fails, gets a row that says so, and the command exits 1.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from publishing.reader_results import ProgramResult, ProgramResults, write_program_results
from textfiles.atomic import write_json
from textfiles.markdown import render_page, table

from .environments import (
    NotInstalled,
    installed_versions,
    llama_cpp_sources,
    node_environment,
    python_environment,
    without_secrets,
)
from .job import SMALL_MODEL, cut_job, prepare_job
from .programs import AUTHORS, PROGRAMS, Program

_HERE = Path(__file__).parent
PAGE = _HERE.parents[1] / "docs" / "results" / "readers.md"
_SECONDS = 1_500  # a program may take, on two busy cores


def main(argv: list[str]) -> int:
    """Run the programs that have no result yet, and print the table; how many did not agree anywhere."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/readers"), help="job, environments and results")
    parser.add_argument("--model", type=Path, metavar="DIR", help="a published directory, in place of a small one")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="programs whose name or requirements have this word")
    parser.add_argument("--authors", type=Path, metavar="DIR", help="checkout of the authors' hub repository of code")
    parser.add_argument(
        "--publish", action="store_true", help="also write publishing/readers.json and docs/results/readers.md"
    )
    args = parser.parse_args(argv)
    output: Path = args.output.resolve()
    job, kept = output / "job", output / "results"
    prepare_job(job, args.model)
    if kept.is_dir() and kept.stat().st_mtime < (job / "state.json").stat().st_mtime:
        shutil.rmtree(kept)  # of another directory
    kept.mkdir(parents=True, exist_ok=True)
    programs = [*PROGRAMS, AUTHORS]
    for place, program in enumerate(programs):
        file = kept / f"{place:02}.json"
        wanted = not args.only or any(word in " ".join((program.name, *program.requirements)) for word in args.only)
        if not wanted or (file.is_file() and json.loads(file.read_text(encoding="utf-8"))["failure"] is None):
            continue
        print(f"{program.name}, {', '.join(program.requirements)}", flush=True)
        result = try_program(program, job, output / "environments", args.authors)
        print(
            f"  alone to {result.alone_to:,}, in a batch to {result.together_to:,} tokens {result.failure or ''}",
            flush=True,
        )
        write_json(file, asdict(result))
    results = gather(kept, args.model)
    print(table(results.header, results.rows(), numbers=3))
    if args.publish:
        write_program_results(results)
        PAGE.write_text(results_page(results), encoding="utf-8")
    return sum(not (one.alone_to or one.together_to) for one in results.programs)


def try_program(program: Program, job: Path, environments: Path, authors: Path | None) -> ProgramResult:
    """Install a program, give it the job, and compare what it finds."""
    nothing = {"program": program.name, "tolerance": program.tolerance, "alone": {}, "together": {}}
    if program is AUTHORS and authors is None:
        return ProgramResult(**nothing, versions={}, failure="no checkout of the authors' code was given")
    is_python = program.script.endswith(".py")
    try:
        environment = (python_environment if is_python else node_environment)(environments, program.requirements)
    except NotInstalled as error:
        return ProgramResult(**nothing, versions={}, failure=str(error))
    versions = installed_versions(environment, program.packages)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        tokens, groups = cut_job(job, program.longest, scratch, authors=str(authors and authors.resolve()))
        try:
            if program.converter:
                _convert_for_llama_cpp(job / "model", scratch, environment, environments, program)
            found = _run(program, environment, scratch)
        except (NotInstalled, RuntimeError) as error:
            return ProgramResult(**nothing, versions=versions, failure=str(error))
    expected = np.load(job / "expected.npy")
    alone = {length: _difference(found["alone"][n], expected[n]) for n, length in enumerate(tokens)}
    together: dict[int, float] = {}
    for group, embeddings in zip(groups, found["groups"], strict=True):
        for n, embedding in zip(group, embeddings, strict=True):
            together[tokens[n]] = max(together.get(tokens[n], 0.0), _difference(embedding, expected[n]))
    return ProgramResult(**{**nothing, "alone": alone, "together": together}, versions=versions)


def _run(program: Program, environment: Path, scratch: Path) -> dict:
    interpreter = [str(environment), "-I"] if program.script.endswith(".py") else ["node"]
    output = scratch / "found.json"
    command = [*interpreter, str(_HERE / program.script), str(scratch), program.key, str(output)]
    _call(command, environment if environment.is_dir() else scratch)
    return json.loads(output.read_text(encoding="utf-8"))


def _convert_for_llama_cpp(model: Path, scratch: Path, environment: Path, environments: Path, program: Program) -> None:
    python = python_environment(environments, program.converter)
    sources = llama_cpp_sources(environment)
    command = [str(python), str(sources / "convert_hf_to_gguf.py"), str(model.resolve()), "--outtype", "f32"]
    _call([*command, "--outfile", str(scratch / "model.gguf")], sources)


def _call(command: list[str], directory: Path) -> None:
    """Run a program without tokens; what it said last is the error."""
    settings = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    try:
        done = subprocess.run(
            command, cwd=directory, capture_output=True, text=True, errors="replace", timeout=_SECONDS,
            env={**without_secrets(), **settings},
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"no answer in {_SECONDS} seconds") from None
    if done.returncode:
        said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        errors = [line for line in said if "Error" in line or "error:" in line]
        raise RuntimeError((errors or said or [f"exit {done.returncode}"])[-1][:300])


def _difference(found: list[float], wanted: np.ndarray) -> float:
    """Largest of any component; a large number for another shape and for NaN, since JSON has no infinity."""
    if len(found) != len(wanted):
        return 9.9
    return float(np.nan_to_num(np.abs(np.array(found) - wanted).max(), nan=9.9))


def gather(kept: Path, model: Path | None) -> ProgramResults:
    """All results so far, in the order of the programs."""
    contents = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(kept.glob("*.json"))]
    return ProgramResults(
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        hardware=f"{os.cpu_count()} cores of {_processor()}",
        model=SMALL_MODEL if model is None else "a directory of one's own",
        programs=[ProgramResult.from_json(content) for content in contents],
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def results_page(results: ProgramResults) -> str:
    """docs/results/readers.md."""
    lengths = sorted({length for one in results.programs for length in (*one.alone, *one.together)})
    return render_page(_HERE / "page.md.jinja", {"results": results, "lengths": lengths})


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))
