"""Make pairs of raw data sets, by rules (paper §4.2.1).

python recipes/make_pairs.py --config recipes/configs/raw_sources.yaml --dry_run
python recipes/make_pairs.py --config recipes/configs/raw_sources.yaml --only '[squad, gooaq]'
accelerate launch recipes/make_pairs.py --config ...    # shards dealt out to all ranks; nodes share output_dir

Each source gets a directory with its pairs, report.md and report.json. Started again, shards that are missing are
made. The files do not depend on the number of processes.
"""

from recipes.shared.recipe import run_recipe
from textfiles.commands import run_command


def main(argv: list[str]) -> None:
    """Do as the command line says."""
    run_recipe(__doc__, "recipes.steps.make_pairs:make_pairs", argv)


if __name__ == "__main__":
    run_command(main)
