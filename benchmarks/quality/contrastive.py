"""What stages 2 and 3 teach: similarity and retrieval after each stage, and what one change to the training costs.

python benchmarks/quality/contrastive.py prepare --data DIR --output_dir OUT
python benchmarks/quality/contrastive.py train --data OUT --stage1 SEED=DIR... --output_dir RUNS [--only NAME...]
python benchmarks/quality/contrastive.py evaluate --runs RUNS --stage1 SEED=DIR... --data DIR --kept_aside OUT
    [--reference NAME=DIR...] --output results

`prepare` writes the sources of both stages, without what is evaluated on, and two sets of questions kept aside. `train`
takes each seed's stage 1 model through stage 2, mining and stage 3, and trains the ablations from the first seed's; it
goes on where it stopped, and several with different --only may run at once. `evaluate` keeps its scores for each model.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from benchmarks.measure import write_results
from benchmarks.quality import contrastive_data, contrastive_report
from benchmarks.quality.contrastive_runs import STAGE_2_ABLATIONS, STAGE_3_ABLATIONS, WITHOUT_PREFIXES, Runs
from benchmarks.quality.contrastive_scores import EvaluationSets, KeptScores, bm25_scores, embedder_scores, resampled
from benchmarks.quality.stage1 import named_path
from nomic_bert.embedder import load_embedder


def prepare(args: argparse.Namespace) -> None:
    """Write sources, sets kept aside and config overlays."""
    caps = args.stage2_rows, args.stage3_rows
    counts = contrastive_data.prepare(Path(args.data), Path(args.output_dir), caps, args.kept_aside, args.seed)
    print(json.dumps(counts, indent=2))


def train(args: argparse.Namespace) -> None:
    """Train what is not finished."""
    runs = Runs(Path(args.output_dir), Path(args.data), stage1_models(args.stage1), args.stage3_rows)
    runs.train(args.only)


def evaluate(args: argparse.Namespace) -> None:
    """Score every finished model, and write tables, figures and plot."""
    kept_aside, directory = Path(args.kept_aside), Path(args.runs)
    runs = Runs(directory, kept_aside, stage1_models(args.stage1))
    sets = EvaluationSets.read(Path(args.data), kept_aside)
    references = dict(map(named_path, args.reference))
    models = models_of(runs) | references
    scores = {"BM25": bm25_scores(sets)}
    for name, path in models.items():
        print(f"Scoring {name}", flush=True)
        embedder = (
            SentenceTransformer(path, device=args.device)
            if name in references
            else load_embedder(path, max_seq_length=args.tokens, device=args.device)
        )
        if name == WITHOUT_PREFIXES:
            embedder.prompts = dict.fromkeys(embedder.prompts, "")
        kept = KeptScores(directory / "scores" / f"{name}.json", Path(path))
        scores[name] = embedder_scores(embedder, sets, args.tokens, args.batch_size, kept)
    report = contrastive_report.Report(resampled(sets, scores), list(runs.stage1), ["BM25", *references], sets)
    table = report.markdown(args.tokens)
    print(table)
    data = json.loads((kept_aside / "counts.json").read_text())
    result: dict[str, Any] = {"tokens": args.tokens, "sizes": sets.sizes(), "data": data, **report.figures()}
    page = write_results("contrastive_quality", result, table, Path(args.output))
    report.plot(page.with_suffix(".png"))


def models_of(runs: Runs) -> dict[str, str]:
    """Name -> directory of every seed's models and of the ablations that are finished.

    Raises:
        ValueError: a seed's stage 2 or 3 is not finished; names it.
    """
    models = {f"stage1-{seed}": path for seed, path in runs.stage1.items()}
    for name in [f"stage{number}-{seed}" for number in (2, 3) for seed in runs.stage1]:
        if not runs.finished(name):
            raise ValueError(f"{name} is not finished. Train it, or leave its seed out of --stage1.")
        models[name] = str(runs.output(name))
    for name in (*STAGE_2_ABLATIONS, *STAGE_3_ABLATIONS):
        if runs.finished(name):
            models[name] = str(runs.output(name))
        else:
            print(f"{name} is not finished and left out.", flush=True)
    return models


def stage1_models(arguments: Sequence[str]) -> dict[int, str]:
    """Read `SEED=DIR` arguments, in their order.

    Raises:
        ValueError: one is not of that form, or a seed stands twice.
    """
    models: dict[int, str] = {}
    for argument in arguments:
        seed, path = named_path(argument)
        if not seed.isdecimal() or int(seed) in models:
            raise ValueError(f"--stage1 {argument!r}: give SEED=DIR, each seed a whole number and given once.")
        models[int(seed)] = path
    return models


def main(argv: list[str]) -> None:
    """Do as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("prepare", help="write sources, sets kept aside and config overlays")
    command.add_argument("--data", required=True, metavar="DIR", help="has pairs, nli, sts and retrieval")
    command.add_argument("--output_dir", required=True, metavar="DIR")
    command.add_argument("--stage2_rows", type=int, default=14_000, help="most rows of a source (default 14,000)")
    command.add_argument("--stage3_rows", type=int, default=6_000, help="most rows of a source (default 6,000)")
    command.add_argument("--kept_aside", type=int, default=1_000, help="pairs kept aside of each of two sources")
    command.add_argument("--seed", type=int, default=0)
    command.set_defaults(run=prepare)
    command = commands.add_parser("train", help="train stages 2 and 3 and the ablations")
    command.add_argument("--data", required=True, metavar="DIR", help="what `prepare` wrote")
    command.add_argument("--stage1", nargs="+", required=True, metavar="SEED=DIR", help="ablations take the first")
    command.add_argument("--output_dir", required=True, metavar="DIR", help="for a directory a run")
    command.add_argument("--stage3_rows", type=int, default=1_200, help="rows of a source in an epoch (default 1,200)")
    command.add_argument("--only", nargs="+", default=[], metavar="NAME", help="runs, such as stage2-1 negatives-1")
    command.set_defaults(run=train)
    command = commands.add_parser("evaluate", help="score what was trained")
    command.add_argument("--runs", required=True, metavar="DIR", help="--output_dir of `train`; scores are kept there")
    command.add_argument("--stage1", nargs="+", required=True, metavar="SEED=DIR", help="as for `train`")
    command.add_argument("--data", required=True, metavar="DIR", help="has sts and retrieval")
    command.add_argument("--kept_aside", required=True, metavar="DIR", help="what `prepare` wrote")
    command.add_argument("--reference", nargs="+", default=[], metavar="NAME=DIR", help="sentence-transformers models")
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
