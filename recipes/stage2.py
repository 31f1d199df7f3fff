"""Stage 2: weakly supervised contrastive pretraining on pairs of many sources (paper §4.2).

accelerate launch recipes/stage2.py --config recipes/configs/stage2.yaml [--dry_run]

With --dry_run it prints sources, rows, steps, prefixes and token lengths, and trains nothing; of data sets on the
hub it fetches a few rows.
"""

import sys

from recipes.shared.contrastive import train_contrastive

if __name__ == "__main__":
    train_contrastive(__doc__, sys.argv[1:], with_negatives=False)
