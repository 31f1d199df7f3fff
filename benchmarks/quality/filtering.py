"""What consistency filtering catches and costs: noise put in on purpose, and stage 2 trained on what each rule keeps.

python recipes/filter_pairs.py ... --keep_embeddings true --output_dir FILTERED
python benchmarks/quality/filtering.py noise --filtered FILTERED --output_dir OUT [--not_trained NAME...]
python benchmarks/quality/filtering.py train --arms OUT --stage1 DIR --output_dir RUNS [--only ARM...]
python benchmarks/quality/filtering.py evaluate --arms OUT --runs RUNS --data SHARED --kept_aside DATA --output results

`noise` gives a tenth of each source's rows the documents of others and judges them again; `train` takes a small stage 1
model through stage 2 on the rows of each arm, and goes on where it stopped; `evaluate` scores the models on the sets of
contrastive.py, whose `prepare` wrote DATA, and writes the tables and the plot.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.measure import markdown_table, write_results
from benchmarks.quality.contrastive_scores import EvaluationSets, KeptScores, embedder_scores, interval, resampled
from benchmarks.quality.filtering_noise import ARMS, TOP_K, figures, read_noisy, write_arms
from nomic_bert.embedder import load_embedder
from nomic_bert.files import write_json

_ROOT = Path(__file__).resolve().parents[2]
_FIGURES = "noise.json"


def noise(args: argparse.Namespace) -> None:
    """Judge the sources with noise in them, and write figures and arms."""
    directories = sorted(path for path in Path(args.filtered).iterdir() if (path / "embeddings").is_dir())
    sources = [read_noisy(directory, args.share, args.seed) for directory in directories]
    trained = [each for each in sources if each.source.name not in args.not_trained]
    counts = write_arms(trained, Path(args.output_dir))
    kept = {
        directory.name: {key: report[key] for key in ("rows", "kept", "ranks", "threshold")}
        for directory in directories
        for report in [json.loads((directory / "audit.json").read_text())]
    }
    result = {"share": args.share, "seed": args.seed, "filtered": kept, "arms": counts, **figures(sources)}
    write_json(Path(args.output_dir, _FIGURES), result)
    print(_noise_table(result))


def train(args: argparse.Namespace) -> None:
    """Train the arms that are not finished, one after the other."""
    for arm in args.only or ARMS:
        if Path(args.output_dir, arm, "final").exists():
            print(f"{arm}: finished before", flush=True)
            continue
        command = [sys.executable, str(_ROOT / "recipes" / "stage2.py")]
        for config in (_ROOT / "recipes" / "configs" / "stage2_cpu.yaml", Path(args.arms, f"{arm}.yaml")):
            command += ["--config", str(config)]
        command += ["--model_name_or_path", args.stage1, "--output_dir", str(Path(args.output_dir, arm))]
        if subprocess.run([*command, "--seed", str(args.seed)]).returncode:
            raise ValueError(f"stage2.py failed on {arm}, see above. Run this again to go on from here.")


def evaluate(args: argparse.Namespace) -> None:
    """Score the finished arms, and write tables, figures and plot."""
    sets = EvaluationSets.read(Path(args.data), Path(args.kept_aside))
    scores = {}
    for arm in ARMS:
        model = Path(args.runs, arm, "final")
        if not model.exists():
            print(f"{arm} is not finished and left out.", flush=True)
            continue
        embedder = load_embedder(str(model), max_seq_length=args.tokens, device=args.device)
        kept = KeptScores(Path(args.runs, "scores", f"{arm}.json"), model)
        scores[arm] = embedder_scores(embedder, sets, args.tokens, args.batch_size, kept)
    result = json.loads(Path(args.arms, _FIGURES).read_text())
    draws = resampled(sets, scores)
    kinds = {"STS, mean": sets.similarity, "retrieval, mean": sets.retrieval}
    for by_set in draws.values():
        by_set |= {mean: np.mean([by_set[name] for name in names], axis=0) for mean, names in kinds.items()}
    columns = list(next(iter(draws.values())))
    result["scores"] = {arm: {column: interval(by_set[column]) for column in columns} for arm, by_set in draws.items()}
    result["differences"] = {
        f"{one} - {other}": {column: interval(draws[one][column] - draws[other][column]) for column in columns}
        for one, other in (("top_k", "threshold"), ("top_k", "noisy"), ("clean", "noisy"), ("top_k", "clean"))
        if one in draws and other in draws
    }
    table = "\n\n".join([_noise_table(result), _score_table(result, columns, args.tokens)])
    print(table)
    page = write_results("filtering", result, table, Path(args.output))
    _plot(result, page.with_suffix(".png"))


def _percent(caught_and_lost: Sequence[float]) -> list[str]:
    return [f"{100 * value:.1f}" for value in caught_and_lost]


def _noise_table(result: Mapping[str, Any]) -> str:
    rows = []
    for name, each in [*result["sources"].items(), ("all", result["all"])]:
        filtered = result["filtered"].get(name)
        kept = f"{100 * filtered['kept'] / filtered['rows']:.1f}" if filtered else ""
        (caught, lost), (one, one_lost), (own, _) = (each[key] for key in ("top_k", "threshold", "own_threshold"))
        rows.append([name, f"{each['rows']:,}", kept, *_percent([lost, caught, own, one_lost, one])])
    header = [
        "source",
        "rows",
        "kept without noise",
        "lost",
        f"caught by top-{TOP_K}",
        "caught by a threshold of its own",
    ]
    header += [f"lost by one threshold, {result['threshold']:.2f}", "caught by it"]
    sweep = [[f"top-{int(k):,}", *_percent(both)] for k, both in result["top_ks"].items()]
    sweep += [[f"top-{TOP_K}, samples of {int(n):,}", *_percent(both)] for n, both in result["sample_sizes"].items()]
    sweep += [[f"cosine at least {t}", *_percent(both)] for t, both in result["thresholds"].items() if len(t) == 3]
    return "\n\n".join(
        [
            f"{100 * result['share']:.0f} % of the rows of each source have the document of another row of it. Caught: "
            "share of these that is dropped; lost: share of the others that is dropped, in percent. The thresholds are "
            f"those that lose as much as top-{TOP_K}: one of its own for each source, and one for all.",
            markdown_table(header, rows),
            markdown_table(["all sources", "caught", "lost"], sweep),
        ]
    )


def _score_table(result: Mapping[str, Any], columns: Sequence[str], tokens: int) -> str:
    rows = []
    for arm, cells in result["scores"].items():
        count = sum(result["arms"][arm].values())
        rows.append([ARMS[arm], f"{count:,}", *(f"{cells[column][0]:.1f}" for column in columns)])
    changed = [
        [name, *(f"{d:+.1f} [{low:+.1f}, {high:+.1f}]" for d, low, high in (cells[column] for column in columns))]
        for name, cells in result["differences"].items()
    ]
    return "\n\n".join(
        [
            "A small stage 2 model trained on what is left, for as many steps in each arm, one run each. Spearman's "
            f"correlation for STS, nDCG@10 for retrieval, in percent; {tokens} tokens of a text are read.",
            markdown_table(["trained on", "rows", *columns], rows),
            "Differences, with 95 % intervals by resampling pairs or queries; they do not hold the chance of a run:",
            markdown_table(["", *columns], changed),
        ]
    )


def _plot(result: Mapping[str, Any], path: Path) -> None:
    figure = Figure(figsize=(6, 4), layout="constrained")
    panel = figure.subplots()
    curves = {"one threshold for all sources": list(result["thresholds"].values()),
              "a threshold for each source, losing alike": result["own_thresholds"],
              "top-k": list(result["top_ks"].values())}  # fmt: skip
    for (name, points), marker in zip(curves.items(), (".", ".", "o"), strict=True):
        caught, lost = (100 * np.array(points)).T
        panel.plot(lost, caught, marker=marker, markersize=3 if marker == "." else 6, linewidth=1, label=name)
    for k, (caught, lost) in result["top_ks"].items():
        panel.annotate(f"{k}", (100 * lost, 100 * caught), textcoords="offset points", xytext=(4, -10), fontsize=8)
    panel.set(xlabel="other rows lost, %", ylabel="noise caught, %", xlim=(0, 60), ylim=(50, 100.5))
    panel.grid(alpha=0.3)
    panel.legend(fontsize=8)
    figure.savefig(path, dpi=150)


def main(argv: list[str]) -> None:
    """Do as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("noise", help="judge sources with noise in them, and write the arms")
    command.add_argument("--filtered", required=True, metavar="DIR", help="what recipes/filter_pairs.py wrote")
    command.add_argument("--output_dir", required=True, metavar="DIR")
    command.add_argument("--share", type=float, default=0.1, help="of the rows (default 0.1)")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--not_trained", nargs="*", default=[], metavar="NAME", help="sources that no arm trains on")
    command.set_defaults(run=noise)
    command = commands.add_parser("train", help="train stage 2 on each arm")
    command.add_argument("--arms", required=True, metavar="DIR", help="what `noise` wrote")
    command.add_argument("--stage1", required=True, metavar="DIR", help="the model to start from")
    command.add_argument("--output_dir", required=True, metavar="DIR", help="for a directory an arm")
    command.add_argument("--only", nargs="+", choices=ARMS, default=[], metavar="ARM", help=", ".join(ARMS))
    command.add_argument("--seed", type=int, default=1)
    command.set_defaults(run=train)
    command = commands.add_parser("evaluate", help="score what was trained")
    command.add_argument("--arms", required=True, metavar="DIR", help="what `noise` wrote")
    command.add_argument("--runs", required=True, metavar="DIR", help="--output_dir of `train`; scores are kept there")
    command.add_argument("--data", required=True, metavar="DIR", help="has sts and retrieval")
    command.add_argument("--kept_aside", required=True, metavar="DIR", help="what contrastive.py's `prepare` wrote")
    command.add_argument("--tokens", type=int, default=128, help="of a text that are read (default 128)")
    command.add_argument("--batch_size", type=int, default=32, help="texts encoded at once")
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
