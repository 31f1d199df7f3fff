"""Make pairs from raw data sets by rules (paper §4.2.1).

python recipes/make_pairs.py --config recipes/configs/raw_sources.yaml --dry_run
python recipes/make_pairs.py --config recipes/configs/raw_sources.yaml --only '[squad, gooaq]'
accelerate launch recipes/make_pairs.py --config ...    # shards dealt out to all ranks; nodes share output_dir

For each source, writes a directory with its pairs, report.md and report.json. Rerun the command to resume: finished
shards are kept. The files do not depend on the number of processes.
"""

from functools import partial

from recipes.shared.recipe import run_recipe
from textfiles.commands import run_command

main = partial(run_recipe, __doc__, "recipes.steps.make_pairs:make_pairs")

if __name__ == "__main__":
    run_command(main)
