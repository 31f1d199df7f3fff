"""Mine hard negatives for pairs with an embedder (paper §4.2.4).

python recipes/mine_negatives.py --config recipes/configs/mine_negatives.yaml
accelerate launch recipes/mine_negatives.py --config ...    # shards dealt out to all ranks; nodes share output_dir

For each source, writes OUTPUT_DIR/NAME/pairs-*.jsonl.gz, its rows with a column of negatives, and report.md, a page to
read. Stage 3 takes the directory as the source's path. Rerun the command to resume: finished shards are kept. The files
do not depend on the number of processes.
"""

from functools import partial

from recipes.shared.recipe import run_recipe
from textfiles.commands import run_command

main = partial(run_recipe, __doc__, "recipes.steps.mine_negatives:mine_negatives")

if __name__ == "__main__":
    run_command(main)
