"""Stage 2: weakly supervised contrastive pretraining on pairs of many sources (paper §4.2).

accelerate launch recipes/stage2.py --config recipes/configs/stage2.yaml [--dry_run]

With --dry_run it prints sources, rows, steps, prefixes and token lengths, and trains nothing; of data sets on the
hub it fetches a few rows.
"""

from pathlib import Path

from recipes.shared.recipe import run_recipe
from textfiles.commands import run_command


def main(argv: list[str]) -> Path | None:
    """Read the command line and train; returns the directory of the finished model, None after a dry run."""
    return run_recipe(__doc__, "recipes.shared.contrastive:stage2", argv)


if __name__ == "__main__":
    run_command(main, "Rerun the command to resume from the newest checkpoint.")
