r"""Draw a map of texts: an interactive page that opens in any browser, without a server or network.

python recipes/map.py --texts corpus.jsonl --columns '[topic]' --model_name_or_path MODEL --output_dir outputs/map
python recipes/map.py --pairs '[faq.jsonl.gz, forum.parquet]' --model_name_or_path MODEL --output_dir outputs/map
python recipes/map.py --vectors vectors/ --columns '[topic]' --output_dir outputs/map    # of recipes/embed.py

Give one of texts, pairs and vectors. Of pairs, and of a directory in the BEIR layout, queries and documents are points
that are linked. Writes OUTPUT_DIR/index.html, one file to open or pass on, and map.json, which says what it shows.
Needs the extra `map`: pip install -e '.[map]'.
"""

from functools import partial

from recipes.shared.recipe import run_recipe
from textfiles.commands import run_command

main = partial(run_recipe, __doc__, "recipes.steps.map:draw_map")

if __name__ == "__main__":
    run_command(main, "Rerun the command to draw the map.")
