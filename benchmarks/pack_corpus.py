"""How fast packing is beside the tokenizer alone, on the same text with the same number of processes.

python benchmarks/pack_corpus.py --documents FILE... --tokenizer DIR [--num_processes 2]

Three sides take turns: packing as recipes/pack_corpus.py does it, from documents on the disk to shards on the disk;
the tokenizer as users call it (`tokenizer(texts)`); and the least that tokenizing can be (`encode_batch_fast`, whose
results are counted and thrown away). Reading the documents from their files the first time is not part of any side.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoTokenizer

from benchmarks.measure import alternate, markdown_table, spread, write_results
from curation.documents import Documents, DocumentSource, open_documents
from curation.packing import PackingPlan, on_processes, pack_shards
from curation.tokenizer import plain_tokenizer

_TEXTS_AT_ONCE = 100


@cache
def load_tokenizer(how: str, tokenizer: str) -> Callable[[list[str]], int]:
    """What counts the tokens of some texts: `tokenizer(texts)`, or `encode_batch_fast` of the same tokenizer."""
    called = AutoTokenizer.from_pretrained(tokenizer)
    if how == "call":
        return lambda texts: sum(map(len, called(texts, verbose=False)["input_ids"]))
    backend = Tokenizer.from_str(plain_tokenizer(called))
    return lambda texts: sum(map(len, backend.encode_batch_fast(texts)))


def count_tokens(job: tuple[Documents, str, str, range]) -> int:
    """Tokens of the documents of one shard."""
    documents, how, tokenizer, numbers = job
    count = load_tokenizer(how, tokenizer)
    batches = (numbers[start : start + _TEXTS_AT_ONCE] for start in range(0, len(numbers), _TEXTS_AT_ONCE))
    return sum(count(documents.texts(list(batch))) for batch in batches)


def timed(documents: Documents, how: str, tokenizer: str, plan: PackingPlan, num_processes: int) -> dict[str, float]:
    """Tokens a second of one side over all documents; loading the tokenizer does not count."""
    size = plan.documents_per_shard
    shards = [range(start, min(start + size, len(documents))) for start in range(0, len(documents), size)]
    if how != "pack":
        load_tokenizer(how, tokenizer)  # processes that are forked find it loaded
    with tempfile.TemporaryDirectory() as output:
        start = time.perf_counter()
        if how == "pack":
            tokens = pack_shards(documents, plan, Path(output), range(plan.num_shards), num_processes)
        else:
            jobs = [(documents, how, tokenizer, shard) for shard in shards]
            tokens = sum(on_processes(count_tokens, jobs, num_processes))
        seconds = time.perf_counter() - start
    return {"tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds}


def main(argv: Sequence[str]) -> None:
    """Measure as the command line says."""
    args = _parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as cache:
        sources = [DocumentSource(path=path) for path in args.documents]
        documents = open_documents(sources, Path(cache))
        tokenizer = plain_tokenizer(AutoTokenizer.from_pretrained(args.tokenizer))
        plan = PackingPlan(tokenizer, len(documents), args.block_size, args.documents_per_shard, seed=0)

        def side(how: str) -> Callable[[], dict[str, float]]:
            return lambda: timed(documents, how, args.tokenizer, plan, args.num_processes)

        sides = {"pack": side("pack"), "call": side("call"), "encode": side("encode")}
        outcomes = alternate(sides, args.repeats, lambda _: None)
    if len({outcome["tokens"] for rounds in outcomes.values() for outcome in rounds}) != 1:
        raise SystemExit(f"error: the sides did not count the same tokens: {outcomes}")
    rates = {name: spread([one["tokens_per_second"] for one in rounds]) for name, rounds in outcomes.items()}
    names = {"pack": "packing, disk to disk", "call": "`tokenizer(texts)`", "encode": "`encode_batch_fast`"}
    rows = [
        [names[how], f"{rate['median']:,.0f}", f"{rate['min']:,.0f} to {rate['max']:,.0f}",
         f"{rates['pack']['median'] / rate['median']:.2f}"]
        for how, rate in rates.items()
    ]  # fmt: skip
    tokens = outcomes["pack"][0]["tokens"]
    table = markdown_table(["side", "tokens/s, median", "least to most", "packing is faster by a factor of"], rows)
    table += f"\n\n{len(documents):,} documents of {tokens:,} tokens, {args.num_processes} processes, blocks of "
    table += f"{args.block_size:,} tokens, {args.repeats} rounds."
    result = {"documents": len(documents), "tokens": tokens, "num_processes": args.num_processes, "rates": rates}
    print(write_results("pack_corpus", result, table, args.results).read_text())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", nargs="+", required=True, help="files, directories or patterns")
    parser.add_argument("--tokenizer", required=True, help="directory or hub name")
    parser.add_argument("--block_size", type=int, default=2048, help="tokens")
    parser.add_argument("--documents_per_shard", type=int, default=500)
    parser.add_argument("--num_processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=Path("outputs/benchmarks"))
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
