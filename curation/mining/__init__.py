"""Hard negatives: the documents of a corpus that are nearest to a query and do not belong to it, or random ones."""
