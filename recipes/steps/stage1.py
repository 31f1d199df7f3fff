"""Stage 1: blocks through the MLMTrainer to a masked language model."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_dataset, load_from_disk
from transformers import PreTrainedTokenizerBase, set_seed

from curation.packing import MANIFEST, load_blocks
from curation.sources import is_hub_id, load_hub_split
from nomic_bert import NomicBertConfig, NomicBertForMaskedLM
from nomic_bert.checkpoint_files import require_checkpoint
from nomic_bert.tokenizer_files import open_tokenizer, save_tokenizer
from nomic_bert.training_record import write_training
from recipes.shared.blocks import BlockCounts, describe_blocks
from recipes.shared.training import dropout_settings, train_and_save
from textfiles.commands import one_line_errors
from textfiles.replacing import replaceable_directory
from textfiles.settings import did_you_mean
from trainers import MLMConfig, MLMTrainer
from trainers.record import hub_details
from trainers.sampling import permute

_HELD_OUT = (0, 2402, 1613)  # key of the permutation whose first blocks are evaluated on


@dataclass(kw_only=True)
class Stage1Arguments:
    """What stage 1 trains, on what.

    Attributes:
        train_data: directory written by recipes/pack_corpus.py or by `Dataset.save_to_disk`, or the hub name of a
            packed data set, such as nomic-ai/nomic-bert-2048-pretraining-data.
        tokenizer: directory or hub name of the tokenizer that the blocks were packed with.
        model: fields of `NomicBertConfig` for a new model.
        model_name_or_path: checkpoint to continue from, in place of `model`.
        dropout: with which that checkpoint is trained on, whatever its configuration says.
        eval_blocks: blocks, drawn at random from all of `train_data`, that are kept for evaluation; null: 1 % of them,
            as the authors do. The same number of the same data is always the same blocks, whatever the seed.
        dry_run: print what would be trained on, and stop; of a data set on the hub, one block is fetched.
    """

    train_data: str
    tokenizer: str
    model: dict | None = None
    model_name_or_path: str | None = None
    dropout: float = 0.0
    eval_blocks: int | None = None
    dry_run: bool = False


def stage1(recipe: Stage1Arguments, args: MLMConfig) -> Path | None:
    """Train a masked language model, or with `dry_run` describe its training.

    Returns:
        The directory of the finished model; None after a dry run.
    """
    with one_line_errors():
        tokenizer = open_tokenizer(recipe.tokenizer)
        if recipe.dry_run:
            if args.process_index == 0:
                with torch.device("meta"):  # weights without numbers
                    model = _starting_model(recipe, tokenizer, args.seed)
                print(describe_blocks(_count_blocks(recipe, tokenizer), args, model))
            return None
        blocks = _load_blocks(recipe.train_data, tokenizer)
        train, evaluation = split_blocks(len(blocks), _eval_blocks(recipe, len(blocks)))
        trainer = MLMTrainer(
            model=_starting_model(recipe, tokenizer, args.seed),
            args=args,
            train_dataset=blocks.select(train),
            eval_dataset=blocks.select(evaluation) if len(evaluation) else None,
            processing_class=tokenizer,
        )
        trainer.source_details = {"blocks": _origin(recipe.train_data)}

    def save(final: Path) -> None:
        with replaceable_directory(final) as directory:
            trainer.accelerator.unwrap_model(trainer.model).save_pretrained(directory)
            save_tokenizer(tokenizer, directory)
            write_training(directory, trainer.training_record())

    return train_and_save(trainer, save)


def split_blocks(num_blocks: int, num_evaluation: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the blocks to train on, and of those to evaluate on, both in rising order.

    The last blocks would be the end of one source: which ones are kept is a keyed permutation's choice.

    Args:
        num_blocks: in all.
        num_evaluation: to evaluate on.
    """
    kept = np.zeros(num_blocks, dtype=bool)
    kept[permute(np.arange(num_evaluation), num_blocks, _HELD_OUT)] = True
    return np.flatnonzero(~kept), np.flatnonzero(kept)


def _eval_blocks(recipe: Stage1Arguments, num_blocks: int) -> int:
    """How many blocks are kept for evaluation."""
    wanted = recipe.eval_blocks
    if wanted is None:
        wanted = max(1, num_blocks // 100) if num_blocks > 1 else 0
    if not 0 <= wanted < num_blocks:
        raise ValueError(
            f"eval_blocks is {wanted:,}, and there are {num_blocks:,} blocks; set it from 0 to {num_blocks - 1:,}, so "
            "that a block is left to train on."
        )
    return wanted


def _count_blocks(recipe: Stage1Arguments, tokenizer: PreTrainedTokenizerBase) -> BlockCounts:
    """The numbers of the blocks, without downloading a data set of the hub."""
    if is_hub_id(recipe.train_data):
        stream = load_dataset(recipe.train_data, split="train", streaming=True)
        if not stream.info.splits or not (count := stream.info.splits["train"].num_examples):
            raise ValueError(f"train_data: the hub does not say how many blocks {recipe.train_data} has; download it.")
        first = next(iter(stream))
    else:
        blocks = _load_blocks(recipe.train_data, tokenizer)
        count, first = len(blocks), blocks[0]
    evaluation = _eval_blocks(recipe, count)
    return BlockCounts(count - evaluation, evaluation, len(first["input_ids"]))


def _load_blocks(path: str, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    if (Path(path) / "dataset_info.json").is_file():
        return load_from_disk(path)
    if is_hub_id(path):
        return load_hub_split(path, "train")
    if not Path(path).is_dir():
        raise ValueError(f"train_data: no directory {path}; write it with recipes/pack_corpus.py.")
    return load_blocks(Path(path), tokenizer)


def _origin(path: str) -> dict[str, Any]:
    """What the training record says of the blocks: their data set, or what they were packed from, without paths."""
    manifest = Path(path, MANIFEST)
    if not manifest.is_file():
        return hub_details(path, split="train") if is_hub_id(path) else {}
    packed = json.loads(manifest.read_text(encoding="utf-8"))
    parts = []
    for part in packed.get("sources", []):
        where = hub_details(part["path"], part.get("name"), part.get("split"), part.get("revision"))
        local = part.get("is_local", True)  # by now a relative path may look like a hub name
        parts.append({**({} if local else where), "documents": part["documents"]})
    return {"parts": parts} if parts else {}


def _starting_model(recipe: Stage1Arguments, tokenizer: PreTrainedTokenizerBase, seed: int) -> NomicBertForMaskedLM:
    if (recipe.model is None) == (recipe.model_name_or_path is None):
        raise ValueError("give either model (a new one's fields) or model_name_or_path (a checkpoint).")
    set_seed(seed)  # a run that is started again before its first checkpoint gets the same new weights
    if recipe.model is not None:
        # the row of [PAD] is zero and not trained: by default it would be that of whatever token has the id 0
        return build_model({"pad_token_id": tokenizer.pad_token_id, **recipe.model}, len(tokenizer))
    require_checkpoint(str(recipe.model_name_or_path))
    if recipe.dry_run:
        return NomicBertForMaskedLM(NomicBertConfig.from_pretrained(str(recipe.model_name_or_path)))
    return NomicBertForMaskedLM.from_pretrained(recipe.model_name_or_path, **dropout_settings(recipe.dropout))


def build_model(fields: dict[str, Any], num_tokens: int) -> NomicBertForMaskedLM:
    """A new model for a tokenizer of `num_tokens` tokens, with the vocabulary rounded up to a multiple of 64.

    Raises:
        ValueError: a given `vocab_size` is less than the tokenizer's, or a field is unknown or invalid.
    """
    known = {*NomicBertConfig().to_dict(), *NomicBertConfig.attribute_map}
    for name in fields:
        if name not in known:  # which the configuration would keep, and the model not read
            hint = did_you_mean(str(name), known, otherwise="see nomic_bert/configuration_nomic_bert.py.")
            raise ValueError(f"model: there is no field {name!r}; {hint}")
    fields = {"vocab_size": 64 * -(-num_tokens // 64), **fields}  # paper §4.1.2
    if fields["vocab_size"] < num_tokens:
        raise ValueError(f"model.vocab_size: {fields['vocab_size']} is less than the tokenizer's {num_tokens}.")
    return NomicBertForMaskedLM(NomicBertConfig(**fields))
