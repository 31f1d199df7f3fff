"""The audit of pairs: what its settings are, and how its ranks read, measure and report."""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from curation.atlas.points import PAGE
from curation.atlas.reading import read_pair_points
from curation.audit.counting import SourceKeys, choose_rows, token_lengths
from curation.audit.held_out import EvaluationSet, HeldOutTexts
from curation.audit.page import LENGTHS_PLOT, SHARED_PLOTS, audit_page
from curation.audit.plots import plot_lengths, plot_shared
from curation.audit.report import OpenedSource, make_report
from curation.embedding import EmbedderSettings
from curation.sources import Source, open_pairs
from nomic_bert.prompts import prefix_text
from nomic_bert.tokenizer_files import open_tokenizer
from recipes.shared.pair_sources import pair_sources, refuse_equal
from recipes.shared.ranks import join_ranks
from recipes.steps.map import FACTS, embed_points, require_libraries, save_map
from textfiles.arrays import read_arrays, write_arrays
from textfiles.atomic import write_json, write_text
from textfiles.begun import SETTINGS, begin_directory, clear_finished
from textfiles.commands import one_line_errors
from textfiles.markdown import counted
from textfiles.settings import require_at_least
from textfiles.shards import ShardFiles, deal, write_receipt

_WORK = ".work"  # inside output_dir until the audit is finished: settings, keys and lengths
_REPORT, _PAGE, _MAP = "audit.json", "audit.md", "map"
_RECORDED = ("sample_rows", "rows_to_read", "rows_per_shard", "map_model", "map_points", "seed")


@dataclass(kw_only=True)
class AuditArguments:
    """What to audit.

    Attributes:
        tokenizer: directory or hub name; lengths are counted in its tokens.
        output_dir: directory for audit.md, audit.json and plots.
        files: files, directories, patterns or hub ids; the words before the first --key.
        sources: the same, or mappings with the fields of `curation.sources.Source`.
        sources_from: a config of stage 2 or 3, or another file with a list `sources`, which are looked at too.
        query: column with the query, of the sources that are given as a path or id.
        document: column with the document, likewise.
        negatives: column with the list of hard negatives, likewise; null: there is none.
        evaluation_sets: paths, or mappings with the fields of `curation.audit.held_out.EvaluationSet`; the report
            counts the rows that repeat one of their texts.
        sample_rows: rows of each source whose lengths are measured.
        rows_to_read: rows of each source that the page shows.
        rows_per_shard: rows that one process reads before it writes a file.
        map_model: directory or hub name of the model that embeds a map of the sources, which the page links to; null:
            no map.
        map_points: most points of the map; a row gives two.
        seed: of the choice of rows.
    """

    tokenizer: str
    output_dir: str
    files: list = field(default_factory=list)
    sources: list = field(default_factory=list)
    sources_from: str | None = None
    query: str = "query"
    document: str = "document"
    negatives: str | None = None
    evaluation_sets: list = field(default_factory=list)
    sample_rows: int = 10_000
    rows_to_read: int = 5
    rows_per_shard: int = 1_000_000
    map_model: str | None = None
    map_points: int = 20_000
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(1, self, "sample_rows", "rows_to_read", "rows_per_shard", "map_points")


@one_line_errors()
def audit(args: AuditArguments) -> None:
    """Read this rank's share of the sources; the main process writes the audit when all are read."""
    output_dir = Path(args.output_dir)
    if (output_dir / _REPORT).exists():
        clear_finished(output_dir, output_dir / _WORK)
        raise ValueError(f"{output_dir} holds an audit already. Choose another output_dir or remove it.")
    if args.map_model is not None:
        require_libraries()
    sources, held_out = _sources(args), _evaluation_sets(args)
    tokenizer = open_tokenizer(args.tokenizer)
    state, work = join_ranks(use_gpu=False), output_dir / _WORK
    texts: list[HeldOutTexts] = []
    if state.is_main_process:
        texts = [part for found in held_out for part in found.read()]  # first, so that a fault is found early
        _begin(output_dir, args, sources, held_out, tokenizer)
    with state.local_main_process_first():  # one process of a machine copies the sources
        pairs = [open_pairs(source) for source in sources]
    keys = [SourceKeys(work, i, len(rows), args.rows_per_shard) for i, rows in enumerate(pairs)]
    opened = [OpenedSource(*parts) for parts in zip(sources, pairs, keys, strict=True)]
    _read_rows(opened, state)
    lengths = ShardFiles(work, "lengths", len(sources), ".npz")
    _measure(opened, tokenizer, lengths, args, state)
    state.wait_for_everyone()
    if state.is_main_process:
        _report(args, opened, lengths, texts)
        clear_finished(output_dir, work)
        what = f"{counted(sum(map(len, pairs)), 'pair')} of {counted(len(sources), 'source')}"
        print(f"{what}: read {output_dir / _PAGE}.")


def _sources(args: AuditArguments) -> list[Source]:
    columns = {key: getattr(args, key) for key in ("query", "document", "negatives")}
    sources = pair_sources([*args.files, *args.sources], args.sources_from, columns)
    if not sources:
        raise ValueError("there are no sources; name files, directories or hub ids before the first --key.")
    return sources


def _evaluation_sets(args: AuditArguments) -> list[EvaluationSet]:
    entries = enumerate(args.evaluation_sets)
    held_out = [EvaluationSet.from_config(entry, f"evaluation_sets[{i}]") for i, entry in entries]
    refuse_equal([found.title for found in held_out], "evaluation_sets")
    return held_out


def _begin(
    output_dir: Path,
    args: AuditArguments,
    sources: list[Source],
    held_out: list[EvaluationSet],
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Write down what an output directory is made from, or check that it is the same as before."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items())).encode()
    settings: dict[str, Any] = {
        "sources": [source.identity() for source in sources],
        "evaluation_sets": [found.identity() for found in held_out],
        "vocabulary_sha256": hashlib.sha256(vocabulary).hexdigest(),
        **{key: getattr(args, key) for key in _RECORDED},
    }
    reads = [source.path for source in sources]
    begin_directory(output_dir, settings, reads=reads, settings_file=output_dir / _WORK / SETTINGS)


def _read_rows(opened: list[OpenedSource], state: PartialState) -> None:
    """Write this rank's share of the keys."""
    jobs = [(source, shard) for source in opened for shard in range(source.keys.files.count)]
    own = deal(jobs, state.process_index, state.num_processes)
    total = sum(len(source.keys.rows_of(shard)) for source, shard in own)
    with tqdm(desc="Reading", total=total, unit="row", unit_scale=True, disable=not state.is_main_process) as progress:
        for source, shard in own:
            source.keys.make(source.pairs, shard, progress)


def _measure(
    opened: list[OpenedSource],
    tokenizer: PreTrainedTokenizerBase,
    files: ShardFiles,
    args: AuditArguments,
    state: PartialState,
) -> None:
    """Write this rank's share of the lengths."""
    own = deal(range(len(opened)), state.process_index, state.num_processes)
    for i in tqdm(own, "Measuring", unit="source", disable=not state.is_main_process):
        source, pairs, _ = opened[i]
        if not files.is_finished(i):
            prefixes = {"query": prefix_text(source.query_prefix), "document": prefix_text(source.document_prefix)}
            rows = choose_rows(len(pairs), args.sample_rows, args.seed, source.name)
            write_arrays(files.path(i), token_lengths(pairs, rows, tokenizer, prefixes))
            write_receipt(files.receipt(i), [files.path(i)])


def _report(
    args: AuditArguments,
    opened: list[OpenedSource],
    lengths: ShardFiles,
    held_out: list[HeldOutTexts],
) -> None:
    """Put everything together: plots, the page and, last, audit.json."""
    output_dir, names = Path(args.output_dir), [one.source.name for one in opened]
    remedy = "Rerun the command to measure again."
    measured = {name: read_arrays(path, remedy) for name, path in zip(names, lengths.paths(), strict=True)}
    settings = {key: getattr(args, key) for key in ("tokenizer", "sample_rows", "rows_to_read", "seed")}
    report, shared = make_report(opened, measured, held_out, settings)
    report["map"] = None if args.map_model is None else _draw_map(args, [one.source for one in opened])
    plot_lengths(measured, output_dir / LENGTHS_PLOT)
    for side, plot in SHARED_PLOTS.items():
        if any(entry[side] for entry in report["shared"]):
            plot_shared(shared[side], names, side, output_dir / plot)
    write_text(output_dir / _PAGE, audit_page(report))
    write_json(output_dir / _REPORT, report)


def _draw_map(args: AuditArguments, sources: list[Source]) -> str:
    """Draw the map, unless an interrupted run has; returns the page's place in the output directory."""
    directory = Path(args.output_dir) / _MAP
    if not (directory / FACTS).is_file():
        points = read_pair_points(sources, args.map_points, args.seed)
        model = str(args.map_model)
        vectors = embed_points(points, EmbedderSettings(model_name_or_path=model))
        save_map(directory, points, vectors, title="Pairs of the audit", model=model, seed=args.seed)
    return f"{_MAP}/{PAGE}"
