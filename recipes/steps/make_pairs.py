"""Pairs of raw data sets by all ranks, source by source and shard by shard."""

from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState
from tqdm.auto import tqdm

from curation.raw.pairs import REPORT, finish, make_shard, pair_files
from curation.raw.rows import open_raw_rows
from curation.raw.rules import AVAILABLE, RawSource
from recipes.shared.ranks import join_ranks
from textfiles.begun import begin_directory, clear_finished
from textfiles.commands import one_line_errors
from textfiles.markdown import aligned
from textfiles.settings import did_you_mean, read_sections, require_at_least
from textfiles.shards import deal, read_receipt

_WORK = ".work"  # in a source's directory until it is finished: the copy of local files


@dataclass(kw_only=True)
class MakePairsArguments:
    """What to make pairs of.

    Attributes:
        sources: mappings with the fields of `curation.raw.rules.RawSource`.
        output_dir: a directory for each source is made in it.
        only: names of the sources to make; null: all that are available.
        rows_per_shard: raw rows whose pairs make a file.
        seed: of the samples in the reports.
        dry_run: print what would be made from where, and stop.
    """

    sources: list
    output_dir: str = "outputs/raw_pairs"
    only: list | None = None
    rows_per_shard: int = 200_000
    seed: int = 0
    dry_run: bool = False


@one_line_errors()
def make_pairs(args: MakePairsArguments) -> None:
    """Make this rank's share of the pairs, or with `dry_run` print what would be made."""
    sources = _chosen(read_sections(RawSource, args.sources, "sources"), args.only)
    if args.dry_run:
        print(_table(sources))
    else:
        _make_all(sources, args)


def _chosen(sources: list[RawSource], only: list | None) -> list[RawSource]:
    if only is None:
        return sources
    by_name = {source.name: source for source in sources}
    for name in only:
        if name not in by_name:
            raise ValueError(f"only: there is no source {name!r}; {did_you_mean(str(name), by_name, 'sources')}")
        if by_name[name].available != AVAILABLE:
            raise ValueError(f"only: {name} is not available: {by_name[name].available}")
    return [source for source in sources if source.name in only]


def _table(sources: list[RawSource]) -> str:
    """What would be made, for `dry_run`."""
    rows = [("source", "from", "rule", "paper rows", "available")]
    for source in sources:
        where = source.path + (f" [{source.subset}]" if source.subset else "")
        paper_rows = f"{source.paper_rows:,}" if source.paper_rows else ""
        rows.append((source.name, where, source.rule, paper_rows, source.available))
    return aligned(rows)


def _make_all(sources: list[RawSource], args: MakePairsArguments) -> None:
    require_at_least(1, args, "rows_per_shard")
    state = join_ranks(use_gpu=False)
    ready = [source for source in sources if source.available == AVAILABLE]
    for source in ready:
        source.identity()  # a missing local file is an error before hours of work on others
    for source in sources:
        if source in ready:
            _make(source, args, state)
        elif state.is_main_process:
            print(f"{source.name}: skipped, not available: {source.available}", flush=True)


def _make(source: RawSource, args: MakePairsArguments, state: PartialState) -> None:
    directory = Path(args.output_dir, source.name)
    with state.main_process_first():
        if state.is_main_process:
            made_from = {**source.identity(), "rows_per_shard": args.rows_per_shard, "seed": args.seed}
            begin_directory(directory, made_from, reads=[source.path], work=directory / _WORK)
        report = read_receipt(directory / REPORT)
        rows = None if report is not None else open_raw_rows(source, directory / _WORK / "rows.arrow")
    if rows is not None:
        files = pair_files(directory, len(rows), args.rows_per_shard)
        shards = deal(range(files.count), state.process_index, state.num_processes)
        for shard in tqdm(shards, desc=source.name, unit="shard", disable=not state.is_local_main_process):
            if not files.is_finished(shard):
                make_shard(source, rows, files, shard, args.rows_per_shard, args.seed)
    state.wait_for_everyone()
    if state.is_main_process:
        if report is None:
            report = finish(source, files)
        clear_finished(directory, directory / _WORK)
        left_out = sum(report["left_out"].values())
        print(
            f"{source.name}: {report['pairs']:,} pairs of {report['rows']:,} rows, {left_out:,} left out; {directory}"
        )
    state.wait_for_everyone()
