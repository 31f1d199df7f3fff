"""Vectors in parquet files, as `recipes/embed.py` writes them: a column of lists of numbers, and others beside it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm.auto import tqdm

from .rows import ROWS_AT_ONCE, naming_damage, open_parquet, require_columns

VECTOR = "vector"


class VectorBatch(NamedTuple):
    """Consecutive rows of one file.

    Attributes:
        where: what to call them in an error: `f"{where} {numbers[i]}"`.
        numbers: of the rows, counted from 1.
        vectors: (rows, dim) in float32. The bits of vectors of bytes without sign are -1 and 1.
        rows: column -> value.
    """

    where: str
    numbers: range
    vectors: np.ndarray
    rows: list[dict[str, Any]]


def read_vectors(
    file: Path, columns: Sequence[str] = (), vector: str = VECTOR, progress: tqdm | None = None
) -> Iterator[VectorBatch]:
    """Yield the rows of a parquet file with their vectors, `ROWS_AT_ONCE` at a time.

    Args:
        file: the file.
        columns: other columns to read.
        vector: column of the vectors: lists of numbers, of one length. Bytes without sign hold 8 dimensions each, as
            sentence-transformers' `ubinary`.
        progress: a bar that counts rows.

    Raises:
        ValueError: the file is damaged or lacks a column; or a vector is null, has another length than the first of
            the file, or holds what is not a finite number. The message names file and row.
    """
    with open_parquet(file) as parquet:
        require_columns(parquet.schema_arrow.names, [vector, *columns], str(file))
        found = parquet.schema_arrow.field(vector).type
        _check_type(found, f"{file}, column {vector!r}")
        bits = pa.types.is_uint8(found.value_type)
        first, dim = 1, None  # dim: numbers in a list, bytes of bits among them
        batches = parquet.iter_batches(ROWS_AT_ONCE, columns=[vector, *columns])
        while True:
            with naming_damage(file, first - 1):
                batch = next(batches, None)
            if batch is None:
                return
            numbers = range(first, first + len(batch))
            vectors = _matrix(batch.column(vector), dim, f"{file}, row", numbers, vector)
            dim = vectors.shape[1] // (8 if bits else 1)
            rows = batch.select(list(columns)).to_pylist() if columns else [{} for _ in numbers]
            yield VectorBatch(f"{file}, row", numbers, vectors, rows)
            first = numbers.stop
            if progress is not None:
                progress.update(len(numbers))


def _check_type(found: pa.DataType, where: str) -> None:
    is_list = pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found)
    if not is_list or not (pa.types.is_floating(found.value_type) or pa.types.is_integer(found.value_type)):
        raise ValueError(f"{where}: holds {found}, not lists of numbers; name another column.")


def _matrix(column: pa.Array, dim: int | None, where: str, numbers: range, name: str) -> np.ndarray:
    def refuse(bad: np.ndarray, what: str) -> None:
        if bad.any():
            number = numbers[int(bad.argmax())]
            raise ValueError(f"{where} {number}, column {name!r}: {what}; correct or remove the row.")

    refuse(np.asarray(column.is_null()), "null, not a vector")
    lengths = np.asarray(pc.list_value_length(column))
    wanted = lengths[0] if dim is None else dim
    refuse(lengths != wanted, f"not {wanted} numbers, as the vectors above it")
    values = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), wanted)
    if values.dtype == np.uint8:
        return np.unpackbits(values, axis=1).astype(np.float32) * 2 - 1
    values = values.astype(np.float32)
    refuse(~np.isfinite(values).all(axis=1), "not all numbers are finite")
    return values
