"""Filter pairs by consistency: keep a row if its document is among the nearest to its query (paper §4.2.1).

python recipes/filter_pairs.py --config recipes/configs/filter_pairs.yaml
accelerate launch recipes/filter_pairs.py --config ...    # samples dealt out to all ranks; nodes share output_dir

For each source, writes OUTPUT_DIR/NAME/kept/*.jsonl.gz, a directory that training takes as the source's path, and
audit.md, a page to read. Rerun the command to resume: samples that were judged are kept. The result does not depend on
the number of processes.
"""

from functools import partial

from recipes.shared.recipe import run_recipe
from textfiles.commands import run_command

main = partial(run_recipe, __doc__, "recipes.steps.filter_pairs:filter_pairs")

if __name__ == "__main__":
    run_command(main)
