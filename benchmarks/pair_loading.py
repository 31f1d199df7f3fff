"""What it costs a process to read the pairs of stage 2: to open the paper's mixture, fetch a batch and tokenize it.

python benchmarks/pair_loading.py scale --directory DIR [--rows_per_batch 1000]
python benchmarks/pair_loading.py tokenize --tokenizer DIR [--pairs FILE...]

`scale` writes 29 sources with the rows of the paper's, of very short texts, in the form of `open_pairs`' copies, and
measures in fresh processes, with the files out of the page cache and in it: seconds, and the memory that each process
has for itself; mapped files, which all processes share, are not counted. With `--rows_per_batch` a source is many files
with two more columns, as `datasets` keeps those of the hub: its batches have 1,000 rows unless it is told otherwise.

`tokenize` measures one loader's worker on real text, in seconds of its processor so that neighbours do not count:
fetching rows from the mapped file, which is in the page cache, and the collator.
"""

import argparse
import os
import pickle
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, concatenate_datasets
from transformers import AutoTokenizer

from benchmarks.measure import alternate, in_fresh_process, markdown_table, spread, write_results
from benchmarks.texts import PACKAGES
from curation.docstrings import docstring_pairs, read_docstrings
from curation.files import ROWS_PER_BATCH, read_jsonl, write_arrow, write_jsonl
from curation.sources import Source, open_pairs
from trainers.base import as_sources
from trainers.collators import PairCollator
from trainers.sampling import BatchPlan, SourceBatch, TrainBatches

# rows of nomic-ai/nomic-embed-unsupervised-data, the mixture of paper Table 7
HUB_ROWS = {
    "reddit_title_body": 66_204_599,
    "paq": 53_874_545,
    "amazon_reviews": 39_357_860,
    "s2orc_title_abstract": 36_051_582,
    "wikianswers": 10_087_503,
    "s2orc_citation_titles": 7_722_225,
    "s2orc_abstract_citation": 7_639_890,
    "s2orc_abstract_body": 6_550_431,
    "wikipedia": 6_198_049,
    "gooaq": 1_281_138,
    "codesearch": 864_023,
    "agnews": 420_288,
    "npr": 365_075,
    "ccnews": 353_670,
    "cnn": 293_521,
    "yahoo_title_answer": 276_726,
    "amazonqa": 226_137,
    "yahoo_title_question": 213_320,
    "sentence_compression": 173_604,
    "yahoo_qa": 143_477,
    "altlex": 110_708,
    "eli5": 106_781,
    "simplewiki": 97_717,
    "wikihow": 96_029,
    "stackexchange_title_body": 80_695,
    "stackexchange_duplicate_questions": 73_210,
    "stackexchange_body_body": 65_689,
    "quora": 44_885,
    "squad": 25_117,
}
_ROWS_PER_HUB_FILE = 1_000_000  # `datasets` begins another file after 500 MB
_LATE = 14_000 / 14_571  # a step near the end of the epoch
_PHASES = {
    "open": "open all sources",
    "first": "first batch, with what Python loads for it",
    "late": "a batch near the end of the epoch",
}


@dataclass(frozen=True)
class Layout:
    """How sources lie on the disk.

    Attributes:
        directory: one folder for each source in it.
        rows_per_batch: None: one file for each source, as `open_pairs` copies it. Else as `datasets` keeps those of the
            hub: files of record batches of so many rows, with more columns than the pair's.
    """

    directory: Path
    rows_per_batch: int | None

    def source(self, name: str) -> Source:
        """The source whose copy is `open_pairs`' own; its file holds one row."""
        path = self.directory / name / "pairs.jsonl"
        return Source(name=name, path=str(path), query_prefix="", document_prefix="")

    def files(self, name: str) -> list[Path]:
        """The Arrow files of a source."""
        return sorted((self.directory / name).glob("*.arrow"))

    def open(self, name: str) -> Dataset:
        """A source as `open_pairs` opens it."""
        if self.rows_per_batch is None:
            return open_pairs(self.source(name), self.directory / name)
        parts = [Dataset.from_file(str(file)) for file in self.files(name)]
        return concatenate_datasets(parts).select_columns(["query", "document"])


def write_sources(layout: Layout, rows: Mapping[str, int]) -> None:
    """Write synthetic sources of so many rows, name -> rows, by writing one table many times."""
    numbers = range(layout.rows_per_batch or ROWS_PER_BATCH)
    table = pa.table({"query": [f"q {n % 1000}" for n in numbers], "document": [f"text {n % 1000}" for n in numbers]})
    if layout.rows_per_batch is not None:
        for column in ("dataset", "shard"):
            table = table.append_column(column, [[""] * len(numbers)])
    for name, count in rows.items():
        source = layout.source(name)
        write_jsonl([{"query": "q", "document": "d"}], source.path)
        if layout.rows_per_batch is None:
            open_pairs(source, layout.directory / name)
            (copy,) = layout.files(name)  # its name says what it is a copy of, and is all that `open_pairs` looks at
            write_arrow(_repeat(table, count), table.schema, copy)
        else:
            _write_hub_files(table, count, layout.directory / name)


def _write_hub_files(table: pa.Table, rows: int, directory: Path) -> None:
    for start in range(0, rows, _ROWS_PER_HUB_FILE):
        file = directory / f"part-{start:012}.arrow"
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            for batch in _repeat(table, min(_ROWS_PER_HUB_FILE, rows - start)):
                writer.write_table(batch)


def _repeat(table: pa.Table, rows: int) -> Iterable[pa.Table]:
    for start in range(0, rows, len(table)):
        yield table.slice(0, rows - start)


def forget(files: Iterable[Path]) -> None:
    """Take files out of the page cache, so that they are read from the disk next time."""
    for file in files:
        with open(file, "rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def private_memory() -> int:
    """Resident bytes of this process that are not pages of a file: what every further process costs."""
    return 1024 * int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0])


def measure_reading(layout: Layout, names: Sequence[str], batch_size: int) -> dict[str, Any]:
    """Open all sources, then fetch two global batches on one rank: seconds, and bytes added since the beginning."""
    begin, figures = private_memory(), {}

    def timed(phase: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        outcome = work()
        figures[phase] = {"seconds": time.perf_counter() - start, "bytes": private_memory() - begin}
        return outcome

    def open_all() -> TrainBatches:
        opened = as_sources({name: layout.open(name) for name in names}, "train", ("query", "document"))
        plan = BatchPlan({name: len(rows) for name, rows in opened.items()}, batch_size, seed=0)
        return TrainBatches(opened, plan, SourceBatch.columns)

    batches = timed("open", open_all)
    steps = batches.plan.steps_per_epoch
    for phase, step in ("first", 0), ("late", round(_LATE * steps)):
        columns = timed(phase, partial(batches.__getitem__, (0, step)))
        assert len(columns["query"]) == len(columns["document"]) == batch_size
        del columns
    pickled = len(pickle.dumps(batches))
    return {"phases": figures, "steps": steps, "rows": sum(batches.plan.rows.values()), "pickled_bytes": pickled}


def run_scale(args: argparse.Namespace) -> Path:
    """Write the sources, measure, and write the results."""
    rows = {name: max(1, round(count * args.rows_scale)) for name, count in HUB_ROWS.items()}
    rows = {name: count for name, count in rows.items() if count >= args.batch_size}
    layout = Layout(args.directory / "pair_loading", args.rows_per_batch)
    if not rows or layout.directory.exists():
        raise SystemExit(f"error: no source fills a batch, or {layout.directory} exists: remove it.")
    try:
        write_sources(layout, rows)
        files = [file for name in rows for file in layout.files(name)]

        def side(cold: bool) -> dict[str, Any]:
            if cold:
                forget(files)
            return in_fresh_process(measure_reading, layout, list(rows), args.batch_size)

        sides = {"disk": lambda: side(True), "page cache": lambda: side(False)}
        outcomes = alternate(sides, args.repeats, lambda _: None)
        on_disk = sum(file.stat().st_size for file in files)
    finally:
        shutil.rmtree(layout.directory, ignore_errors=True)
    result = {
        **{key: outcomes["disk"][0][key] for key in ("steps", "rows", "pickled_bytes")},
        "sources": len(rows),
        "files": len(files),
        "bytes_on_disk": on_disk,
        "batch_size": args.batch_size,
        "rows_per_batch": args.rows_per_batch or ROWS_PER_BATCH,
        "outcomes": outcomes,
    }
    form = f"hub-{args.rows_per_batch}" if args.rows_per_batch else "copies"
    return write_results(f"pair_loading-{form}", result, scale_table(result), args.results)


def scale_table(result: Mapping[str, Any]) -> str:
    """The table of `scale`."""
    table_rows = []
    for phase, name in _PHASES.items():
        cells = [name]
        for rounds in result["outcomes"].values():
            seconds = spread([one["phases"][phase]["seconds"] for one in rounds])
            cells.append(f"{seconds['median']:.2f} ({seconds['min']:.2f} to {seconds['max']:.2f})")
        added = [one["phases"][phase]["bytes"] for rounds in result["outcomes"].values() for one in rounds]
        table_rows.append([*cells, f"{spread(added)['median'] / 1e6:,.0f} ({max(added) / 1e6:,.0f})"])
    header = ["", "s, files on the disk", "s, files in the page cache", "MB of the process since the beginning (most)"]
    return markdown_table(header, table_rows) + (
        f"\n\n{result['rows']:,} rows in {result['sources']} sources and {result['files']:,} files of "
        f"{result['bytes_on_disk'] / 1e9:.1f} GB, {result['rows_per_batch']:,} rows in a record batch, texts of some "
        f"ten characters; global batches of {result['batch_size']:,} pairs on one rank, {result['steps']:,} steps an "
        f"epoch. To a worker that is not forked but spawned, {result['pickled_bytes']:,} bytes are sent."
    )


@dataclass(frozen=True)
class FetchedBatch(SourceBatch):
    """A batch whose rows are in memory already.

    Attributes:
        values: column -> values.
    """

    values: Mapping[str, list]

    def columns(self) -> dict[str, list]:
        """As they are."""
        return dict(self.values)


def measure_worker(pairs_file: Path, tokenizer: str, rows: int, batches: int, max_length: int) -> list[dict[str, Any]]:
    """Fetch and tokenize batches one by one: processor seconds of each part, with texts and tokens.

    `bare_seconds` is of the tokenizer's own batch call on the same texts, prefixes included.
    """
    source = Source(name="pairs", path=str(pairs_file), query_prefix="", document_prefix="")
    dataset = open_pairs(source, pairs_file.parent)
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    prompts = {"pairs": {"query": "search_query: ", "document": "search_document: "}}
    collator = PairCollator(loaded, prompts, max_length, max_length)
    order = np.random.default_rng(0).permutation(len(dataset))
    outcomes = []
    for number in range(batches + 1):
        taken = order[np.arange(number * rows, (number + 1) * rows) % len(order)]
        batch = SourceBatch("pairs", dataset, taken, epoch=0)
        times = [time.process_time()]
        columns = batch.columns()
        times.append(time.process_time())
        collated = collator(FetchedBatch("pairs", dataset, taken, 0, columns))
        times.append(time.process_time())
        for key, prefix in prompts["pairs"].items():
            loaded.backend_tokenizer.encode_batch_fast([prefix + text for text in columns[key]])
        times.append(time.process_time())
        parts = dict(zip(("fetch_seconds", "collate_seconds", "bare_seconds"), np.diff(times).tolist(), strict=True))
        outcomes.append({"texts": len(collated["lengths"]), "tokens": len(collated["input_ids"]), **parts})
    return outcomes[1:]  # the first one pays for what is set up once


def run_tokenize(args: argparse.Namespace) -> Path:
    """Measure one worker and write the results."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # as in a loader's worker
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "pairs.jsonl")
        pairs = [row for path in args.pairs for row in read_jsonl(path)] or docstring_pairs(read_docstrings(PACKAGES))
        random.Random(0).shuffle(pairs)
        write_jsonl([{"query": row["query"], "document": row["document"]} for row in pairs], file)
        outcomes = in_fresh_process(measure_worker, file, str(args.tokenizer), args.rows, args.batches, args.max_length)
    result = summarize_worker(outcomes, args.device_tokens_per_second)
    text = "files given by --pairs" if args.pairs else f"documentation strings of {' and '.join(PACKAGES)}"
    result |= {"text": text, "pairs": len(pairs), "rows": args.rows, "outcomes": outcomes}
    return write_results("pair_loading-tokenize", result, worker_table(result), args.results)


def summarize_worker(outcomes: Sequence[Mapping[str, Any]], device_rate: float) -> dict[str, Any]:
    """Rates of one worker, and the workers that feed a GPU which trains `device_rate` real tokens a second."""
    seconds = [one["fetch_seconds"] + one["collate_seconds"] for one in outcomes]
    tokens_per_second = spread([one["tokens"] / total for one, total in zip(outcomes, seconds, strict=True)])
    return {
        "tokens_per_text": sum(one["tokens"] for one in outcomes) / sum(one["texts"] for one in outcomes),
        "tokens_per_second": tokens_per_second,
        "texts_per_second": spread([one["texts"] / total for one, total in zip(outcomes, seconds, strict=True)]),
        "bare_tokens_per_second": spread([one["tokens"] / one["bare_seconds"] for one in outcomes]),
        "shares": {
            part: sum(one[f"{part}_seconds"] for one in outcomes) / sum(seconds)
            for part in ("fetch", "collate", "bare")
        },
        "device_tokens_per_second": device_rate,
        "workers_needed": device_rate / tokens_per_second["median"],
    }


def worker_table(result: Mapping[str, Any]) -> str:
    """The table of `tokenize`."""
    rates = [("fetching and collating", "tokens_per_second"), ("`encode_batch_fast` alone", "bare_tokens_per_second")]
    rows = [
        [name, f"{result[key]['median']:,.0f}", f"{result[key]['min']:,.0f} to {result[key]['max']:,.0f}"]
        for name, key in rates
    ]
    texts, shares = result["texts_per_second"], result["shares"]
    return markdown_table(["one worker", "tokens/s, median", "least to most"], rows) + (
        f"\n\n{texts['median']:,.0f} texts/s of {result['tokens_per_text']:.0f} tokens; of the time "
        f"{shares['fetch']:.0%} is fetching rows from the mapped file, {shares['bare']:.0%} would be the tokenizer "
        f"alone. {len(result['outcomes'])} batches of {result['rows']:,} of {result['pairs']:,} pairs; text: "
        f"{result['text']}. "
        f"A GPU that trains {result['device_tokens_per_second']:,.0f} real tokens a second takes "
        f"{result['workers_needed']:.1f} such workers, each on a core like this machine's."
    )


def main(argv: Sequence[str]) -> None:
    """Measure as the command line says."""
    args = _parser().parse_args(argv)
    if not Path("/proc/self/status").exists():
        raise SystemExit("error: memory is read from /proc: run this on Linux.")
    print((run_scale if args.what == "scale" else run_tokenize)(args).read_text())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parsers = parser.add_subparsers(dest="what", required=True)
    scale = parsers.add_parser("scale", help="open the paper's mixture and fetch batches")
    scale.add_argument("--directory", type=Path, required=True, help="where 12 GB are free; all is removed at the end")
    scale.add_argument("--rows_per_batch", type=int, help="files as of the hub, in record batches of so many rows")
    scale.add_argument("--rows_scale", type=float, default=1.0, help="times the paper's rows")
    scale.add_argument("--batch_size", type=int, default=16_384, help="pairs of a global batch")
    scale.add_argument("--repeats", type=int, default=3)
    tokenize = parsers.add_parser("tokenize", help="fetch and tokenize real text in one process")
    tokenize.add_argument("--tokenizer", required=True, help="directory or hub name")
    tokenize.add_argument("--pairs", nargs="+", type=Path, default=[], help=".jsonl or .jsonl.gz with query, document")
    tokenize.add_argument("--rows", type=int, default=2048, help="pairs of a batch: of 16,384 on 8 GPUs, each one's")
    tokenize.add_argument("--batches", type=int, default=9)
    tokenize.add_argument("--max_length", type=int, default=2048, help="tokens of a text")
    tokenize.add_argument("--device_tokens_per_second", type=float, default=250_000, help="what one GPU trains")
    for each in (scale, tokenize):
        each.add_argument("--results", type=Path, default=Path("outputs/benchmarks"))
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
