"""Mine hard negatives for pairs with an embedder (paper §4.2.4).

python recipes/mine_negatives.py --config recipes/configs/mine_negatives.yaml
accelerate launch recipes/mine_negatives.py --config ...    # shards dealt out to all ranks; nodes share output_dir

Writes OUTPUT_DIR/NAME/pairs-*.jsonl.gz for each source: its rows with a column of negatives. The directory is what
stage 3 takes as the source's path; report.md in it is to read. Started again, it makes the shards that are missing.
The files do not depend on the number of processes.
"""

from recipes.shared.recipe import run_recipe
from textfiles.commands import run_command


def main(argv: list[str]) -> None:
    """Do as the command line says."""
    run_recipe(__doc__, "recipes.steps.mine_negatives:mine_negatives", argv)


if __name__ == "__main__":
    run_command(main)
