"""Blocks of documents by all ranks, shard by shard."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from curation.documents import DocumentSource, open_documents
from curation.packing import MANIFEST, PackingPlan, finish, pack_shards
from curation.tokenizer import plain_tokenizer, tokenizer_hash
from nomic_bert.tokenizer_files import open_tokenizer
from recipes.shared.ranks import join_ranks
from textfiles.begun import SETTINGS, begin_directory, clear_finished
from textfiles.commands import one_line_errors
from textfiles.shards import deal

_WORK = ".work"  # inside output_dir until the packing is finished: settings and copies of the documents


@dataclass(kw_only=True)
class PackArguments:
    """What to pack.

    Attributes:
        documents: files, directories or patterns of .txt, .jsonl(.gz) or .parquet with the column `text`, or
            mappings with the fields of `curation.documents.DocumentSource` (hub data sets, other columns).
        tokenizer: directory or hub name.
        output_dir: directory for the blocks.
        block_size: tokens in a block.
        documents_per_shard: documents packed into one shard; less than a block of tokens is lost at the end of each.
        seed: of the order of the documents; null keeps the order of the files.
        num_processes: processes of each rank.
    """

    documents: list
    tokenizer: str
    output_dir: str
    block_size: int = 2048  # paper §4.1.1
    documents_per_shard: int = 10_000
    seed: int | None = 0
    num_processes: int = 1


@one_line_errors()
def pack_corpus(args: PackArguments) -> None:
    """Pack this rank's share of the documents; the main process writes the manifest when all are packed."""
    output_dir = Path(args.output_dir)
    if (output_dir / MANIFEST).exists():
        clear_finished(output_dir, output_dir / _WORK)
        raise ValueError(f"{output_dir} is packed already. Choose another output_dir or remove it.")
    sources = [DocumentSource.from_config(entry, f"documents[{i}]") for i, entry in enumerate(args.documents)]
    tokenizer = plain_tokenizer(open_tokenizer(args.tokenizer))
    state, work = join_ranks(use_gpu=False), output_dir / _WORK
    with state.main_process_first():
        if state.is_main_process:
            _begin(output_dir, args, sources, tokenizer)
        documents = open_documents(sources, work)
    plan = PackingPlan(tokenizer, len(documents), args.block_size, args.documents_per_shard, args.seed)
    shards = deal(range(plan.num_shards), state.process_index, state.num_processes)
    pack_shards(documents, plan, output_dir, shards, args.num_processes)
    state.wait_for_everyone()
    if state.is_main_process:
        counts = zip(sources, documents.counts, strict=True)
        about = {
            "sources": [{**asdict(source), "is_local": source.is_local, "documents": count} for source, count in counts]
        }
        manifest = finish(plan, output_dir, {**about, "tokenizer": args.tokenizer})
        clear_finished(output_dir, work)
        print(
            f"{manifest['blocks']:,} blocks of {plan.block_size:,} tokens from {manifest['documents']:,} documents in "
            f"{output_dir}; {manifest['dropped_tokens']:,} tokens at the ends of {plan.num_shards:,} shards dropped, "
            f"{manifest['blank_documents']:,} blank documents left out."
        )


def _begin(output_dir: Path, args: PackArguments, sources: list[DocumentSource], tokenizer: str) -> None:
    """Write down what an output directory is packed from, or check that it is the same as before."""
    settings: dict[str, Any] = {
        "documents": [source.identity() for source in sources],
        "tokenizer_sha256": tokenizer_hash(tokenizer),
        **{key: getattr(args, key) for key in ("block_size", "documents_per_shard", "seed")},
    }
    reads = [source.path for source in sources]
    begin_directory(output_dir, settings, reads=reads, settings_file=output_dir / _WORK / SETTINGS)
