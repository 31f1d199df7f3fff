"""Hard negatives by all ranks, source by source and shard by shard."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from accelerate import PartialState
from tqdm.auto import tqdm

from curation.embedding import EmbedderSettings, TextEmbedder
from curation.mining.miner import MiningSettings, SourceMiner
from curation.mining.negatives import NegativeLimits
from curation.mining.report import REPORT, summary, write_report
from curation.mining.tasks import MiningSource, MiningTask, open_task
from nomic_bert.prompts import prefix_text
from recipes.shared.ranks import join_ranks
from textfiles.begun import abandon_directory, begin_directory, clear_finished
from textfiles.commands import one_line_errors
from textfiles.markdown import counted
from textfiles.settings import read_sections, require_at_least
from textfiles.shards import deal, read_receipt

_WORK = ".work"  # inside a source's directory until it is mined: copies of its texts, numbers and embeddings


@dataclass(frozen=True, kw_only=True)
class MineArguments(NegativeLimits):
    """What to mine, besides the model and the limits (`curation.mining.negatives.NegativeLimits`).

    Attributes:
        sources: one mapping for each source; its keys are the fields of `curation.mining.tasks.MiningSource`.
        output_dir: directory for a directory of each source.
        replace_negatives: mine for rows that have negatives too, and replace these; else such rows are left alone.
        source_prefixes: put each source's own task prefixes before its texts, for models of ours, in place of the
            embedder's prompts.
        seed: of random negatives, and of the rows that the report shows.
        embedding_dtype: of the documents' embeddings on the disk: float32, or float16 for half the size.
        documents_per_shard: distinct documents embedded to one file; a file is the work of one rank.
        rows_per_shard: rows of one output file, likewise; each file costs a pass over all documents' embeddings.
        keep_embeddings: keep the work directory with the documents' embeddings.

    Raises:
        ValueError: a value is out of range; the message names it.
    """

    sources: list
    output_dir: str
    replace_negatives: bool = False
    source_prefixes: bool = False
    seed: int = 0
    embedding_dtype: str = "float32"
    documents_per_shard: int = 100_000
    rows_per_shard: int = 50_000
    keep_embeddings: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.embedding_dtype not in ("float32", "float16"):
            raise ValueError(f"embedding_dtype must be float32 or float16, not {self.embedding_dtype!r}.")
        require_at_least(1, self, "documents_per_shard", "rows_per_shard")
        require_at_least(0, self, "seed")

    @property
    def limits(self) -> NegativeLimits:
        """The limits alone."""
        return NegativeLimits(**{field.name: getattr(self, field.name) for field in fields(NegativeLimits)})


@one_line_errors()
def mine_negatives(args: MineArguments, settings: EmbedderSettings) -> None:
    """Mine this rank's share of the rows; sources that are mined already are skipped."""
    if args.source_prefixes and (settings.query_prompt, settings.document_prompt) != (None, None):
        raise ValueError("source_prefixes puts the sources' prefixes in place of query_prompt and document_prompt.")
    sources = read_sections(MiningSource, args.sources, "sources")
    state = join_ranks()
    # Asked before any rank can go on to mine, so that all have the same list.
    todo = [source for source in sources if read_receipt(Path(args.output_dir, source.name, REPORT)) is None]
    searched = any(source.draw == "nearest" for source in todo)
    embedder = TextEmbedder(settings, state.device) if searched else None
    with state.main_process_first():
        begun = _begin(args, settings, sources) if state.is_main_process else []
        tasks = _open(todo, args, begun)
    if state.is_main_process:
        print(f"Mined already: {len(sources) - len(todo)} of {counted(len(sources), 'source')}.", flush=True)
    for task in tasks:
        _mine(task, args, embedder, state)
    if state.is_main_process and not args.keep_embeddings:
        for source in sources:  # also of a run that was stopped after its last report
            directory = Path(args.output_dir, source.name)
            clear_finished(directory, directory / _WORK)


def _open(sources: list[MiningSource], args: MineArguments, begun: list[Path]) -> list[MiningTask]:
    """Copy, check and number the texts of all sources before one is mined; a refusal undoes what was begun now."""
    try:
        return [open_task(source, Path(args.output_dir, source.name, _WORK)) for source in sources]
    except (ValueError, OSError):
        for directory in begun:
            abandon_directory(directory, directory / _WORK)
        raise


def _begin(args: MineArguments, settings: EmbedderSettings, sources: list[MiningSource]) -> list[Path]:
    """Check that every directory is new or was begun with the same settings; returns those that are begun now."""
    keys = ("replace_negatives", "seed", "documents_per_shard", "rows_per_shard")
    made_by: dict[str, Any] = {**asdict(args.limits), **{key: getattr(args, key) for key in keys}}
    embedded: dict[str, Any] = {key: getattr(args, key) for key in ("source_prefixes", "embedding_dtype")}
    if any(source.draw == "nearest" for source in sources):
        embedded["embedder"] = settings.identity()
    begun = []
    for source in sources:
        more = embedded if source.draw == "nearest" else {}
        directory = Path(args.output_dir, source.name)
        made_from = {"source": source.identity(), **made_by, **more}
        reads = [source.path, source.corpus]
        if begin_directory(directory, made_from, reads=reads, work=directory / _WORK):
            begun.append(directory)
    return begun


def _mine(task: MiningTask, args: MineArguments, embedder: TextEmbedder | None, state: PartialState) -> None:
    source, directory = task.source, Path(args.output_dir, task.source.name)
    miner = SourceMiner(task, directory, directory / _WORK, _settings(args, source))
    if embedder is not None and miner.documents.count:
        shards = deal(range(miner.documents.count), state.process_index, state.num_processes)
        with _progress(f"{source.name}: embedding", task.num_documents, "document", state) as progress:
            miner.embed_documents(shards, embedder, progress)
        state.wait_for_everyone()
    shards = deal(range(miner.pairs.count), state.process_index, state.num_processes)
    with _progress(f"{source.name}: mining", task.num_rows, "row", state) as progress:
        miner.mine_pairs(shards, embedder, state.device, progress)
    state.wait_for_everyone()
    if state.is_main_process:
        report = write_report(miner, directory)
        print(f"{summary(report, args.num_negatives)}. {directory / 'report.md'}", flush=True)
        if report["with_none"]:
            print(f"{source.name}: stage 3 takes rows without negatives with rows_without_negatives: skip.", flush=True)
        if not args.keep_embeddings:
            clear_finished(directory, directory / _WORK)


def _settings(args: MineArguments, source: MiningSource) -> MiningSettings:
    prompts = (source.query_prefix, source.document_prefix) if args.source_prefixes else (None, None)
    query_prompt, document_prompt = (None if prefix is None else prefix_text(prefix) for prefix in prompts)
    return MiningSettings(
        limits=args.limits,
        documents_per_shard=args.documents_per_shard,
        rows_per_shard=args.rows_per_shard,
        embedding_dtype=args.embedding_dtype,
        replace_negatives=args.replace_negatives,
        seed=args.seed,
        query_prompt=query_prompt,
        document_prompt=document_prompt,
    )


@contextmanager
def _progress(title: str, total: int, unit: str, state: PartialState) -> Iterator[tqdm]:
    """A bar over the share of a rank, shown by the main process."""
    share = -(-total // state.num_processes)
    with tqdm(desc=title, total=share, unit=unit, unit_scale=True, disable=not state.is_main_process) as progress:
        yield progress
