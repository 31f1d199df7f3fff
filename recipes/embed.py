r"""Embed a corpus: files or a hub data set -> parquet files of vectors, at any scale.

python recipes/embed.py --model_name_or_path MODEL --texts corpus/ --text_column text --id_column id \
    --prompt document --output_dir vectors
accelerate launch recipes/embed.py --model_name_or_path ...    # shards dealt out to all ranks; nodes share output_dir

Writes OUTPUT_DIR/data/*.parquet with id, vector and the columns asked for, and manifest.json. Rerun the command to
resume: finished shards are kept. The files do not depend on the number of processes.
"""

from functools import partial

from recipes.shared.recipe import run_recipe
from textfiles.commands import run_command

main = partial(run_recipe, __doc__, "recipes.steps.embed:embed")

if __name__ == "__main__":
    run_command(main)
