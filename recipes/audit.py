"""Look at sources of pairs before training on them: lengths, repetitions, overlap with evaluation sets, sample rows.

python recipes/audit.py my_pairs.jsonl.gz more/ --tokenizer bert-base-uncased --output_dir outputs/audit
python recipes/audit.py --sources_from recipes/configs/stage2.yaml --evaluation_sets '[beir/scifact]' --tokenizer ...
torchrun --standalone --nproc_per_node 8 recipes/audit.py ...    # reading is dealt out to all ranks

Words before the first --key are sources: files, directories, patterns or hub names, with the columns query and
document. Writes audit.md (a page to read), audit.json and plots to OUTPUT_DIR. Rerun the command to resume: shards that
were read are kept. The result does not depend on the number of processes. While it runs, it takes up to 40 bytes of
disk a row; at the end, the first process takes up to 35 bytes of memory for each row of the largest source.
"""

import json

from recipes.shared.recipe import run_recipe
from textfiles.commands import run_command


def main(argv: list[str]) -> None:
    """Read the command line, with the words before its first key as sources, and audit them."""
    words = next((place for place, word in enumerate(argv) if word.startswith("-")), len(argv))
    files = ["--files", json.dumps(argv[:words])] if words else []
    run_recipe(__doc__, "recipes.steps.audit:audit", [*files, *argv[words:]])


if __name__ == "__main__":
    run_command(main)
