"""Fine-tune models on GLUE as in the paper's §5.1 and write a JSON file for each run, and a table.

python -m evaluation.glue MODEL [MODEL ...] --output_dir DIR [--tier quick] [--data_dir DIR] [--file stsb_train=FILE]

Results are in DIR/<label>: runs/*.json, summary.json. Rerun the command to resume. On several GPUs start it once for
each, with CUDA_VISIBLE_DEVICES, and on several machines once on each, with the same DIR: the processes share the runs.
rte, stsb and mrpc start from MNLI where mnli is among the tasks: from the run with the median seed of its best
configuration.

Tiers, with the published sizes of the data (a step is 16 or 32 rows):
{costs}
For the 137 million weights of nomic-bert, full is estimated, not measured, at 56 to 111 hours and small at 1.2 to 2.4
hours of one GPU. Each of MNLI's runs keeps its weights until the best is known (550 MB each for nomic-bert).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from evaluation.glue.protocol import TIERS, Protocol, costs
from evaluation.glue.tasks import GLUE
from textfiles.commands import run_command
from textfiles.paths import output_directory


def main(argv: Sequence[str]) -> None:
    """Run the command line; the exit status is 1 if a run failed."""
    args = _parser().parse_args(argv)
    from evaluation.glue.command import run_glue  # imports torch, which --help does not need

    run_glue(args)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation.glue",
        description=(__doc__ or "").format(costs=costs()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    protocol = Protocol()
    parser.add_argument("models", nargs="+", metavar="MODEL", help="checkpoint directory or hub name")
    parser.add_argument("--output_dir", type=output_directory, required=True, help="results go to OUTPUT_DIR/<label>")
    parser.add_argument("--label", help="name of the model in results; default: its directory's or hub name")
    parser.add_argument("--tier", choices=TIERS, default="full", help="the runs; the next four options replace parts")
    parser.add_argument("--tasks", nargs="+", choices=GLUE, metavar="TASK", help=", ".join(GLUE))
    parser.add_argument("--batch_sizes", nargs="+", type=int, metavar="ROWS", help="batch sizes of the grid")
    parser.add_argument("--learning_rates", nargs="+", type=float, metavar="RATE", help="learning rates of the grid")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="a run for each")
    parser.add_argument("--epochs", type=int, default=protocol.epochs, help="default: %(default)s, as in the paper")
    parser.add_argument("--max_seq_length", type=int, default=protocol.max_seq_length, help="tokens (%(default)s)")
    parser.add_argument("--weight_decay", type=float, default=protocol.weight_decay, help="default: %(default)s")
    parser.add_argument("--data_dir", type=Path, help="has TASK_train and TASK_dev files; default: the hub's GLUE")
    parser.add_argument("--file", action="append", default=[], metavar="SPLIT=PATH", help="such as stsb_train=PATH")
    parser.add_argument("--mnli_start", metavar="MODEL", help="checkpoint that rte, stsb and mrpc start from")
    parser.add_argument("--save_steps", type=int, default=2000, help="steps between a run's checkpoints (%(default)s)")
    parser.add_argument("--tokenizer", metavar="NAME", help="directory or hub name, for a MODEL that has none")
    parser.add_argument("--trust_remote_code", action="store_true", help="run the code of the models' repositories")
    return parser


if __name__ == "__main__":
    run_command(main)
