"""Stage 2: weakly supervised contrastive pretraining on pairs of many sources (paper §4.2).

accelerate launch recipes/stage2.py --config recipes/configs/stage2.yaml [--dry_run]

With --dry_run it prints sources, rows, steps, prefixes and token lengths, and trains nothing; of data sets on the
hub it fetches a few rows.
"""

from functools import partial

from recipes.shared.recipe import run_recipe
from textfiles.commands import run_command

main = partial(run_recipe, __doc__, "recipes.shared.contrastive:stage2")

if __name__ == "__main__":
    run_command(main, "Rerun the command to resume from the newest checkpoint.")
