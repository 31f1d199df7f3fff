"""The training runs of contrastive.py: stages 2 and 3 from each seed's stage 1, and one change at a time."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from curation.files import ROW_SUFFIXES, find_files, read_jsonl, write_jsonl

_RECIPES = Path(__file__).resolve().parents[2] / "recipes"
_CONFIGS = _RECIPES / "configs"

# What an ablation changes; all else is as in the run of the first seed.
STAGE_2_ABLATIONS = {
    "stage2-mixed": "every batch drawn from all sources, not from one",
    "stage2-no_prefixes": "no prefixes, in training and in evaluation",
}
STAGE_3_ABLATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "stage3-first_negatives": ("the nearest mined negatives, not some of the nearest 20", {}),
    "stage3-more_negatives": ("8 hard negatives, not 4", {"num_hard_negatives": 8}),
    "stage3-two_epochs": ("two epochs, not one", {"num_train_epochs": 2}),
    "stage3-no_hard_negatives": ("no hard negatives", {"num_hard_negatives": 0}),
}
WITHOUT_PREFIXES = "stage2-no_prefixes"


class Runs:
    """Every run of the benchmark by name, where its model lies, and how it is made.

    Args:
        directory: each run has a directory of its name in it.
        data: what `contrastive_data.prepare` wrote.
        stage1: seed -> stage 1 model; ablations take the first seed.
        stage3_rows: rows of each source of stage 3 that an epoch has, the first ones of a random order; all are
            mined from.

    Raises:
        ValueError: no seed is given.
    """

    def __init__(self, directory: Path, data: Path, stage1: Mapping[int, str], stage3_rows: int | None = None) -> None:
        if not stage1:
            raise ValueError("--stage1 names no model; give SEED=DIR.")
        self.directory, self.data, self.stage1, self.stage3_rows = directory, data, stage1, stage3_rows
        self.first = next(iter(stage1))

    def names(self) -> list[str]:
        """In an order in which each run finds what it starts from."""
        by_seed = [f"{step}-{seed}" for seed in self.stage1 for step in ("stage2", "negatives", "stage3")]
        return [*by_seed, *STAGE_2_ABLATIONS, *STAGE_3_ABLATIONS]

    def output(self, name: str) -> Path:
        """What a finished run leaves: its model, or its directory of mined negatives."""
        return self.directory / name if name.startswith("negatives") else self.directory / name / "final"

    def finished(self, name: str) -> bool:
        """Whether it need not run again."""
        if name.startswith("negatives"):
            sources = self._sources("stage3", mined=False)
            return all((self._mined(name, source) / "report.json").exists() for source in sources)
        return self.output(name).exists()

    def train(self, only: Sequence[str] = ()) -> None:
        """Run what is not finished, one after the other.

        Args:
            only: names of the runs; none: all.

        Raises:
            ValueError: a name is unknown, what a run starts from is not there, or a recipe failed.
        """
        if unknown := sorted(set(only) - set(self.names())):
            raise ValueError(f"--only: no run {unknown[0]!r}; there are {', '.join(self.names())}.")
        for name in self.names():
            if only and name not in only:
                continue
            if self.finished(name):
                print(f"{name}: finished before", flush=True)
                continue
            started = time.time()
            print(f"{name}: starts", flush=True)
            self._run(name)
            print(f"{name}: took {time.time() - started:.0f} s", flush=True)

    def _run(self, name: str) -> None:
        step, _, variant = name.partition("-")
        seed = int(variant) if variant.isdecimal() else self.first
        if step == "stage2":
            overlay = name if name in STAGE_2_ABLATIONS else "stage2"
            self._contrastive(name, "stage2", self.stage1[seed], self._sources(overlay), seed, {})
        elif step == "negatives":
            sources = self._sources("stage3", mined=False)
            # cut as stage 3 cuts them, or negatives would be chosen for words that it does not read
            max_seq_length = _settings("stage3")["document_max_length"]
            self._recipe(
                "mine_negatives", model_name_or_path=str(self._needed(f"stage2-{seed}", name)), sources=sources,
                output_dir=str(self.output(name)), num_negatives=20, max_seq_length=max_seq_length,
                source_prefixes=True,
            )  # fmt: skip
        else:
            changes = STAGE_3_ABLATIONS[name][1] if name in STAGE_3_ABLATIONS else {}
            start = str(self._needed(f"stage2-{seed}", name))
            self._contrastive(name, "stage3", start, self._stage3_sources(name, seed), seed, changes)

    def _contrastive(
        self, name: str, config: str, start: str, sources: list[dict[str, Any]], seed: int, changes: Mapping[str, Any]
    ) -> None:
        # stage 3 without negatives is what the recipe of stage 2 does, with the numbers of stage 3
        recipe = config if all("negatives" in source for source in sources) else "stage2"
        self._recipe(
            recipe, config=str(_CONFIGS / f"{config}_cpu.yaml"), model_name_or_path=start, sources=sources, seed=seed,
            output_dir=str(self.directory / name), **changes,
        )  # fmt: skip

    def _recipe(self, recipe: str, **settings: Any) -> None:
        command = [sys.executable, str(_RECIPES / f"{recipe}.py")]
        for key, value in settings.items():
            command += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
        if subprocess.run(command).returncode:
            raise ValueError(f"{recipe}.py failed, see above. Run this again to go on from here.")

    def _needed(self, needed: str, name: str) -> Path:
        if not self.finished(needed):
            raise ValueError(f"{name} starts from {needed}, which is not finished; train it first.")
        return self.output(needed)

    def _sources(self, overlay: str, mined: bool | None = None) -> list[dict[str, Any]]:
        """Sources of a config overlay: all, those with negatives, or those that are to be mined."""
        sources = yaml.safe_load((self.data / f"{overlay}.yaml").read_text())["sources"]
        return [source for source in sources if mined in (None, "negatives" in source)]

    def _stage3_sources(self, name: str, seed: int) -> list[dict[str, Any]]:
        needed = f"negatives-{seed}"
        if name != "stage3-no_hard_negatives":
            self._needed(needed, name)
        sources = []
        for source in self._sources("stage3"):
            if name == "stage3-no_hard_negatives":
                source.pop("negatives", None)
            elif "negatives" not in source:
                path = self._mined(needed, source)
                if name == "stage3-first_negatives":
                    path = self._nearest_negatives(path, self.directory / name / "negatives" / f"{path.name}.jsonl.gz")
                source |= {"path": str(path), "negatives": "negatives"}
            if self.stage3_rows is not None:
                source["limit"] = self.stage3_rows
            sources.append(source)
        return sources

    def _mined(self, negatives: str, source: Mapping[str, Any]) -> Path:
        return self.output(negatives) / source["name"]

    def _nearest_negatives(self, mined: Path, path: Path) -> Path:
        """A copy of a mined source with as many negatives, the nearest, as stage 3 draws."""
        count = _settings("stage3")["num_hard_negatives"]
        rows = (row for file in find_files(mined, ROW_SUFFIXES) for row in read_jsonl(file))
        write_jsonl(({**row, "negatives": row["negatives"][:count]} for row in rows), path)
        return path


def _settings(stage: str) -> dict[str, Any]:
    return yaml.safe_load((_CONFIGS / f"{stage}_cpu.yaml").read_text())
