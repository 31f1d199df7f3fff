"""What stages 2 and 3 share: pairs of several sources through the ContrastiveTrainer to an embedder."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer

from curation.sources import Source, load_pairs
from nomic_bert import NomicBertModel
from nomic_bert.embedder import load_embedder, require_checkpoint, save_embedder
from nomic_bert.prompts import prefix_text
from recipes.arguments import parse_arguments
from recipes.training import train_and_save
from trainers import ContrastiveConfig, ContrastiveTrainer


@dataclass(kw_only=True)
class ContrastiveArguments:
    """What a contrastive stage trains, on what.

    Attributes:
        model_name_or_path: checkpoint to start from.
        sources: one mapping for each source; its keys are the fields of `curation.sources.Source`.
    """

    model_name_or_path: str
    sources: list


def train_contrastive(usage: str | None, argv: list[str], *, with_negatives: bool) -> Path:
    """Train a contrastive stage as the command line says; returns the directory of the finished embedder.

    Raises:
        SystemExit: a setting cannot be meant; one line names it.
    """
    recipe, args = parse_arguments(usage, (ContrastiveArguments, ContrastiveConfig), argv)
    try:
        sources = [Source.from_dict(entry, f"sources[{i}]") for i, entry in enumerate(recipe.sources)]
        _check(sources, args, with_negatives)
        args.prompts = {
            source.name: {"query": prefix_text(source.query_prefix), "document": prefix_text(source.document_prefix)}
            for source in sources
        }
        require_checkpoint(recipe.model_name_or_path)
        tokenizer = AutoTokenizer.from_pretrained(recipe.model_name_or_path)
        trainer = ContrastiveTrainer(
            model=NomicBertModel.from_pretrained(recipe.model_name_or_path),
            args=args,
            train_dataset={source.name: load_pairs(source) for source in sources},
            processing_class=tokenizer,
        )
    except (ValueError, OSError) as error:  # OSError: no such file, or no such model
        raise SystemExit(f"error: {error}") from error

    def save(final: Path) -> None:
        with tempfile.TemporaryDirectory(dir=final.parent) as encoder:
            trainer.accelerator.unwrap_model(trainer.model).save_pretrained(encoder)
            tokenizer.save_pretrained(encoder)
            save_embedder(load_embedder(encoder, device="cpu"), final)

    return train_and_save(trainer, save)


def _check(sources: list[Source], args: ContrastiveConfig, with_negatives: bool) -> None:
    names = [source.name for source in sources]
    if not sources:
        raise ValueError("sources is empty; list at least one.")
    if len(set(names)) < len(names):
        raise ValueError(f"sources: the name {next(n for n in names if names.count(n) > 1)!r} stands twice.")
    if with_negatives and not args.num_hard_negatives:
        raise ValueError("num_hard_negatives must be 1 or more in stage 3; without negatives it is stage 2.")
    for source in sources:
        if bool(source.negatives) != with_negatives:
            stage = "needs" if with_negatives else "takes no"
            raise ValueError(f"source {source.name!r}: this stage {stage} hard negatives (its key `negatives`).")
