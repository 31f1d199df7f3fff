"""The whole pipeline on real text that every installation has: train, evaluate, export and search, without a download.

make quickstart            (or: python recipes/quickstart.py [--smoke] [--output_dir outputs/quickstart])

The text is the documentation strings of the installed packages; each package is a source. A run that was interrupted
goes on where it was. `--smoke` is the same code over a slice, in about a minute.
"""

from recipes.shared.recipe import run_recipe
from textfiles.commands import run_command


def main(argv: list[str]) -> None:
    """Do as the command line says."""
    run_recipe(__doc__, "recipes.steps.quickstart:quickstart", argv)


if __name__ == "__main__":
    run_command(main)
