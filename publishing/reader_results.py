"""What `make readers` found: programs that opened published directories, and how far their embeddings were apart.

`readers.json` beside this file is what the last run wrote. The card and the pages are made from it. A difference is the
largest of any component of an embedding at unit length.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from textfiles.atomic import write_json
from textfiles.markdown import escaped, number

RESULTS_FILE = Path(__file__).with_name("readers.json")


@dataclass(frozen=True, kw_only=True)
class ProgramResult:
    """One program, in one version.

    Attributes:
        program: name for people, with the way in which it was run.
        versions: package -> version; empty: it could not be installed.
        tolerance: largest difference that is the program's own rounding.
        alone: tokens of a text -> difference, embedded by itself.
        together: likewise, embedded in one batch with texts of other lengths.
        precision: in which the program says that it computed; None: it does not say.
        failure: why there are no differences; None: it opened the directory.
        refusal: why the program is known not to give the directory's embeddings; None: it should.
    """

    program: str
    versions: Mapping[str, str]
    tolerance: float
    alone: Mapping[int, float]
    together: Mapping[int, float]
    precision: str | None = None
    failure: str | None = None
    refusal: str | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "ProgramResult":
        """Rebuild what `dataclasses.asdict` gave from JSON, where all keys are texts."""
        lengths = {key: {int(n): found for n, found in content[key].items()} for key in ("alone", "together")}
        return cls(**{**content, **lengths})

    @property
    def alone_to(self) -> int:
        """Longest length in tokens up to which every text agrees when it is embedded by itself; 0: there is none."""
        return _longest(self.alone, self.tolerance)

    @property
    def together_to(self) -> int:
        """Likewise, of texts in a batch with texts of other lengths."""
        return _longest(self.together, self.tolerance)

    @property
    def is_as_expected(self) -> bool:
        """Whether it agrees at some length, or at none where it is known not to."""
        return bool(self.alone_to or self.together_to) == (self.refusal is None)

    @property
    def largest_difference(self) -> float:
        """Of the texts that agree, up to these lengths."""
        within = [d for n, d in self.alone.items() if n <= self.alone_to]
        within += [d for n, d in self.together.items() if n <= self.together_to]
        return max(within, default=float("nan"))


def _longest(differences: Mapping[int, float], tolerance: float) -> int:
    longest = 0
    for length in sorted(differences):
        if not differences[length] <= tolerance:  # NaN is no agreement
            break
        longest = length
    return longest


@dataclass(frozen=True, kw_only=True)
class ProgramResults:
    """A run of all programs on one directory.

    Attributes:
        date: YYYY-MM-DD.
        hardware: on which it ran.
        model: whose directory was opened, after "a model of".
        programs: in the order of the pages.
    """

    date: str
    hardware: str
    model: str
    programs: Sequence[ProgramResult]

    header = ("program", "versions", "alone, to tokens", "in a batch, to tokens", "largest difference")

    def rows(self) -> list[list[str]]:
        """Cells of the table of the card and of README."""
        return [[escaped(one.program), number(one.versions), *_outcome(one)] for one in self.programs]

    def cost_of_default(self, program: str) -> tuple[str, float] | None:
        """Precision in which a program computed by default, and the largest difference; None: it did not run."""
        found = [one for one in self.programs if one.program == program and one.precision is not None]
        return (str(found[0].precision), found[0].largest_difference) if found else None

    def oldest(self, package: str) -> str:
        """The lowest version of a package with which a program agreed to the last length tried."""
        last = [(one, max(one.alone)) for one in self.programs if one.alone]
        agreed = [one for one, length in last if one.alone_to == one.together_to == length]
        found = [one.versions[package].split("+")[0] for one in agreed if package in one.versions]
        return min(found, key=lambda version: [int(part) for part in version.split(".")[:2]])


def _outcome(one: ProgramResult) -> tuple[str, str, str]:
    if one.failure is not None:
        return "did not run" if one.versions else "not installed", "", ""
    alone, together = (number(length) if length else "none" for length in (one.alone_to, one.together_to))
    return alone, together, f"{one.largest_difference:.1e}" if one.alone_to or one.together_to else ""


@dataclass(frozen=True, kw_only=True)
class LibraryResult:
    """A library that embeds with a published directory, by the line that docs/use.md has for it.

    Attributes:
        library: name for people.
        versions: package -> version; empty: it could not be installed.
        differences: name of a prompt -> largest difference of a component from `encode` with that prompt; "similarity":
            of what a database finds between a query and a document.
        failure: why there are no differences; None: it ran.
    """

    library: str
    versions: Mapping[str, str]
    differences: Mapping[str, float]
    failure: str | None = None

    @property
    def is_as_expected(self) -> bool:
        """Whether its embeddings are those of the text with its prefix, but for the rounding of float32."""
        return bool(self.differences) and all(found <= 1e-5 for found in self.differences.values())


@dataclass(frozen=True, kw_only=True)
class ModelTests:
    """transformers' common model tests, run on the classes of `nomic_bert`.

    Attributes:
        version: of transformers.
        passed: number of tests.
        failed: number of tests.
        skipped: number of tests.
        differences: test that fails -> the reason, where it does so by contract; else what it said.
        surprises: tests that fail without such a reason, or pass in spite of one.
    """

    version: str
    passed: int
    failed: int
    skipped: int
    differences: Mapping[str, str]
    surprises: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class ReaderResults:
    """What the last run found.

    Attributes:
        directories: "bert", "quickstart", "matryoshka" -> the run on such a directory.
        libraries: in the order of the page.
        model_tests: None: they were not run.
    """

    directories: Mapping[str, ProgramResults]
    libraries: Sequence[LibraryResult] = ()
    model_tests: ModelTests | None = None


def read_results(file: Path = RESULTS_FILE) -> ReaderResults | None:
    """The last run's results; None: there are none."""
    if not file.is_file():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    directories = {
        key: ProgramResults(**{**run, "programs": [ProgramResult.from_json(one) for one in run["programs"]]})
        for key, run in content["directories"].items()
    }
    libraries = [LibraryResult(**one) for one in content["libraries"]]
    tests = None if content["model_tests"] is None else ModelTests(**content["model_tests"])
    return ReaderResults(directories=directories, libraries=libraries, model_tests=tests)


def write_results(results: ReaderResults, file: Path = RESULTS_FILE) -> None:
    """Write a run's results, in place of the last one's."""
    write_json(file, asdict(results))
