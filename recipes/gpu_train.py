r"""Train a 12-layer embedder through all three stages on one GPU, on the quickstart's text: ten minutes (estimated).

python recipes/gpu_train.py --text_only              # anywhere: reads, tokenizes and packs the text
make gpu-train                                       # on a GPU: stages 1 to 3, evaluation, table, what is to come back

The second continues what the first left in outputs/gpu_train. Rerun it to resume. --smoke tries all of it on a CPU.
"""

from functools import partial

from recipes.shared.recipe import run_recipe
from textfiles.commands import run_command

main = partial(run_recipe, __doc__, "recipes.steps.gpu_train:gpu_train")

if __name__ == "__main__":
    run_command(main)
