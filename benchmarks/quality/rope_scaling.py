"""Does scaling RoPE let a model read beyond the length it was trained at (paper §3.5, §5.2.2)?

python benchmarks/quality/rope_scaling.py --model DIR --data DIR --output results
    [--embedder DIR --retrieval NAME=DIR...] [--multiples 2 4]

A model trained at T tokens (`max_trained_positions`) reads T, 2T and 4T tokens, unscaled and with every scaling.
Masked accuracy is that of the same masked tokens of the same books, in blocks of each length. Retrieval cuts each
document after each length, and its queries after T. T itself is what scaling must beat: there, no scaling acts.
Eqs. 3 and 4 take the ratio of the length read to T as their factor and scale every text by it, queries and short
documents too; Eq. 5 leaves texts of up to T tokens as they are. Blocks being all of one length, Eq. 4 and Eq. 5 with
α = 1 are the same there, and differ in retrieval.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from matplotlib.figure import Figure
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer

from benchmarks.measure import markdown_table, write_results
from benchmarks.quality.masked_accuracy import MaskedText, accuracy_difference, score_model
from benchmarks.quality.retrieval_scores import query_scores
from benchmarks.quality.stage1 import held_out_texts, named_path, require_same_tokenizer
from evaluation.retrieval import RetrievalSet
from nomic_bert import NomicBertConfig, NomicBertForMaskedLM, NomicBertModel
from nomic_bert.embedder import load_embedder

_RESAMPLES = 10_000
_BASELINE = "trained length"
_SETTING = ("scaling", "tokens read")  # columns


class Scaling(NamedTuple):
    """A way to scale RoPE; the factor may be "ratio", that of the length read to the trained length."""

    name: str
    kind: Literal["linear", "ntk", "dynamic"]
    factor: float | Literal["ratio"] | None

    def apply(self, config: NomicBertConfig, ratio: float) -> None:
        """Set it on the configuration of a loaded model, which reads it in every forward pass."""
        config.rotary_scaling_type = self.kind
        config.rotary_scaling_factor = ratio if self.factor == "ratio" else self.factor


SCALINGS = (
    Scaling("none", "dynamic", None),
    Scaling("linear (Eq. 3)", "linear", "ratio"),
    Scaling("NTK (Eq. 4)", "ntk", "ratio"),
    Scaling("dynamic, α = 1 (Eq. 5)", "dynamic", 1.0),
    Scaling("dynamic, α = 2 (Eq. 5)", "dynamic", 2.0),
    Scaling("dynamic, α = 4 (Eq. 5)", "dynamic", 4.0),
)


def settings(multiples: Sequence[int]) -> Iterator[tuple[str, Scaling, int]]:
    """Name, scaling and multiple of the trained length: the baseline first, then each scaling at each multiple."""
    yield _BASELINE, SCALINGS[0], 1
    yield from ((scaling.name, scaling, multiple) for scaling in SCALINGS for multiple in multiples)


def masked_accuracy(
    model: NomicBertForMaskedLM, text: MaskedText, trained: int, multiples: Sequence[int]
) -> list[dict[str, Any]]:
    """Masked accuracy under every setting, with its paired difference to the baseline and the error of that.

    Args:
        model: in evaluation mode.
        text: masked for the trained length and each multiple of it.
        trained: tokens.
        multiples: of the trained length.
    """
    rows: list[dict[str, Any]] = []
    for name, scaling, multiple in settings(multiples):
        scaling.apply(model.config, multiple)
        print(f"{name}, {multiple * trained:,} tokens", flush=True)
        scores = score_model(model, text, multiple * trained)
        if not rows:
            baseline = scores
        difference, error = accuracy_difference(scores, baseline)
        rows.append(
            {
                "scaling": name,
                "length": multiple * trained,
                **scores.summary(),
                "difference": difference,
                "difference_se": error,
                "by_position": scores.by_position(trained),
            }
        )
    return rows


def retrieval(
    embedder: SentenceTransformer, retrieval_set: RetrievalSet, trained: int, multiples: Sequence[int], batch_size: int
) -> list[dict[str, Any]]:
    """nDCG@10 under every setting, with its paired difference to the baseline and a 95 % interval of that.

    Queries are resampled together with those of the same document: they are no independent evidence.

    Args:
        embedder: from `load_embedder`.
        retrieval_set: what to search.
        trained: tokens, of the prefix and special tokens too; queries are always cut there.
        multiples: of the trained length.
        batch_size: texts encoded at once.
    """
    documents = [min(retrieval_set.relevant[query]) for query in retrieval_set.queries]
    rows: list[dict[str, Any]] = []
    for name, scaling, multiple in settings(multiples):
        scaling.apply(encoder_of(embedder).config, multiple)
        print(f"{name}, {multiple * trained:,} tokens", flush=True)
        scores = query_scores(embedder, retrieval_set, trained, multiple * trained, batch_size)
        if not rows:
            baseline = scores
        low, high = bootstrap_interval(scores - baseline, documents)
        rows.append(
            {
                "scaling": name,
                "length": multiple * trained,
                "ndcg@10": float(scores.mean()),
                "difference": float((scores - baseline).mean()),
                "difference_low": low,
                "difference_high": high,
            }
        )
    return rows


def encoder_of(embedder: SentenceTransformer) -> NomicBertModel:
    """The encoder inside an embedder."""
    return cast(NomicBertModel, embedder[0].auto_model)


def bootstrap_interval(differences: np.ndarray, groups: Sequence[str]) -> tuple[float, float]:
    """95 % interval of the mean of differences (n,), by resampling whole groups (n,) 10,000 times, seed 0."""
    _, group = np.unique(groups, return_inverse=True)
    sums, sizes = np.bincount(group, weights=differences), np.bincount(group)
    random = np.random.default_rng(0)
    means = []
    for _ in range(_RESAMPLES):
        drawn = random.integers(len(sums), size=len(sums))
        means.append(sums[drawn].sum() / sizes[drawn].sum())
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def markdown(accuracy: list[dict[str, Any]], retrieved: dict[str, list[dict[str, Any]]], trained: int) -> str:
    """The tables: masked accuracy with standard errors, nDCG@10 with intervals, each against the trained length."""
    parts = [f"Trained at {trained:,} tokens. Differences are to reading no more than those, without scaling."]
    cells = []
    for row in accuracy:
        difference = f"{100 * row['difference']:+.2f} ± {100 * row['difference_se']:.2f}"
        score = f"{100 * row['accuracy']:.2f} ± {100 * row['accuracy_se']:.2f}"
        cells.append([*_setting(row), score, _unless_baseline(row, difference), f"{row['perplexity']:.2f}"])
    parts.append(
        f"Masked language modelling, {accuracy[0]['masked_tokens']:,} masked tokens, the same in every row; ± is one "
        "standard error, that of a difference paired by token:"
    )
    parts.append(markdown_table([*_SETTING, "masked accuracy, %", "difference, points", "perplexity"], cells))
    for name, rows in retrieved.items():
        cells = []
        for row in rows:
            difference = f"{row['difference']:+.2f} [{row['difference_low']:+.2f}, {row['difference_high']:+.2f}]"
            cells.append([*_setting(row), f"{row['ndcg@10']:.2f}", _unless_baseline(row, difference)])
        parts.append(f"Retrieval, {name}; 95 % intervals, paired by query, queries of one document drawn together:")
        parts.append(markdown_table([*_SETTING, "nDCG@10", "difference"], cells))
    return "\n\n".join(parts)


def _setting(row: dict[str, Any]) -> tuple[str, str]:
    return row["scaling"], f"{row['length']:,}"


def _unless_baseline(row: dict[str, Any], shown: str) -> str:
    return "" if row["scaling"] == _BASELINE else shown


def plot(accuracy: list[dict[str, Any]], retrieved: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """A panel of masked accuracy and one of nDCG@10 for each retrieval set, over the length; a line a scaling.

    The line across is the trained length: above it, reading more has helped. Bars are 95 % intervals of the
    difference to it.
    """
    panels_of = {"masked accuracy, %": [_with_bar(row) for row in accuracy]}
    for name, rows in retrieved.items():
        panels_of[f"nDCG@10, {name}"] = [
            {**row, "score": row["ndcg@10"], "low": row["difference_low"], "high": row["difference_high"]}
            for row in rows
        ]
    figure = Figure(figsize=(4.5 * len(panels_of) + 2, 3.5), layout="constrained")
    panels = figure.subplots(1, len(panels_of), squeeze=False)[0]
    for panel, (label, rows) in zip(panels, panels_of.items(), strict=True):
        start = rows[0]
        panel.axhline(start["score"], color="grey", linestyle="--", linewidth=1, label="cut at the trained length")
        for place, scaling in enumerate(SCALINGS):
            points = [start] + [row for row in rows if row["scaling"] == scaling.name]
            # side by side, or equal scalings and their bars would hide one another
            across = [p["length"] * 2 ** (0.04 * (place - 2.5) * (p is not start)) for p in points]
            bars = [[p["difference"] - p["low"] for p in points], [p["high"] - p["difference"] for p in points]]
            style = {"marker": "ox+sd^"[place], "linestyle": ":" if scaling.name == "none" else "-", "markersize": 5}
            scores = [p["score"] for p in points]
            panel.errorbar(across, scores, bars, label=scaling.name, elinewidth=0.7, linewidth=1.2, **style)
        lengths = sorted({row["length"] for row in rows})
        panel.set_xscale("log", base=2)
        panel.set_xticks(lengths, [f"{length:,}" for length in lengths])
        panel.set(xlabel="tokens read", ylabel=label)
        panel.grid(alpha=0.3)
    panels[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=150)


def _with_bar(row: dict[str, Any]) -> dict[str, Any]:
    """Masked accuracy in percent, and 1.96 standard errors to both sides of the difference."""
    difference, reach = 100 * row["difference"], 196 * row["difference_se"]
    score = {"score": 100 * row["accuracy"], "difference": difference}
    return {**row, **score, "low": difference - reach, "high": difference + reach}


def run(args: argparse.Namespace) -> None:
    """Measure, and write table, figures and plot."""
    data = Path(args.data)
    sets = {name: RetrievalSet.from_beir(path) for name, path in map(named_path, args.retrieval)}
    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizer")
    require_same_tokenizer(args.model, tokenizer)
    model = NomicBertForMaskedLM.from_pretrained(args.model).eval().to(args.device)
    trained = model.config.max_trained_positions
    lengths = [trained * multiple for multiple in (1, *args.multiples)]
    text = MaskedText.of(held_out_texts(data), tokenizer, lengths, args.blocks_per_text)
    accuracy = masked_accuracy(model, text, trained, args.multiples)
    retrieved = {}
    for name, retrieval_set in sets.items():
        print(f"Retrieval: {name}", flush=True)
        embedder = load_embedder(args.embedder, device=args.device)
        read = encoder_of(embedder).config.max_trained_positions
        if read != trained:
            raise ValueError(f"--embedder was trained at {read:,} tokens, --model at {trained:,}; measure them apart.")
        retrieved[name] = retrieval(embedder, retrieval_set, trained, args.multiples, args.batch_size)
    table = markdown(accuracy, retrieved, trained)
    print(table)
    result = {"trained_length": trained, "masked_accuracy": accuracy, "retrieval": retrieved}
    path = write_results("rope_scaling", result, table, Path(args.output))
    plot(accuracy, retrieved, path.with_suffix(".png"))


def main(argv: list[str]) -> None:
    """Do as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="DIR", help="a stage 1 model")
    parser.add_argument("--data", required=True, metavar="DIR", help="what stage1.py prepare wrote")
    parser.add_argument("--embedder", metavar="DIR", help="a stage 2 or 3 model, for --retrieval")
    parser.add_argument("--retrieval", nargs="+", default=[], metavar="NAME=DIR", help="sets in the BEIR layout")
    parser.add_argument("--multiples", nargs="+", type=int, default=[2, 4], help="of the trained length")
    parser.add_argument("--blocks_per_text", type=int, help="most blocks of the longest length a book (default all)")
    parser.add_argument("--batch_size", type=int, default=32, help="texts encoded at once")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", required=True, metavar="DIR", help="directory for the dated results")
    args = parser.parse_args(argv)
    if bool(args.embedder) != bool(args.retrieval):
        parser.error("--embedder and --retrieval belong together.")
    try:
        run(args)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main(sys.argv[1:])
