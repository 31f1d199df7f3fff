"""Raw text to training files: sources, packing, duplicates, exact search and hard negatives (paper §4)."""
