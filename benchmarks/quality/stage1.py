"""What a stage 1 model has learned: masked accuracy and perplexity on books that training has not seen.

python benchmarks/quality/stage1.py prepare --documents FILE... --held_out_column title --held_out 8 --output_dir DIR
python benchmarks/quality/stage1.py evaluate --models NAME=DIR... --data DIR --lengths 256 2048 4096 --output results

Between the two, train: recipes/pack_corpus.py on DIR/train.jsonl.gz with DIR/tokenizer and then recipes/stage1.py; or
recipes/stage1.py on DIR/unpacked, for the same model without packing.
"""

import argparse
import json
import random
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import torch
from matplotlib.figure import Figure
from tqdm.auto import tqdm
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from benchmarks.measure import markdown_table, write_results
from benchmarks.quality.masked_accuracy import MaskedText, Scores, Unigram, accuracy_difference, score_model
from curation.duplicates import overlapping_rows
from curation.files import JSONL_SUFFIXES, find_files, numbered_jsonl, read_jsonl, write_jsonl
from curation.tokenizer import train_tokenizer
from nomic_bert import NomicBertForMaskedLM
from nomic_bert.embedder import require_checkpoint
from nomic_bert.files import atomic_directory

_TEXTS_AT_ONCE = 256
_LONG = 2048  # what counts as a long block: the paper's trained length
_BUCKET = 256  # tokens


def prepare(args: argparse.Namespace) -> None:
    """Keep whole books aside; write training text, a tokenizer, and rows of one document each (paper §4.1.1).

    A training document of which half or more stands in a held-out book (a story printed twice) is left out.
    """
    directory = Path(args.output_dir)
    if directory.exists():
        raise ValueError(f"{directory} exists. Choose another --output_dir or remove it.")
    train, books = split_documents(args.documents, args.held_out_column, args.held_out, args.seed)
    repeats = overlapping_rows(train, [book["text"] for book in books])
    train = [text for text, repeated in zip(train, repeats, strict=True) if not repeated]
    random.Random(args.seed).shuffle(train)
    with atomic_directory(directory) as files:
        write_jsonl(({"text": text} for text in train), files / "train.jsonl.gz")
        write_jsonl(books, files / "held_out.jsonl.gz")
        print(f"Training a tokenizer of {args.vocab_size:,} tokens on {len(train):,} documents", flush=True)
        train_tokenizer(train, args.vocab_size, files / "tokenizer")
        unpacked = unpack_documents(train, AutoTokenizer.from_pretrained(files / "tokenizer"), args.block_size)
        unpacked.save_to_disk(files / "unpacked")
        tokens = sum(lengths[0] for lengths in unpacked["document_lengths"])
        counts = {
            "held_out": [book[args.held_out_column] for book in books],
            "held_out_characters": sum(len(book["text"]) for book in books),
            "train_documents": len(train),
            "train_documents_removed_as_repeats": int(repeats.sum()),
            "train_characters": sum(map(len, train)),
            "train_tokens": tokens,
            "unpacked_rows": len(unpacked),
            "tokens_per_unpacked_row": round(tokens / len(unpacked), 1),
            "block_size": args.block_size,
            "seed": args.seed,
        }
        (files / "counts.json").write_text(json.dumps(counts, indent=2, ensure_ascii=False) + "\n")
    print(json.dumps(counts, indent=2, ensure_ascii=False))
    rows = args.block_size * len(unpacked) / tokens
    print(f"A full block has the tokens of {rows:.2f} unpacked rows: multiply the batch by that for equal steps.")


def split_documents(
    paths: Sequence[str], column: str, held_out: int, seed: int
) -> tuple[list[str], list[dict[str, str]]]:
    """Training documents, and the books kept aside.

    Args:
        paths: .jsonl(.gz) files with the column `text`; a file whose rows lack `column` is all training text.
        column: what names a book; its rows are parts of the book, in the order of the column `part` where there
            is one, of the file otherwise.
        held_out: how many books are kept aside: the last ones of a random order.
        seed: of that order.

    Returns:
        One text a training row, and for each held-out book one row with `column` and its whole `text`.

    Raises:
        ValueError: a row without text, or no more books than are to be kept aside; names the file and line.
    """
    train: list[str] = []
    books: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in paths:
        for file in find_files(path, JSONL_SUFFIXES):
            for line, row in numbered_jsonl(file):
                if not isinstance(row.get("text"), str):
                    raise ValueError(f"{file}, line {line}: no text in the column 'text'; add it or leave the row out.")
                if not row["text"].strip():
                    continue
                if column in row:
                    books[row[column]].append(row)
                else:
                    train.append(row["text"])
    names = sorted(books)
    if not 0 < held_out < len(names):
        raise ValueError(f"--held_out {held_out}: the files have {len(names)} values of {column!r}; keep some of both.")
    random.Random(seed).shuffle(names)
    train += [row["text"] for name in sorted(names[:-held_out]) for row in books[name]]
    whole = []
    for name in sorted(names[-held_out:]):
        parts = sorted(books[name], key=lambda row: row.get("part", 0))  # stable: the file's order without `part`
        whole.append({column: name, "text": "\n\n".join(row["text"] for row in parts)})
    return train, whole


def unpack_documents(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, block_size: int) -> datasets.Dataset:
    """Rows of one document each, for training without packing; a document longer than a row is split into several.

    The tokens are those of `curation.packing.pack_documents`: [CLS] ... [SEP], and no new [CLS] where a document
    continues.

    Args:
        texts: documents.
        tokenizer: of the model.
        block_size: most tokens in a row.

    Returns:
        Columns `input_ids` and `document_lengths`, one length a row.
    """
    tables = []
    with tqdm(total=len(texts), desc="Tokenizing", unit="document") as progress:
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            batch = list(texts[start : start + _TEXTS_AT_ONCE])
            documents = tokenizer(batch, truncation=False, verbose=False)["input_ids"]
            rows = [ids[at : at + block_size] for ids in documents for at in range(0, len(ids), block_size)]
            lengths = [[len(row)] for row in rows]
            tables.append(
                pa.table(
                    {
                        "input_ids": pa.array(rows, pa.list_(pa.int32())),
                        "document_lengths": pa.array(lengths, pa.list_(pa.int32())),
                    }
                )
            )
            progress.update(len(batch))
    return datasets.Dataset(pa.concat_tables(tables))


def evaluate(args: argparse.Namespace) -> None:
    """Score every model, and a unigram model, on the same masked tokens of the books kept aside."""
    data = Path(args.data)
    models = dict(named_path(model) for model in args.models)
    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizer")
    for directory in models.values():
        require_same_tokenizer(directory, tokenizer)
    text = MaskedText.of(held_out_texts(data), tokenizer, args.lengths, args.blocks_per_text)
    unigram = Unigram(datasets.load_from_disk(str(data / "unpacked")).with_format("numpy")["input_ids"], tokenizer)
    by_chance = unigram.score(text)
    scores: dict[tuple[str, int], Scores] = {}
    for name, directory in models.items():
        print(f"Evaluating {name}", flush=True)
        model = NomicBertForMaskedLM.from_pretrained(directory).eval().to(args.device)
        scores |= {(name, length): score_model(model, text, length) for length in text.lengths}
    first = next(iter(models))
    rows = [row("unigram", text.lengths[-1], by_chance, scores[first, text.lengths[-1]])]
    rows += [row(name, length, each, scores[first, length]) for (name, length), each in scores.items()]
    long_share = sum(length >= _LONG for length in text.lengths) / len(text.lengths)
    table = (
        f"{markdown(rows, first)}\n\n"
        f"{rows[0]['masked_tokens']:,} masked tokens of {text.tokens.size:,}, the same at every length; "
        f"{long_share:.0%} of the scored tokens are in blocks of {_LONG:,} or more. "
        f"± is one standard error, over {len(text.tokens)} passages of {text.lengths[-1]:,} tokens."
    )
    print(table)
    result = {
        "lengths": list(text.lengths),
        "tokens": text.tokens.size,
        "share_of_scored_tokens_in_long_blocks": long_share,
        "data": json.loads((data / "counts.json").read_text()),
        "scores": rows,
    }
    path = write_results("stage1_quality", result, table, Path(args.output))
    plot_by_position(rows, path.with_suffix(".png"))


def held_out_texts(data: Path) -> list[str]:
    """The books that `prepare` kept aside."""
    return [row["text"] for row in read_jsonl(data / "held_out.jsonl.gz")]


def named_path(argument: str) -> tuple[str, str]:
    """Read `NAME=DIR`.

    Raises:
        ValueError: it is not of that form.
    """
    name, equals, path = argument.partition("=")
    if not (name and equals and path):
        raise ValueError(f"{argument!r}: give it as NAME=DIR, the name to stand in the table.")
    return name, path


def require_same_tokenizer(directory: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a model that was trained with other tokens: its scores could not be compared.

    Raises:
        ValueError: names the model.
    """
    require_checkpoint(directory)
    if AutoTokenizer.from_pretrained(directory).get_vocab() != tokenizer.get_vocab():
        raise ValueError(f"{directory}: its tokenizer is not that of --data. Train it with DIR/tokenizer of --data.")


def row(name: str, length: int, scores: Scores, first: Scores) -> dict[str, Any]:
    """A line of the table: scores, and the difference in accuracy to the first model at the same length."""
    difference, error = accuracy_difference(scores, first)
    return {
        "model": name,
        "length": length,
        **scores.summary(),
        "accuracy_less_first": difference,
        "accuracy_less_first_se": error,
        "by_position": scores.by_position(min(_BUCKET, length)),
    }


def markdown(rows: Sequence[dict[str, Any]], first: str) -> str:
    """The table of scores; a unigram model does not see the length."""
    header = [
        "model",
        "tokens in a block",
        "masked accuracy, %",
        "perplexity",
        f"accuracy less that of {first}, points",
    ]
    cells = []
    for line in rows:
        length = "any" if line["model"] == "unigram" else f"{line['length']:,}"
        accuracy = f"{100 * line['accuracy']:.2f} ± {100 * line['accuracy_se']:.2f}"
        difference = f"{100 * line['accuracy_less_first']:+.2f} ± {100 * line['accuracy_less_first_se']:.2f}"
        shown = "" if line["model"] == first else difference
        cells.append([line["model"], length, accuracy, f"{line['perplexity']:.2f}", shown])
    return markdown_table(header, cells)


def plot_by_position(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Masked accuracy by place in the block: a panel a length, a line a model, a band of one standard error."""
    lengths = sorted({line["length"] for line in rows if line["model"] != "unigram" and line["length"] > _BUCKET})
    if not lengths:
        return  # one bucket a block: the table says it all
    figure = Figure(figsize=(4.5 * len(lengths), 3.5), layout="constrained")
    panels = figure.subplots(1, len(lengths), squeeze=False, sharey=True)[0]
    for panel, length in zip(panels, lengths, strict=True):
        for line in (line for line in rows if line["length"] == length and line["model"] != "unigram"):
            places = [bucket["start"] + _BUCKET / 2 for bucket in line["by_position"]]
            accuracy = 100 * np.array([bucket["accuracy"] for bucket in line["by_position"]])
            error = 100 * np.array([bucket["accuracy_se"] for bucket in line["by_position"]])
            panel.plot(places, accuracy, marker=".", label=line["model"])
            panel.fill_between(places, accuracy - error, accuracy + error, alpha=0.2)
        panel.set(title=f"blocks of {length:,} tokens", xlabel="place in the block", ylabel="masked accuracy, %")
        panel.grid(alpha=0.3)
        panel.legend()
    figure.savefig(path, dpi=150)


def main(argv: list[str]) -> None:
    """Do as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("prepare", help="keep books aside, train a tokenizer, write unpacked rows")
    command.add_argument("--documents", nargs="+", required=True, metavar="FILE", help=".jsonl(.gz) with `text`")
    command.add_argument("--held_out_column", default="title", help="what names a book (default title)")
    command.add_argument("--held_out", type=int, default=8, help="books kept aside (default 8)")
    command.add_argument("--output_dir", required=True, metavar="DIR")
    command.add_argument("--vocab_size", type=int, default=8192)
    command.add_argument("--block_size", type=int, default=2048, help="most tokens of an unpacked row")
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=prepare)
    command = commands.add_parser("evaluate", help="score models on the books kept aside")
    command.add_argument("--models", nargs="+", required=True, metavar="NAME=DIR", help="the first is compared with")
    command.add_argument("--data", required=True, metavar="DIR", help="what `prepare` wrote")
    command.add_argument("--lengths", nargs="+", type=int, default=[256, 2048, 4096], help="tokens in a block")
    command.add_argument("--blocks_per_text", type=int, help="most blocks of the longest length a book (default all)")
    command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    command.add_argument("--output", required=True, metavar="DIR", help="directory for the dated results")
    command.set_defaults(run=evaluate)
    args = parser.parse_args(argv)
    try:
        args.run(args)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main(sys.argv[1:])
