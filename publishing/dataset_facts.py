"""Where a directory of data came from: the step of curation that wrote it, its input, settings and result.

Everything comes from the JSON files that the steps leave beside their rows. Paths of this machine are not among it.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from textfiles.atomic import read_json
from textfiles.hub_names import is_hub_name
from textfiles.rows import find_files
from textfiles.shards import read_receipt, require_unchanged_files

_SETTINGS = "settings.json"
_ROWS = (".jsonl.gz", ".jsonl", ".parquet", ".arrow")
_REMEDY = "Run the step again that wrote it."


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where rows came from.

    Attributes:
        dataset: name on the hub; None: local files.
        details: such as `subset pair`, for a hub data set.
        files: how many local files, and the name of the first.
        license: as the recipe states it; None: it does not.
    """

    dataset: str | None
    details: tuple[str, ...]
    files: tuple[int, str]
    license: str | None


@dataclasses.dataclass(frozen=True)
class Step:
    """One step that rows went through.

    Attributes:
        name: what was done.
        settings: name -> value, those that decide the result.
        result: name -> count.
    """

    name: str
    settings: Mapping[str, Any]
    result: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class DataPart:
    """Rows of one source: a configuration of the data set.

    Attributes:
        name: of the source.
        kind: `pairs`, `blocks` or `vectors`.
        files: with the rows.
        origins: where the rows came from.
        steps: that they went through, oldest first.
        columns: name -> type, of files that have a schema of their own.
    """

    name: str
    kind: str
    files: tuple[Path, ...]
    origins: tuple[Origin, ...]
    steps: tuple[Step, ...]
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)


def read_parts(directory: Path) -> list[DataPart]:
    """What a directory holds: the output of a step of curation, or of one of its sources.

    Raises:
        FileNotFoundError: there is no such directory.
        ValueError: no step wrote it, the step has not finished, or a file is damaged.
    """
    if not directory.is_dir():
        raise FileNotFoundError(f"{directory} is not a directory; give the output_dir of a step of curation.")
    try:
        parts = _read_parts(directory)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"{directory}: manifest.json, settings.json or a report lacks what its step records, or is damaged "
            f"({type(error).__name__}: {error}). {_REMEDY}"
        ) from error
    for file in (file for part in parts for file in part.files):
        if not file.resolve().is_relative_to(directory.resolve()):
            raise ValueError(f"{file} leads out of {directory}. If you trust it, replace it by a copy.")
    return parts


def _read_parts(directory: Path) -> list[DataPart]:
    if (directory / "manifest.json").is_file():
        return [_packed_or_embedded(directory)]
    if (directory / _SETTINGS).is_file():
        return [_pairs(directory)]
    found = [_pairs(each) for each in sorted(directory.iterdir()) if (each / _SETTINGS).is_file()]
    if not found:
        raise ValueError(
            f"{directory} is not the output of make_pairs, filter_pairs, mine_negatives, pack_corpus or embed, or that "
            "step has not finished; rerun it."
        )
    return found


def _packed_or_embedded(directory: Path) -> DataPart:
    manifest = read_json(directory / "manifest.json", _REMEDY)
    if "block_size" in manifest:
        origins = [_origin({"path": each["path"], **each, "subset": each.get("name")}) for each in manifest["sources"]]
        settings = _only(manifest, "block_size", "documents_per_shard", "seed")
        settings |= {"vocabulary (SHA-256)": manifest["vocabulary_sha256"][:16]}
        counts = _only(manifest, "documents", "blank_documents", "tokens", "dropped_tokens", "blocks")
        files = tuple(directory / name for name, blocks in manifest["shards"].items() if blocks)
        for file in files:
            require_unchanged_files(file.with_suffix(".json"), _REMEDY)
        return DataPart("blocks", "blocks", files, tuple(origins), (Step("packed", settings, counts),))
    require_unchanged_files(directory / "manifest.json", _REMEDY)
    corpus, model = manifest["corpus"], manifest["model"]
    name = model["name_or_path"]
    settings = {
        "model": name if is_hub_name(name) else Path(name).name,
        **_only(model, "weights", "backend", "precision", "max_seq_length"),
        "prompt": manifest["prompt"]["text"], **manifest["vectors"],
    }  # fmt: skip
    settings = {key: value for key, value in settings.items() if value is not None}
    counts = _only(manifest, "texts", "blank", "tokens", "truncated")
    files = tuple(directory / name for name in manifest["files"] if name.endswith(".parquet"))
    origin = _origin({**corpus, "path": corpus["texts"]})
    return DataPart("vectors", "vectors", files, (origin,), (Step("embedded", settings, counts),), manifest["columns"])


def _pairs(directory: Path) -> DataPart:
    """Of a directory of one source, from make_pairs, filter_pairs or mine_negatives."""
    steps, origin = _history(directory)
    rows = directory / "kept" if (directory / "kept").is_dir() else directory
    return DataPart(directory.name, "pairs", tuple(find_files(rows, _ROWS)), (origin,), tuple(steps))


def _history(directory: Path) -> tuple[list[Step], Origin]:
    """The steps to a directory, oldest first, and where the rows of the first of them came from."""
    settings = read_json(directory / _SETTINGS, _REMEDY)
    if (directory / "audit.json").is_file():
        source, step = settings["source"], _filtered(settings, read_json(directory / "audit.json", _REMEDY))
    elif (directory / "report.json").is_file():
        read_receipt(directory / "report.json")  # refuses a damaged one
        report = read_json(directory / "report.json", _REMEDY)
        is_mined = "mined" in report
        source = settings["source"] if is_mined else settings
        step = _mined(settings, report) if is_mined else _made(report)
    else:
        raise ValueError(f"{directory}: the step that writes it has not finished; rerun it.")
    for before in _directories_of(source["path"]):
        if (before / _SETTINGS).is_file():
            steps, origin = _history(before)
            return [*steps, step], origin
    return [step], _origin(source)


def _directories_of(path: str) -> Iterator[Path]:
    """A local directory that rows were read from and the one above it, if they are there."""
    given = Path(path).expanduser()
    if not is_hub_name(path) or given.exists():
        yield from (each for each in (given, given.parent) if each.is_dir() and each != Path())


def _made(report: Mapping[str, Any]) -> Step:
    rule = report["source"]
    keys = ("query", "document", "context", "each", "pairs_of", "where", "keep", "limit")
    settings = {key: rule[key] for key in keys if rule.get(key) not in (None, [], {}, ())}
    left_out = {f"left out: {reason}": count for reason, count in report["left_out"].items()}
    return Step("pairs made of raw rows by a rule", settings, {**_only(report, "rows", "pairs"), **left_out})


def _filtered(settings: Mapping[str, Any], report: Mapping[str, Any]) -> Step:
    embedder = settings["embedder"]
    shown = _only(settings, "top_k", "min_similarity", "sample_size", "seed") | {"model": _model(embedder)}
    shown = {key: value for key, value in shown.items() if value is not None}
    dropped = report["rows"] - report["kept"] - report["blank"]
    counts = {"rows": report["rows"], "kept": report["kept"], "dropped": dropped, "blank": report["blank"]}
    return Step("consistency filter", shown, counts)


def _mined(settings: Mapping[str, Any], report: Mapping[str, Any]) -> Step:
    shown = {key: value for key, value in settings.items() if isinstance(value, int | float | str) and key != "seed"}
    if "embedder" in settings:
        shown["model"] = _model(settings["embedder"])
    counts = _only(report, "rows", "mined", "left_alone", "with_fewer", "with_none", "documents")
    return Step(f"hard negatives mined ({report['draw']})", shown, counts)


def _model(embedder: Mapping[str, Any]) -> str:
    name = str(embedder["model_name_or_path"])
    return name if is_hub_name(name) else Path(name).name


def _origin(source: Mapping[str, Any]) -> Origin:
    path = str(source["path"])
    files = source.get("files") or source.get("corpus_files")
    is_hub = files is None and source.get("is_local") is not True and is_hub_name(path)
    details = tuple(f"{key} {source[key]}" for key in ("subset", "split", "revision") if is_hub and source.get(key))
    named = (len(files), str(files[0][0])) if files else (1, Path(path).name)
    return Origin(path if is_hub else None, details, named, source.get("license"))


def _only(content: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: content[key] for key in keys if key in content}
