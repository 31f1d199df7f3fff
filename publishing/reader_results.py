"""What `make readers` found: programs that opened a published directory, and how far their embeddings were apart.

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
        failure: why there are no differences; None: it opened the directory.
    """

    program: str
    versions: Mapping[str, str]
    tolerance: float
    alone: Mapping[int, float]
    together: Mapping[int, float]
    failure: str | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "ProgramResult":
        """From what `dataclasses.asdict` gave, after it was JSON, where all keys are texts."""
        lengths = {key: {int(n): found for n, found in content[key].items()} for key in ("alone", "together")}
        return cls(**{**content, **lengths})

    @property
    def agrees_to(self) -> int:
        """Longest length in tokens up to which no tried text differs by more than the tolerance; 0: there is none."""
        longest = 0
        for length in sorted(self.alone):
            if not max(self.alone[length], self.together.get(length, 0.0)) <= self.tolerance:
                break
            longest = length
        return longest

    @property
    def largest_difference(self) -> float:
        """Of the texts up to `agrees_to`."""
        found = (*self.alone.items(), *self.together.items())
        return max((difference for length, difference in found if length <= self.agrees_to), default=float("nan"))


@dataclass(frozen=True, kw_only=True)
class ProgramResults:
    """A run of all programs.

    Attributes:
        date: YYYY-MM-DD.
        hardware: on which it ran.
        model: whose directory was opened.
        programs: in the order of the pages.
    """

    date: str
    hardware: str
    model: str
    programs: Sequence[ProgramResult]

    header = ("program", "versions", "agrees up to, tokens", "largest difference")

    def rows(self) -> list[list[str]]:
        """Cells of the table of the card and of README."""
        return [[escaped(one.program), number(one.versions), *_outcome(one)] for one in self.programs]

    def oldest(self, package: str) -> str:
        """The lowest version of a package with which a program agreed to the last length tried."""
        agreed = [one for one in self.programs if one.alone and one.agrees_to == max(one.alone)]
        found = [one.versions[package].split("+")[0] for one in agreed if package in one.versions]
        return min(found, key=lambda version: [int(part) for part in version.split(".")[:2]])


def _outcome(one: ProgramResult) -> tuple[str, str]:
    if one.failure is not None:
        return "did not run" if one.versions else "not installed", ""
    if not one.agrees_to:
        return "none", ""
    return number(one.agrees_to), f"{one.largest_difference:.1e}"


def read_program_results(file: Path = RESULTS_FILE) -> ProgramResults | None:
    """The last run's results; None: there are none."""
    if not file.is_file():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    return ProgramResults(**{**content, "programs": [ProgramResult.from_json(one) for one in content["programs"]]})


def write_program_results(results: ProgramResults, file: Path = RESULTS_FILE) -> None:
    """Write a run's results, in place of the last one's."""
    write_json(file, asdict(results))
