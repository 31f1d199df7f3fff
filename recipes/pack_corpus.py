"""Pack documents into blocks for stage 1 (paper §4.1.1).

python recipes/pack_corpus.py --config recipes/configs/pack_corpus.yaml
accelerate launch recipes/pack_corpus.py --config ...    # shards dealt out to all ranks; nodes share output_dir

Rerun the command to resume: finished shards are kept. The blocks do not depend on the number of processes.
"""

from functools import partial

from recipes.shared.recipe import run_recipe
from textfiles.commands import run_command

main = partial(run_recipe, __doc__, "recipes.steps.pack_corpus:pack_corpus")

if __name__ == "__main__":
    run_command(main)
