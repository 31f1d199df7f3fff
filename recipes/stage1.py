"""Stage 1: masked language modelling on packed blocks (paper §4.1), to a BERT with a long context.

accelerate launch recipes/stage1.py --config recipes/configs/stage1.yaml [--dry_run]

With --dry_run it prints blocks, steps, tokens and what takes memory, and trains nothing.
"""

from functools import partial

from recipes.shared.recipe import run_recipe
from textfiles.commands import run_command

main = partial(run_recipe, __doc__, "recipes.steps.stage1:stage1")

if __name__ == "__main__":
    run_command(main, "Rerun the command to resume from the newest checkpoint.")
