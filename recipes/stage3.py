"""Stage 3: contrastive finetuning on labelled pairs with hard negatives (paper §4.2.3 to §4.2.5).

accelerate launch recipes/stage3.py --config recipes/configs/stage3.yaml [--dry_run]

With --dry_run it prints sources, rows, steps, prefixes and token lengths, and trains nothing; of data sets on the
hub it fetches a few rows.
"""

from functools import partial

from recipes.shared.recipe import run_recipe
from textfiles.commands import run_command

main = partial(run_recipe, __doc__, "recipes.shared.contrastive:stage3")

if __name__ == "__main__":
    run_command(main, "Rerun the command to resume from the newest checkpoint.")
