"""Consistency filtering by all ranks, source by source and sample by sample."""

from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

from accelerate import PartialState
from tqdm.auto import tqdm

from curation.embedding import EmbedderSettings, TextEmbedder
from curation.filtering.consistency import KeepRule, Samples, SourceFilter
from curation.filtering.report import summary_table, write_report
from curation.sources import Source, open_pairs
from recipes.shared.ranks import join_ranks, ranks_here
from textfiles.begun import begin_directory
from textfiles.commands import one_line_errors
from textfiles.markdown import counted
from textfiles.settings import read_sections, require_at_least
from textfiles.shards import deal


@dataclass(kw_only=True)
class FilterArguments:
    """What to filter, besides the rule and the model. A column `rank` or `similarity` of the source is written anew.

    Attributes:
        sources: one mapping for each source; its keys are the fields of `curation.sources.Source`.
        output_dir: directory for a directory of each source.
        sample_size: most rows among which a row is judged. A sample is the work of one rank, and its embeddings are
            in that rank's memory: 6 GB for a million pairs at 768 dimensions.
        seed: of the dealing of rows to samples.
        rows_to_read: kept and dropped rows of each sample that the audit shows.
        write_dropped: also write the dropped rows, to `dropped/`.
        keep_embeddings: also write the embeddings, in half precision, to `embeddings/`.
    """

    sources: list
    output_dir: str
    sample_size: int = 1_000_000  # paper §4.2.1
    seed: int = 0
    rows_to_read: int = 50
    write_dropped: bool = True
    keep_embeddings: bool = False

    def __post_init__(self) -> None:
        require_at_least(0, self, "rows_to_read")


@one_line_errors()
def filter_pairs(args: FilterArguments, rule: KeepRule, settings: EmbedderSettings) -> None:
    """Judge this rank's share of the samples; the main process writes the audit when all are judged."""
    sources = read_sections(Source, args.sources, "sources")
    state = join_ranks()
    for source in deal(sources, state.local_process_index, ranks_here()):
        open_pairs(source, others=True)  # makes the copy of local files that all ranks of a machine share
    state.wait_for_everyone()
    filters = [_prepare(args, rule, source) for source in sources]
    jobs = [(job, sample) for job in filters for sample in range(job.samples.count)]
    mine = deal(jobs, state.process_index, state.num_processes)
    todo = [(job, sample) for job, sample in mine if not job.is_done(sample)]
    embedder = TextEmbedder(settings, state.device) if todo else None
    if state.is_main_process:  # now that rows, settings and model were accepted
        _begin(args, rule, settings, sources)
        done = sum(job.is_done(sample) for job, sample in jobs)
        what = f"{counted(len(jobs), 'sample')} of {counted(len(sources), 'source')}"
        print(f"{what} on {counted(state.num_processes, 'rank')}; {done:,} done before.")
    state.wait_for_everyone()
    if embedder is not None:
        _run(todo, embedder, state)
    state.wait_for_everyone()
    if state.is_main_process:
        print("\n" + summary_table([write_report(job) for job in filters]), flush=True)


def _begin(args: FilterArguments, rule: KeepRule, settings: EmbedderSettings, sources: list[Source]) -> None:
    """Check that every directory is new or was begun with the same settings."""
    made_by = {key: getattr(args, key) for key in ("sample_size", "seed", "rows_to_read", "write_dropped")}
    made_by |= {"keep_embeddings": args.keep_embeddings, **asdict(rule), "embedder": settings.identity()}
    for source in sources:
        made_from = {"source": source.identity(), **made_by}
        begin_directory(Path(args.output_dir, source.name), made_from, reads=[source.path])


def _prepare(args: FilterArguments, rule: KeepRule, source: Source) -> SourceFilter:
    pairs = open_pairs(source, others=True)
    return SourceFilter(
        source=source,
        pairs=pairs,
        directory=Path(args.output_dir, source.name),
        samples=Samples(len(pairs), args.sample_size, args.seed),
        rule=rule,
        rows_to_read=args.rows_to_read,
        write_dropped=args.write_dropped,
        keep_embeddings=args.keep_embeddings,
    )


def _run(jobs: list[tuple[SourceFilter, int]], embedder: TextEmbedder, state: PartialState) -> None:
    total = 2 * sum(-(-job.samples.num_rows // job.samples.count) for job, _ in jobs)
    with tqdm(total=total, unit="text", unit_scale=True, disable=not state.is_main_process) as progress:
        for name, members in groupby(jobs, key=lambda each: each[0].source.name):
            progress.set_description(name)
            rows: list = []  # of one source at a time: the order takes memory
            for job, sample in members:
                rows = rows or job.samples.rows()
                job.run(sample, rows[sample], embedder, progress)
