"""A map of texts: read, embed, lay out, write the page."""

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from curation.atlas.points import PAGE, SIDE, Points
from curation.atlas.reading import read_beir_points, read_pair_points, read_text_points, read_vector_points
from curation.embedding import EmbedderSettings, TextEmbedder, embed_distinct
from recipes.shared.pair_sources import pair_sources
from textfiles.atomic import write_json
from textfiles.beir import corpus_file, splits
from textfiles.commands import one_line_errors
from textfiles.markdown import number
from textfiles.replacing import replaceable_directory, require_replaceable
from textfiles.settings import require_at_least

FACTS = "map.json"
_LARGEST = 5_000_000


@dataclass(frozen=True, kw_only=True)
class MapModel(EmbedderSettings):
    """The model that embeds the texts; with `vectors` there is none.

    Attributes:
        model_name_or_path: directory or hub name of any model that sentence-transformers opens; not needed with
            `vectors`.
    """

    model_name_or_path: str = ""


@dataclass(frozen=True, kw_only=True)
class MapArguments:
    """What is drawn.

    Attributes:
        output_dir: directory for the map; an earlier map there is replaced.
        texts: a file, directory or glob pattern of rows with a text, or a directory in the BEIR layout.
        pairs: files, directories, patterns or hub ids with pairs, or mappings with the fields of
            `curation.sources.Source`.
        sources_from: a config of stage 2 or 3, whose sources are drawn too.
        query: column with the query, of pairs that are given as a path or id.
        document: column with the document, likewise.
        vectors: a file, directory or glob pattern of .parquet files with a column `vector`, as recipes/embed.py writes.
        text_column: column with the text, of texts and vectors.
        columns: other columns of texts or vectors, to show and to colour by; the first is the colour at first.
        prompt: name of the model's prompt that is put before texts, such as document or clustering; pairs and sets in
            the BEIR layout take those of queries and documents.
        title: heading of the page; null: the names of what is drawn.
        max_points: most points; of more, a random choice is drawn.
        fitted_points: most points that are laid out; the others are put among their nearest neighbours of these.
        text_characters: characters of a text that the page holds, to show and to search.
        seed: of everything random.

    Raises:
        ValueError: a value cannot be.
    """

    output_dir: str
    texts: str | None = None
    pairs: list = field(default_factory=list)
    sources_from: str | None = None
    query: str = "query"
    document: str = "document"
    vectors: str | None = None
    text_column: str = "text"
    columns: list = field(default_factory=list)
    prompt: str = "document"
    title: str | None = None
    max_points: int = 100_000
    fitted_points: int = 100_000
    text_characters: int = 300
    seed: int = 0

    def __post_init__(self) -> None:
        given = [key for key in ("texts", "pairs", "vectors") if getattr(self, key)]
        if self.sources_from is not None and not self.pairs:
            given.append("pairs")
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"give one of texts, pairs and vectors to draw, not {found}.")
        if self.columns and given == ["pairs"]:
            raise ValueError("columns belong to texts and vectors; pairs are coloured by source and side.")
        require_at_least(1, self, "max_points", "fitted_points", "text_characters")
        if self.max_points > _LARGEST:
            raise ValueError(f"max_points must be at most {_LARGEST:,}, which a browser can hold.")


@one_line_errors()
def draw_map(model: MapModel, args: MapArguments) -> None:
    """Draw a map into a directory, which appears when it is whole."""
    require_libraries()
    output_dir = Path(args.output_dir)
    require_replaceable(output_dir)
    if not args.vectors and not model.model_name_or_path:
        raise ValueError("the key 'model_name_or_path' is missing: name the model that embeds the texts.")
    points, vectors = _embedded(model, args)
    title = args.title or _title(args)
    save_map(
        output_dir, points, vectors, title=title, model=model.model_name_or_path, fitted_points=args.fitted_points,
        text_characters=args.text_characters, seed=args.seed,
    )  # fmt: skip
    print(f"{number(len(points))} points: open {output_dir / PAGE} in a browser.")


def require_libraries() -> None:
    """Raise a ValueError that names the extra if a library of the map is not installed."""
    for library in ("bokeh", "colorcet", "openTSNE"):
        if find_spec(library) is None:
            raise ValueError(f"a map needs {library}, which is not installed; pip install -e '.[map]'.")


def save_map(
    directory: Path,
    points: Points,
    vectors: np.ndarray,
    *,
    title: str,
    model: str = "",
    fitted_points: int = 100_000,
    text_characters: int = 300,
    seed: int = 0,
) -> None:
    """Lay points out and write their page and facts into a directory, which appears when it is whole.

    Args:
        directory: where the map goes; an earlier map that nobody changed is replaced.
        points: n texts with their columns and links.
        vectors: (n, dim).
        title: heading of the page.
        model: what made the vectors, to be named on the page; "" for nothing.
        fitted_points: as in `MapArguments`.
        text_characters: likewise.
        seed: likewise.

    Raises:
        FileExistsError: the directory holds something else.
    """
    from curation.atlas.labels import region_labels  # of the extra, or slow to import
    from curation.atlas.page import write_page
    from curation.atlas.projection import project

    places = project(vectors, fitted_points=fitted_points, seed=seed)
    # drawn in this order: were it the data's, the last source would cover the others
    order = np.random.default_rng(seed).permutation(len(points))
    shown = points.take(order)
    shown.texts = [_cut(text, text_characters) for text in shown.texts]
    labels = region_labels(shown.texts, places[order], seed)
    counts = [f"{number(len(points))} points", *([f"{number(len(points.links))} links"] if len(points.links) else [])]
    name = "/".join(Path(model).parts[-2:])  # of a directory, without the machine's folders
    subtitle = ", ".join(counts) + (f", embedded by {name}" if name else "")
    footer = "Points are close where their embeddings are; distances between far groups mean little (t\u2011SNE)."
    facts = {
        "title": title,
        "model": name or None,
        "points": len(points),
        "links": len(points.links),
        "dimensions": vectors.shape[1],
        "columns": list(points.columns),
        "fitted_points": min(fitted_points, len(points)),
        "text_characters": text_characters,
        "seed": seed,
    }
    with replaceable_directory(directory) as files:
        write_page(files / PAGE, shown, places[order], labels, title=title, subtitle=subtitle, footer=footer)
        write_json(files / FACTS, facts)


def _embedded(model: MapModel, args: MapArguments) -> tuple[Points, np.ndarray]:
    most, seed = args.max_points, args.seed
    if args.vectors:
        return read_vector_points(args.vectors, args.text_column, args.columns, most, seed)
    if args.texts:
        directory = Path(args.texts).expanduser()
        if corpus_file(directory) is not None and splits(directory):
            if args.columns:
                raise ValueError(f"{directory}: points of the BEIR layout have the columns side and id; drop columns.")
            points = read_beir_points(directory, most, seed)
        else:
            points = read_text_points(args.texts, args.text_column, args.columns, most, seed)
    else:
        columns = {"query": args.query, "document": args.document}
        points = read_pair_points(pair_sources(args.pairs, args.sources_from, columns, "pairs"), most, seed)
    return points, embed_points(points, model, args.prompt)


def embed_points(points: Points, settings: EmbedderSettings, prompt: str = "document") -> np.ndarray:
    """Embed the texts of points, equal ones once.

    Args:
        points: n points; those with a column `side` take the prompt of queries or documents.
        settings: which model and how.
        prompt: name of the model's prompt for the others.

    Returns:
        (n, dim) in float32.

    Raises:
        OSError: there is no such model.
        ValueError: the model has no such prompt.
    """
    embedder = TextEmbedder(settings, "cuda" if torch.cuda.is_available() else "cpu")
    sides = points.columns.get(SIDE) or [None] * len(points)
    under = embedder.named_prompt(prompt)
    vectors: np.ndarray | None = None
    with tqdm(desc="Embedding", total=len(points), unit="text") as progress:
        for one in dict.fromkeys(sides):
            numbers = [i for i, found in enumerate(sides) if found == one]

            def encode(texts: list[str], one: Any = one) -> torch.Tensor:
                return embedder.encode_under(under, texts) if one is None else embedder.encode(one, texts)

            texts = (points.texts[i] for i in numbers)
            ids, embeddings, _ = embed_distinct(texts, encode, embedder.texts_at_once, progress)
            if vectors is None:
                vectors = np.empty((len(points), embeddings.shape[1]), dtype=np.float32)
            vectors[numbers] = embeddings.numpy()[ids]
    assert vectors is not None
    return vectors


def _title(args: MapArguments) -> str:
    if args.texts or args.vectors:
        return Path(args.texts or args.vectors or "").name
    names = [entry if isinstance(entry, str) else entry.get("name", "") for entry in args.pairs]
    return ", ".join(Path(name).name for name in names[:3]) or Path(args.sources_from or "").stem


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[:characters].rstrip()} ..."
