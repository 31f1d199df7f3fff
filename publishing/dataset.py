"""A curated data set as a hub repository: parquet files that `datasets` opens, and a card made from facts."""

import dataclasses
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from huggingface_hub import DatasetCardData
from matplotlib.figure import Figure

from textfiles.atomic import write_figure
from textfiles.columns import ColumnTypes, typed_array
from textfiles.lengths import percentile, summarize
from textfiles.markdown import render_page
from textfiles.parquet import read_facts, write_parquet
from textfiles.replacing import replaceable_directory, require_replaceable
from textfiles.rows import read_row_batches, rows_of
from textfiles.shards import ShardFiles

from .dataset_facts import DataPart, read_parts
from .upload import PROJECT_TAG, require_repo_id

_PLOT = "lengths.png"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
          (10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))  # fmt: skip
_TASKS = {
    "pairs": ["sentence-similarity", "text-retrieval"],
    "blocks": ["fill-mask"],
    "vectors": ["feature-extraction"],
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetSettings:
    """What is published, and what its card says that the steps did not record.

    Attributes:
        directory: output of make_pairs, filter_pairs, mine_negatives, pack_corpus or embed, or of one of its sources.
        repo_id: "owner/name".
        license: identifier of the hub, such as "cc-by-4.0"; None: none is stated.
        languages: ISO 639 codes; empty: not stated.
    """

    directory: Path
    repo_id: str
    license: str | None = None
    languages: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class WrittenPart:
    """A part as it was written.

    Attributes:
        part: where it is from.
        config: its configuration on the hub.
        rows: how many.
        columns: name -> type.
        unit: of the lengths: "characters" or "tokens".
        lengths: what was measured -> length -> number of texts.
        example: the first row of a part of texts; empty for others.
    """

    part: DataPart
    config: str
    rows: int
    columns: Mapping[str, str]
    unit: str
    lengths: Mapping[str, Counter[int]]
    example: Mapping[str, Any]


def write_dataset(settings: DatasetSettings, directory: Path) -> None:
    """Write the directory that is uploaded; it appears whole or not at all.

    Args:
        settings: what goes into it.
        directory: where to write; an earlier one there is replaced if it holds nothing but what was written to it.

    Raises:
        FileExistsError: the directory has other files; names them.
        FileNotFoundError: there is no data.
        ValueError: the data is unfinished, or two sources would have one name on the hub.
    """
    require_repo_id(settings.repo_id)
    require_replaceable(directory)
    parts = read_parts(settings.directory)
    configs = [re.sub(r"[^\w.-]+", "-", part.name) for part in parts]
    if len(set(configs)) < len(configs):
        raise ValueError(f"{settings.directory}: two sources would be one configuration on the hub: {configs}.")
    with replaceable_directory(directory) as written:
        made = [_write(part, config, written) for part, config in zip(parts, configs, strict=True)]
        if any(each.lengths for each in made):
            _plot(made, written / _PLOT)
        (written / "README.md").write_text(dataset_card(settings, made), encoding="utf-8")


def dataset_card(settings: DatasetSettings, parts: Sequence[WrittenPart]) -> str:
    """README.md of the hub repository."""
    total = sum(part.rows for part in parts)
    metadata = DatasetCardData(
        language=list(settings.languages) or None,
        license=settings.license,
        task_categories=_TASKS[parts[0].part.kind],
        size_categories=[next((name for most, name in _SIZES if total < most), "n>1T")],
        tags=[PROJECT_TAG, "embeddings"],
        configs=[{"config_name": each.config, "data_files": f"data/{each.config}/*.parquet"} for each in parts],
    )
    facts = {
        "metadata": metadata,
        "repo": settings.repo_id,
        "name": settings.repo_id.split("/")[-1],
        "license": settings.license,
        "kind": parts[0].part.kind,
        "rows": total,
        "parts": parts,
        "plot": _PLOT if any(each.lengths for each in parts) else None,
    }
    return render_page(
        Path(__file__).with_name("dataset_card.md.jinja"), facts, {"summary": lambda c: summarize([c.items()])}
    )


def _write(part: DataPart, config: str, directory: Path) -> WrittenPart:
    files = ShardFiles(directory / "data" / config, "train", len(part.files), ".parquet")
    if part.kind == "vectors":
        return _copy_vectors(part, config, files)
    if part.kind == "blocks":
        return _write_blocks(part, config, files)
    types, lengths = ColumnTypes(), dict[str, Counter[int]]()
    for row in _rows(part):
        types.note(row)
        for name, value in row.items():
            texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
            lengths.setdefault(name, Counter()).update(len(text) for text in texts if isinstance(text, str))
    schema = types.schema()
    rows = sum(
        write_parquet(_tables(file, schema), schema, files.path(number)) for number, file in enumerate(part.files)
    )
    measured = {name: counts for name, counts in lengths.items() if counts}
    return WrittenPart(part, config, rows, _types(schema), "characters", measured, next(_rows(part), {}))


def _rows(part: DataPart) -> Iterator[dict[str, Any]]:
    return (row for file in part.files for row in rows_of(file))


def _tables(file: Path, schema: pa.Schema) -> Iterator[pa.Table]:
    for batch in read_row_batches(file):
        columns = [typed_array((row.get(field.name) for row in batch.rows), field.type) for field in schema]
        yield pa.table(columns, schema=schema)


def _write_blocks(part: DataPart, config: str, files: ShardFiles) -> WrittenPart:
    lengths: Counter[int] = Counter()
    rows, columns = 0, {}
    for number, file in enumerate(part.files):
        with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as reader:
            schema = reader.schema.remove_metadata()

            def tables(reader: Any = reader, schema: pa.Schema = schema) -> Iterator[pa.Table]:
                for batch in reader:
                    lengths.update(batch.column("document_lengths").flatten().to_pylist())
                    yield pa.Table.from_batches([batch]).cast(schema)

            rows += write_parquet(tables(), schema, files.path(number))
            columns = _types(schema)
    return WrittenPart(part, config, rows, columns, "tokens", {"pieces of documents": lengths}, {})


def _copy_vectors(part: DataPart, config: str, files: ShardFiles) -> WrittenPart:
    lengths: Counter[int] = Counter()
    rows = 0
    for number, file in enumerate(part.files):
        files.path(number).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, files.path(number))
        facts = read_facts(file) or {}
        rows += facts["texts"]
        lengths.update(dict(facts["lengths"] or ()))
    return WrittenPart(part, config, rows, part.columns, "tokens", {"texts": lengths} if lengths else {}, {})


def _types(schema: pa.Schema) -> dict[str, str]:
    return {field.name: str(field.type) for field in schema}


def _plot(parts: Sequence[WrittenPart], path: Path) -> None:
    """Boxes of the lengths: 25 to 75 percent, whiskers 1 to 99 percent, a dot for the longest."""
    bars = [(f"{part.config}: {name}", counts) for part in parts for name, counts in part.lengths.items()]
    figure = Figure(figsize=(8, 1.2 + 0.3 * len(bars)), layout="constrained")
    panel = figure.subplots()
    keys = {"whislo": 1, "q1": 25, "med": 50, "q3": 75, "whishi": 99}
    boxes = [{key: max(percentile(counts, value), 1) for key, value in keys.items()} for _, counts in bars]
    panel.bxp(boxes, positions=range(len(bars)), orientation="horizontal", widths=0.6, showfliers=False)
    panel.plot([max(counts) for _, counts in bars], range(len(bars)), ".", color="grey", markersize=4)
    panel.set_yticks(range(len(bars)), [name for name, _ in bars])
    panel.set_ylim(len(bars) - 0.5, -0.5)
    panel.set(xscale="log", xlabel=f"length ({parts[0].unit}); box 25 to 75 %, whiskers 1 to 99 %, dot: longest")
    panel.xaxis.set_major_formatter("{x:,.0f}")
    panel.grid(alpha=0.3, axis="x")
    write_figure(path, figure)
