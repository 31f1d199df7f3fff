"""Which rows have a hard negative: checked before training, so that it does not stop midway for want of one."""

import numpy as np
import pyarrow as pa
from datasets import Dataset

_ROWS_AT_ONCE = 100_000


def have_negatives(pairs: Dataset) -> np.ndarray:
    """Whether each row's list holds a text other than the row's own document.

    Only list lengths and first texts are read, and whole lists where the first text is the document.

    Args:
        pairs: with the columns `document` and `negatives` (a list of texts).

    Returns:
        (rows,) bool.
    """
    found = [np.zeros(0, dtype=bool)]
    for table in pairs.select_columns(["document", "negatives"]).with_format("arrow").iter(_ROWS_AT_ONCE):
        found += [_have_negatives(batch) for batch in table.to_batches()]
    return np.concatenate(found)


def _have_negatives(batch: pa.RecordBatch) -> np.ndarray:
    documents, lists = batch.column("document"), batch.column("negatives")
    if pa.types.is_fixed_size_list(lists.type):
        lists = lists.cast(pa.list_(lists.type.value_type))
    if lists.null_count:
        lists = lists.fill_null([])
    offsets = lists.offsets.to_numpy()
    found = np.diff(offsets) > 0
    filled = np.flatnonzero(found)
    firsts = lists.values.take(pa.array(offsets[filled]))
    own = documents.take(pa.array(filled))
    alike = [first == document for first, document in zip(firsts.to_pylist(), own.to_pylist(), strict=True)]
    for row in filled[np.array(alike, dtype=bool)].tolist():
        found[row] = any(text != documents[row].as_py() for text in lists[row].as_py())
    return found
