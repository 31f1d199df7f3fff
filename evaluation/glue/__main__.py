"""Fine-tune models on GLUE as in the paper's §5.1 and write one JSON a run, and a table.

python -m evaluation.glue MODEL [MODEL ...] --output_dir DIR [--tier quick] [--data_dir DIR] [--file stsb_train=FILE]

Results are in DIR/<label>: runs/*.json, summary.json. Started again, the command goes on where it was stopped; started
on several machines with the same DIR, they share the runs. rte, stsb and mrpc start from MNLI where mnli is among the
tasks: from the run with the median seed of its best configuration.

Tiers, with the published sizes of the data (a step is 16 or 32 rows):
{costs}
For the 137 million weights of nomic-bert, full is estimated, not measured, at 56 to 111 hours and small at 1.2 to 2.4
hours of one GPU. Each of MNLI's runs keeps its weights until the best is known (550 MB each for nomic-bert).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from evaluation.glue.protocol import TIERS, Protocol, costs
from evaluation.glue.tasks import GLUE
from textfiles.commands import run_command


def main(argv: Sequence[str] | None = None) -> None:
    """Run as the command line says; the exit status is 1 where a run failed."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = _parser().parse_args(argv)
    from evaluation.glue.command import run_glue  # imports torch, which --help does not need

    run_glue(args, argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.glue",
        description=(__doc__ or "").format(costs=costs()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    protocol = Protocol()
    parser.add_argument("models", nargs="+", metavar="MODEL", help="checkpoint directory or hub name")
    parser.add_argument("--output_dir", type=Path, required=True, help="results go to OUTPUT_DIR/<label>")
    parser.add_argument("--label", help="name of the one model in results; by default its directory's or hub name")
    parser.add_argument("--tier", choices=TIERS, default="full", help="which runs; the next four replace parts of it")
    parser.add_argument("--tasks", nargs="+", choices=GLUE, metavar="TASK", help=", ".join(GLUE))
    parser.add_argument("--batch_sizes", nargs="+", type=int, metavar="ROWS")
    parser.add_argument("--learning_rates", nargs="+", type=float, metavar="RATE")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED")
    parser.add_argument("--epochs", type=int, default=protocol.epochs, help="default: %(default)s, as in the paper")
    parser.add_argument("--max_seq_length", type=int, default=protocol.max_seq_length, help="tokens (%(default)s)")
    parser.add_argument("--weight_decay", type=float, default=protocol.weight_decay, help="default: %(default)s")
    parser.add_argument("--data_dir", type=Path, help="holds TASK_train and TASK_dev files; default: the hub's GLUE")
    parser.add_argument("--file", action="append", default=[], metavar="SPLIT=PATH", help="such as stsb_train=PATH")
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--mnli_start", metavar="MODEL", help="checkpoint that rte, stsb and mrpc start from")
    start.add_argument(
        "--mnli_stand_in", type=Path, metavar="FILE", help="premises, hypotheses and labels to train one"
    )
    parser.add_argument("--processes", type=int, help="workers, each with one GPU; default: the GPUs seen, else 1")
    parser.add_argument("--save_steps", type=int, default=2000, help="steps between a run's checkpoints (%(default)s)")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    run_command(main)
