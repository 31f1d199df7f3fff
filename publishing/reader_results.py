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
    def alone_to(self) -> int:
        """Longest length in tokens up to which every text agrees when it is embedded by itself; 0: there is none."""
        return _longest(self.alone, self.tolerance)

    @property
    def together_to(self) -> int:
        """Likewise, of texts in a batch with texts of other lengths."""
        return _longest(self.together, self.tolerance)

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

    header = ("program", "versions", "alone, to tokens", "in a batch, to tokens", "largest difference")

    def rows(self) -> list[list[str]]:
        """Cells of the table of the card and of README."""
        return [[escaped(one.program), number(one.versions), *_outcome(one)] for one in self.programs]

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


def read_program_results(file: Path = RESULTS_FILE) -> ProgramResults | None:
    """The last run's results; None: there are none."""
    if not file.is_file():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    return ProgramResults(**{**content, "programs": [ProgramResult.from_json(one) for one in content["programs"]]})


def write_program_results(results: ProgramResults, file: Path = RESULTS_FILE) -> None:
    """Write a run's results, in place of the last one's."""
    write_json(file, asdict(results))
