"""Stage 3: contrastive finetuning on labelled pairs with hard negatives (paper §4.2.3 to §4.2.5).

accelerate launch recipes/stage3.py --config recipes/configs/stage3.yaml [--dry_run]

With --dry_run it prints sources, rows, steps, prefixes and token lengths, and trains nothing; of data sets on the
hub it fetches a few rows.
"""

import sys

from recipes.shared.contrastive import train_contrastive

if __name__ == "__main__":
    train_contrastive(__doc__, sys.argv[1:], with_negatives=True)
