"""Train, evaluate, export and search with a small model, on text that every installation has: nothing is downloaded.

make quickstart            (or: python recipes/quickstart.py [--smoke] [--output_dir outputs/quickstart])

The text is the documentation strings of installed Python packages; each package is a source. Rerun the command to
resume an interrupted run. --smoke does the same with a slice of the text, in about two minutes.
"""

from functools import partial

from recipes.shared.recipe import run_recipe
from textfiles.commands import run_command

main = partial(run_recipe, __doc__, "recipes.steps.quickstart:quickstart")

if __name__ == "__main__":
    run_command(main)
