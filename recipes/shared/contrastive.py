"""What stages 2 and 3 share: pairs of several sources through the ContrastiveTrainer to an embedder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.trainer_utils import IntervalStrategy

from curation.layouts import has_negatives, layout_of, unknown_layout
from curation.sources import Source, is_hub_id, open_pairs
from evaluation.evaluators import EvaluatorSettings, build_evaluator
from nomic_bert import NomicBertConfig, NomicBertModel
from nomic_bert.checkpoint_files import require_checkpoint
from nomic_bert.embedder import embedder_around, save_embedder
from nomic_bert.prompts import prefix_text
from nomic_bert.tokenizer_files import open_tokenizer
from recipes.shared.mixture import describe_mixture
from recipes.shared.training import dropout_settings, train_and_save
from textfiles.commands import one_line_errors
from textfiles.rows import column_names, find_files
from textfiles.settings import did_you_mean, near_name, read_sections
from trainers import ContrastiveConfig, ContrastiveTrainer
from trainers.contrastive import Evaluator
from trainers.record import hub_details


@dataclass(kw_only=True)
class ContrastiveArguments:
    """What a contrastive stage trains, on what.

    Attributes:
        model_name_or_path: checkpoint to start from.
        dropout: with which it is trained, whatever its configuration says.
        sources: one mapping for each source; its keys are the fields of `curation.sources.Source`.
        train_file: instead of `sources`, files of one's own pairs, with the columns `query` and `document`, and
            perhaps `negatives` (a list of texts), or in the layout of sentence-transformers (anchor, positive,
            negative, negative_1, ...), FlagEmbedding (query, pos, neg) or tevatron (query, positive_passages,
            negative_passages); prefixed as search queries and documents.
        evaluators: one mapping for each; its keys are the fields of `evaluation.evaluators.EvaluatorSettings`.
        dry_run: print what would be trained on, and stop; nothing is downloaded but a few rows of each data set.
    """

    model_name_or_path: str
    dropout: float = 0.0
    sources: list | None = None
    train_file: str | None = None
    evaluators: list | None = None
    dry_run: bool = False


def stage2(recipe: ContrastiveArguments, args: ContrastiveConfig) -> Path | None:
    """Train on pairs alone; see `_train`."""
    return _train(recipe, args, with_negatives=False)


def stage3(recipe: ContrastiveArguments, args: ContrastiveConfig) -> Path | None:
    """Train on pairs with hard negatives; see `_train`."""
    return _train(recipe, args, with_negatives=True)


def _train(recipe: ContrastiveArguments, args: ContrastiveConfig, *, with_negatives: bool) -> Path | None:
    """Train a contrastive stage, or with `dry_run` describe its mixture.

    Returns:
        The directory of the finished embedder; None after a dry run.

    Raises:
        SystemExit: a setting is invalid; one line names it.
    """
    with one_line_errors():
        strategy = IntervalStrategy(args.eval_strategy)
        if strategy != IntervalStrategy.NO and not recipe.evaluators:
            raise ValueError(f"eval_strategy is {strategy.value}, but there are no evaluators; list some.")
        sources = _sources(recipe, args, with_negatives)
        args.prompts = {
            source.name: {"query": prefix_text(source.query_prefix), "document": prefix_text(source.document_prefix)}
            for source in sources
        }
        args.source_weights = {source.name: source.weight for source in sources}
        require_checkpoint(recipe.model_name_or_path)
        tokenizer = open_tokenizer(recipe.model_name_or_path)
        if recipe.dry_run:
            dropout: Any = dropout_settings(recipe.dropout)
            config = NomicBertConfig.from_pretrained(recipe.model_name_or_path, **dropout)
            print(describe_mixture(sources, args, tokenizer, config))
            return None
        pairs = {source.name: open_pairs(source) for source in sources}  # one rank copies, the others wait: no barrier
        trainer = ContrastiveTrainer(
            model=NomicBertModel.from_pretrained(recipe.model_name_or_path, **dropout_settings(recipe.dropout)),
            args=args,
            train_dataset=pairs,
            processing_class=tokenizer,
            evaluators=_evaluators(recipe.evaluators, args) if recipe.evaluators else [],
        )
        trainer.source_details = {
            source.name: hub_details(source.path, source.subset, source.split, source.revision)
            for source in sources
            if is_hub_id(source.path)
        }

    def save(final: Path) -> None:
        encoder = trainer.accelerator.unwrap_model(trainer.model)
        embedder = embedder_around(encoder, tokenizer, layer_norm=bool(args.matryoshka_dims))
        save_embedder(embedder, final, training=trainer.training_record())

    return train_and_save(trainer, save)


def _sources(recipe: ContrastiveArguments, args: ContrastiveConfig, with_negatives: bool) -> list[Source]:
    """The sources as configured, or the one of `train_file`.

    Raises:
        ValueError: none or both are given, a name is used twice, or the sources that do not fit the stage.
    """
    if bool(recipe.sources) == bool(recipe.train_file):
        raise ValueError(
            "name the pairs to train on: give --train_file FILE, or a list of sources in the config, and not both."
        )
    if args.num_hard_negatives and not with_negatives:
        raise ValueError("num_hard_negatives is for stage 3; stage 2 takes no hard negatives, so leave it out.")
    if recipe.train_file:
        return [_own_pairs(recipe.train_file, args, with_negatives)]
    sources = read_sections(Source, recipe.sources or [], "sources")
    if with_negatives and not args.num_hard_negatives:
        raise ValueError("num_hard_negatives must be 1 or more in stage 3; without negatives it is stage 2.")
    for source in sources:
        if bool(source.negatives) != with_negatives:
            stage = "needs" if with_negatives else "takes no"
            raise ValueError(f"source {source.name!r}: this stage {stage} hard negatives (its key `negatives`).")
    return sources


def _own_pairs(path: str, args: ContrastiveConfig, with_negatives: bool) -> Source:
    """One source of search queries and documents; hard negatives are used where a row has that column.

    Raises:
        ValueError: a column is missing, or there is none with hard negatives but one with a name like it.
    """
    columns = column_names(find_files(path))
    layout = None if "document" in columns else layout_of(columns)
    if layout is None and not {"query", "document"} <= set(columns):
        raise unknown_layout(columns, path)
    mined = with_negatives and (has_negatives(layout, columns) if layout else "negatives" in columns)
    if args.num_hard_negatives and not mined:
        if layout is None and (near := near_name("negatives", columns)):
            raise ValueError(
                f"{path}: did you mean {near!r} to be the column 'negatives' (a list of texts in each row)? Rename it, "
                "or set num_hard_negatives to 0 to train without it."
            )
        print(f"{path} has no column 'negatives': the documents of other rows are the negatives.", flush=True)
        args.num_hard_negatives = 0
    return Source(
        name="train_file",
        path=path,
        query_prefix="search_query",
        document_prefix="search_document",
        negatives="negatives" if mined else None,
        layout=layout,
    )


def _evaluators(entries: list, args: ContrastiveConfig) -> list[Evaluator]:
    """Build the evaluators; a metric that none of them gives is refused now, not at the first evaluation."""
    settings = read_sections(EvaluatorSettings, entries, "evaluators")
    metrics = [metric for each in settings for metric in each.metrics]
    best = (args.metric_for_best_model or metrics[0]).removeprefix("eval_")
    if best == "loss":  # transformers' choice where none is set; there are no rows to take it over
        raise ValueError(
            "metric_for_best_model must be set, for load_best_model_at_end and reduce_lr_on_plateau go by it: set it "
            f"to {' or '.join(metrics)}."
        )
    if best not in metrics:
        raise ValueError(
            f"metric_for_best_model: no evaluator gives {best!r}; {did_you_mean(best, metrics, 'metrics')}"
        )
    return [build_evaluator(each) for each in settings]
