"""The quickstart on one GPU: 12 layers, its text made before and carried along, and what comes back in small files."""

import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from curation.packing import MANIFEST
from nomic_bert.embedder import load_embedder, save_embedder
from nomic_bert.training_record import read_training
from recipes.quickstart_text.corpus import build_corpus
from recipes.steps.quickstart import Quickstart
from textfiles.atomic import atomic_file
from textfiles.commands import end_at_sigterm, one_line_errors

_PART_BYTES = 15 * 2**20
_REPORTS = ("report.md", "scores.json", *(f"stage{number}/trainer_state.json" for number in (1, 2, 3)))


@dataclass(kw_only=True)
class GpuTrainArguments:
    """What a person can choose of the training on a GPU.

    Attributes:
        output_dir: directory for everything that is made.
        text_only: end when the text is read, tokenized and packed, which needs no GPU. The directory then has about
            20 MB, and can be carried to a machine that has one.
        keep: directory for what is to come back from there: the model in bfloat16, the scores and the stages' logs, as
            one tar archive in parts of 15 MB; null: none is written.
        smoke: the same over a slice of the text with a smaller model, in some minutes on a CPU.
    """

    output_dir: str = "outputs/gpu_train"
    text_only: bool = False
    keep: str | None = None
    smoke: bool = False


class GpuTraining(Quickstart):
    """The quickstart's steps with the numbers of `configs/quickstart/gpu`."""

    def _places(self) -> list[str]:
        return ["", "gpu", *(["smoke", "gpu/smoke"] if self.smoke else [])]

    def make_text(self) -> None:
        """The steps that read text; `run` finds them done."""
        self._begin()
        steps: list[tuple[Path, Callable[[], None]]] = [
            (self.corpus, lambda: build_corpus(self.corpus_settings, self.corpus, self.seed)),
            (self.tokenizer, self._train_tokenizer),
            (self.blocks / MANIFEST, self._pack),
        ]
        for output, make in steps:
            if not output.exists():
                make()

    def keep(self, directory: Path) -> list[Path]:
        """Write the archive; returns its parts, which `cat` joins."""
        half = self.directory / "model_bfloat16"
        if not half.exists():
            embedder = load_embedder(self.model, dtype=torch.bfloat16)
            save_embedder(embedder, half, training=read_training(self.model))
        archive = self.directory / "gpu_train.tar"
        with atomic_file(archive) as written, tarfile.open(written, "w") as tar:
            tar.add(half, "model")
            for report in _REPORTS:
                tar.add(self.directory / report, report)
        content = archive.read_bytes()
        starts = range(0, len(content), _PART_BYTES)
        # `cat` gets the parts in the order of their names, with whatever an earlier archive has left among them
        for part in directory.glob(f"{archive.name}.[0-9]*"):
            part.unlink()
        parts = [directory / f"{archive.name}.{number:03}" for number in range(len(starts))]
        for part, start in zip(parts, starts, strict=True):
            with atomic_file(part) as written:
                written.write_bytes(content[start : start + _PART_BYTES])
        return parts


def gpu_train(args: GpuTrainArguments) -> None:
    """Make the text, or all of it, and what is to come back."""
    end_at_sigterm()
    with one_line_errors():
        training = GpuTraining(Path(args.output_dir), args.smoke)
        if args.text_only:
            training.make_text()
            print(f"{args.output_dir} has the text. Rerun the command on a GPU, without --text_only.")
            return
        training.run()
        if args.keep:
            parts = training.keep(Path(args.keep))
            print(f"To keep: {len(parts)} parts in {args.keep}. Join them: cat {args.keep}/gpu_train.tar.* | tar x")
