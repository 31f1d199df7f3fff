"""Vectors of a corpus by all ranks, shard by shard."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from curation.corpus import Corpus, CorpusSource, open_corpus
from curation.embedding import ModelSettings, Prompt, TextEmbedder
from curation.vectors import MANIFEST, CorpusVectors, VectorForm
from nomic_bert.encoding import EncodedBatch
from recipes.shared.ranks import join_ranks
from textfiles.begun import abandon_directory, begin_directory, clear_finished
from textfiles.commands import one_line_errors
from textfiles.markdown import share
from textfiles.settings import require_at_least
from textfiles.shards import deal, read_receipt

_WORK = ".work"  # inside output_dir until it is finished: the copy of local files, receipts of shards


@dataclass(frozen=True, kw_only=True)
class EmbedArguments:
    """How to embed, besides the texts, the model and the form of the vectors.

    Attributes:
        output_dir: directory for the vectors.
        prompt: name of the model's prompt that is put before each text; `document` and `query` are what the model's
            own `encode_document` and `encode_query` do; null: nothing is put there.
        rows_per_shard: rows of the corpus that make one file, the work of one rank.

    Raises:
        ValueError: a number is out of range.
    """

    output_dir: str
    prompt: str | None = "document"
    rows_per_shard: int = 50_000

    def __post_init__(self) -> None:
        require_at_least(1, self, "rows_per_shard")


@one_line_errors()
def embed(source: CorpusSource, settings: ModelSettings, form: VectorForm, args: EmbedArguments) -> None:
    """Embed this rank's share of the shards; the main process writes the manifest when all are there."""
    directory, state = Path(args.output_dir), join_ranks()
    finished = read_receipt(directory / MANIFEST)
    if finished is not None:
        if state.is_main_process:
            begin_directory(directory, _made_from(source, settings, form, args))  # refuses other settings
            clear_finished(directory, directory / _WORK)
            print(f"{directory} is finished: {_summary(finished)}")
        return
    embedder = TextEmbedder(settings, state.device)
    prompt = Prompt(None, "") if args.prompt is None else embedder.named_prompt(args.prompt)
    with state.main_process_first():
        made_from = _made_from(source, settings, form, args) if state.is_main_process else None
        vectors = CorpusVectors(
            _open(source, directory, made_from), directory, directory / _WORK, form, args.rows_per_shard
        )
        if state.is_main_process:
            vectors.calibrate(embedder, prompt)
    shards = deal(range(vectors.files.count), state.process_index, state.num_processes)
    missing = [shard for shard in shards if not vectors.is_finished(shard)]
    with _Progress(sum(len(vectors.rows_of(shard)) for shard in missing), shown=state.is_main_process) as progress:
        for shard in missing:
            vectors.make(shard, embedder, prompt, progress.add)
    state.wait_for_everyone()
    if state.is_main_process:
        manifest = vectors.finish(embedder, args.prompt, prompt)
        clear_finished(directory, directory / _WORK)
        print(f"{directory}: {_summary(manifest)}")


def _open(source: CorpusSource, directory: Path, made_from: dict[str, Any] | None) -> Corpus:
    """Open the corpus; the main process, which knows what is made from what, begins the directory for it.

    A refusal undoes what was begun now.
    """
    work = directory / _WORK
    begun = made_from is not None and begin_directory(directory, made_from, reads=[source.texts], work=work)
    try:
        return open_corpus(source, work)
    except (ValueError, OSError):
        if begun:
            abandon_directory(directory, work)
        raise


def _made_from(source: CorpusSource, settings: ModelSettings, form: VectorForm, args: EmbedArguments) -> dict[str, Any]:
    """What decides the files, as JSON values."""
    more = {"prompt": args.prompt, "rows_per_shard": args.rows_per_shard}
    return {"corpus": source.identity(), "model": settings.identity(), **asdict(form), **more}


class _Progress:
    """A bar over the rows of a rank, with tokens beside it.

    Rows move by characters, so the time left is right though the longest texts of a shard come first.
    """

    def __init__(self, rows: int, *, shown: bool) -> None:
        self._bar = tqdm(desc="Embedding", total=rows, unit="text", unit_scale=True, disable=not shown or rows == 0)
        self._tokens, self._rows = 0, 0.0

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, batch: EncodedBatch, rows: float) -> None:
        if batch.tokens is not None and not self._bar.disable:
            self._tokens += sum(batch.tokens)
            seconds = max(self._bar.format_dict["elapsed"], 1e-3)
            scaled = [tqdm.format_sizeof(value) for value in (self._tokens, self._tokens / seconds)]
            self._bar.set_postfix_str("{} tokens, {} tokens/s".format(*scaled), refresh=False)
        self._rows += rows
        self._bar.update(round(self._rows) - self._bar.n)


def _summary(manifest: dict[str, Any]) -> str:
    """What was made, in a line or two."""
    texts, vectors = manifest["texts"], manifest["vectors"]
    parts = [f"{texts:,} vectors of {vectors['dim']} dimensions in {vectors['dtype']}"]
    if manifest["tokens"] is not None:
        cut = manifest["truncated"]
        parts.append(f"{manifest['tokens']:,} tokens")
        parts.append(
            f"texts truncated at {manifest['model']['max_seq_length']:,} tokens: {cut:,} ({share(cut, texts)})"
        )
    if manifest["blank"]:
        parts.append(f"{manifest['blank']:,} blank left out")
    return f"{', '.join(parts)}."
