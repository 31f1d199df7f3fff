"""Open published directories in every program that reads such directories, and compare their embeddings.

python -m tests.readers.run [--model DIR] [--only WORD ...] [--authors CHECKOUT] [--publish]

Each program is installed in an environment of its own and run as its users do. Without --model the directories are
small ones with random weights, and transformers' common model tests are run too. Results are kept under
outputs/readers: if interrupted, rerun the command to resume. A program that cannot be installed, or fails, gets a row
that says so. The command exits 1 if a program failed that should not, or the reverse.
"""

import argparse
import datetime
import json
import os
import platform
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np

from publishing.reader_results import (
    LibraryResult,
    ModelTests,
    ProgramResult,
    ProgramResults,
    ReaderResults,
    write_results,
)
from textfiles.atomic import read_json, write_json
from textfiles.markdown import render_page, table

from .directories import DIRECTORIES, Directory
from .environments import (
    NotInstalled,
    call,
    installed_versions,
    llama_cpp_sources,
    llama_embedding,
    node_environment,
    python_environment,
    source_distribution,
)
from .job import cut_job, prepare_job
from .libraries import PAGE_OF_LINES, TRIED, try_library
from .programs import AUTHORS, MODEL_TESTS, PROGRAMS, Program

_HERE = Path(__file__).parent
PAGE = _HERE.parents[1] / "docs" / "results" / "readers.md"
_MODEL_TESTS = "transformers' common model tests"


def main(argv: list[str]) -> int:
    """Run the programs that have no result yet, and print the tables; 1 where one is not as expected."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("outputs/readers"), help="jobs, environments and results")
    parser.add_argument("--model", type=Path, metavar="DIR", help="a published directory, in place of small ones")
    parser.add_argument(
        "--directories", nargs="+", metavar="KEY", choices=[one.key for one in DIRECTORIES],
        help=f"of the small ones: {', '.join(one.key for one in DIRECTORIES)} (default: all)",
    )  # fmt: skip
    parser.add_argument("--only", nargs="+", metavar="WORD", help="programs whose name or requirements have this word")
    parser.add_argument("--authors", type=Path, metavar="DIR", help="checkout of the authors' hub repository of code")
    parser.add_argument(
        "--publish", action="store_true", help="also write publishing/readers.json and docs/results/readers.md"
    )
    args = parser.parse_args(argv)
    if args.publish and (args.model is not None or args.directories):
        parser.error("--publish is for all small directories, so leave out --model and --directories")
    output: Path = args.output.resolve()
    chosen = [one for one in DIRECTORIES if not args.directories or one.key in args.directories]
    directories = chosen if args.model is None else [_own_directory(args.model)]
    runs = {directory.key: try_directory(directory, output, args) for directory in directories}
    libraries = try_libraries(output, args) if DIRECTORIES[0] in directories else []
    model_tests = None if args.model is not None else try_model_tests(output, args)
    for directory in directories:
        print(f"\nA model of {directory.description}:\n")
        print(table(ProgramResults.header, runs[directory.key].rows(), numbers=3))
    if args.publish:
        results = ReaderResults(directories=runs, libraries=libraries, model_tests=model_tests)
        write_results(results)
        PAGE.write_text(results_page(results), encoding="utf-8")
    wrong = [f"{one.program} {one.versions}" for run in runs.values() for one in run.programs if not one.is_as_expected]
    wrong += [f"{one.library} {one.versions}" for one in libraries if not one.is_as_expected]
    wrong += [] if model_tests is None else model_tests.surprises
    if wrong:
        print("\nNot as expected:", *wrong, sep="\n  ")
    return int(bool(wrong))


def _own_directory(model: Path) -> Directory:
    """A directory of the user's, with lengths around those that it names."""
    advice = "Give a directory that hub_upload.py wrote."
    trained = read_json(model / "config.json", advice)["max_trained_positions"]
    usable = read_json(model / "sentence_bert_config.json", advice)["max_seq_length"]
    lengths = sorted({length for length in (12, 100, 513, trained, trained + 1, 2_500, usable) if length <= usable})
    return Directory(key="own", description=str(model), trained_length=trained, lengths=lengths, model=model)


def try_directory(directory: Directory, output: Path, args: argparse.Namespace) -> ProgramResults:
    """All programs on one directory; those that have a result are not run again."""
    job, kept = output / directory.key / "job", output / directory.key / "results"
    prepare_job(job, directory)
    if kept.is_dir() and kept.stat().st_mtime < (job / "state.json").stat().st_mtime:
        shutil.rmtree(kept)  # of other code
    kept.mkdir(parents=True, exist_ok=True)
    found = []
    for program in directory_programs(directory):
        file = kept / f"{program.key.replace('/', '-')}-{program.label.rpartition(' ')[2]}.json"
        known = ProgramResult.from_json(read_json(file, "Remove it.")) if file.is_file() else None
        wanted = not args.only or any(word in " ".join((program.name, *program.requirements)) for word in args.only)
        if wanted and (known is None or not known.is_as_expected):
            print(f"{directory.key}: {program.label}", flush=True)
            known = try_program(program, directory, job, output / "environments", args.authors)
            print(
                f"  alone to {known.alone_to:,}, in a batch to {known.together_to:,} tokens {known.failure or ''}",
                flush=True,
            )
            write_json(file, asdict(known))
        found += [] if known is None else [known]
    return ProgramResults(
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        hardware=f"{os.cpu_count()} cores of {_processor()}",
        model=directory.description,
        programs=found,
    )


def directory_programs(directory: Directory) -> list[Program]:
    """Those that open a directory, in the order of the pages."""
    return [one for one in (*PROGRAMS, AUTHORS) if not directory.programs or one.label in directory.programs]


def try_program(
    program: Program, directory: Directory, job: Path, environments: Path, authors: Path | None
) -> ProgramResult:
    """Install a program, give it the job, and compare what it finds."""
    nothing = {"program": program.name, "tolerance": program.tolerance, "alone": {}, "together": {}}
    nothing["refusal"] = directory.refuses.get(program.label)
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
        facts = {"authors": str(authors and authors.resolve())}
        try:
            if program.script == "read_llama_embedding.mjs":
                facts["program"] = str(llama_embedding(environment))
            tokens, groups = cut_job(
                job, without_eq_5=program.without_eq_5, alone=program.alone, folder=scratch, **facts
            )
            if program.converter:
                _convert_for_llama_cpp(job / "model", scratch, environment, environments, program)
            found = _run(program, environment, scratch)
        except (NotInstalled, RuntimeError) as error:
            failure = str(error).replace(str((job / "model").resolve()), "DIR")  # pages name no machine's folders
            return ProgramResult(**nothing, versions=versions, failure=failure)
    expected = np.load(job / "expected.npy")
    alone = {length: _difference(found["alone"][n], expected[n]) for n, length in enumerate(tokens)}
    together: dict[int, float] = {}
    for group, embeddings in zip(groups, found["groups"], strict=True):
        for n, embedding in zip(group, embeddings, strict=True):
            together[tokens[n]] = max(together.get(tokens[n], 0.0), _difference(embedding, expected[n]))
    seen = {"alone": alone, "together": together, "precision": found.get("precision")}
    return ProgramResult(**{**nothing, **seen}, versions=versions)


def try_libraries(output: Path, args: argparse.Namespace) -> list[LibraryResult]:
    """The lines of docs/use.md on the usual directory; those that have a result are not run again."""
    model, kept = output / DIRECTORIES[0].key / "job" / "model", output / "libraries"
    newest = max(path.stat().st_mtime for path in (PAGE_OF_LINES, _HERE / "read_library.py", model / "config.json"))
    kept.mkdir(exist_ok=True)
    found = []
    for library in TRIED:
        file = kept / f"{library.key}.json"
        is_known = file.is_file() and file.stat().st_mtime > newest
        known = LibraryResult(**read_json(file, "Remove it.")) if is_known else None
        wanted = not args.only or any(word in " ".join((library.name, *library.packages)) for word in args.only)
        if wanted and (known is None or not known.is_as_expected):
            print(f"docs/use.md: {library.name}", flush=True)
            known = try_library(library, model, output / "environments")
            print(f"  {known.failure or known.differences}", flush=True)
            write_json(file, asdict(known))
        found += [] if known is None else [known]
    return found


def try_model_tests(output: Path, args: argparse.Namespace) -> ModelTests | None:
    """transformers' common model tests on our classes, in an environment of their own; None: they did not run."""
    file, script = output / "model_tests.json", _HERE / "common_model_tests.py"
    wanted = not args.only or any(word in _MODEL_TESTS for word in args.only)
    code = [script, *(_HERE.parents[1] / "nomic_bert").glob("*.py")]
    is_known = file.is_file() and file.stat().st_mtime > max(path.stat().st_mtime for path in code)
    if wanted and not (is_known and not read_json(file, "Remove it.")["surprises"]):
        print(_MODEL_TESTS, flush=True)
        file.unlink(missing_ok=True)
        try:
            python = python_environment(output / "environments", MODEL_TESTS)
            version = installed_versions(python, ["transformers"])["transformers"]
            sdist = source_distribution(output / "environments", f"transformers=={version}")
            call([str(python), str(script), "--sdist", str(sdist), "--output", str(file)], output)
        except (NotInstalled, RuntimeError) as error:
            print(f"  did not run: {error}", flush=True)
    return ModelTests(**read_json(file, "Remove it.")) if file.is_file() else None


def _run(program: Program, environment: Path, scratch: Path) -> dict:
    interpreter = [str(environment), "-I"] if program.script.endswith(".py") else ["node"]
    output = scratch / "found.json"
    command = [*interpreter, str(_HERE / program.script), str(scratch), program.key, str(output)]
    call(command, environment if environment.is_dir() else scratch)
    return json.loads(output.read_text(encoding="utf-8"))


def _convert_for_llama_cpp(model: Path, scratch: Path, environment: Path, environments: Path, program: Program) -> None:
    python = python_environment(environments, program.converter)
    sources = llama_cpp_sources(environment)
    command = [str(python), str(sources / "convert_hf_to_gguf.py"), str(model.resolve()), "--outtype", "f32"]
    call([*command, "--outfile", str(scratch / "model.gguf")], sources)


def _difference(found: list[float], wanted: np.ndarray) -> float:
    """Largest of any component; a large number for another shape and for NaN, since JSON has no infinity."""
    if len(found) != len(wanted):
        return 9.9
    return float(np.nan_to_num(np.abs(np.array(found) - wanted).max(), nan=9.9))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def results_page(results: ReaderResults) -> str:
    """docs/results/readers.md."""
    return render_page(_HERE / "page.md.jinja", {"results": results}, {"lengths": _lengths})


def _lengths(run: ProgramResults) -> list[int]:
    return sorted({length for one in run.programs for length in (*one.alone, *one.together)})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
