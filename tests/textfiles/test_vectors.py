"""Vectors of parquet files: every form that is written, and faults that are named by file and row."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from textfiles.rows import ROWS_AT_ONCE
from textfiles.vectors import read_vectors

RANDOM = np.random.default_rng(0)
MATRIX = RANDOM.normal(size=(ROWS_AT_ONCE + 5, 16)).astype(np.float32)


def write(path, vectors, **columns):
    pq.write_table(pa.table({"vector": vectors, **columns}), path)
    return path


def fixed(matrix, kind):
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1), kind), matrix.shape[1])


def read(path, columns=()):
    batches = list(read_vectors(path, columns))
    return np.concatenate([batch.vectors for batch in batches]), [row for batch in batches for row in batch.rows]


@pytest.mark.parametrize(
    "vectors",
    [
        fixed(MATRIX, pa.float32()),
        pa.array(MATRIX.tolist(), pa.list_(pa.float32())),
        pa.array(MATRIX.tolist(), pa.large_list(pa.float64())),
    ],
    ids=["fixed-size lists", "lists", "large lists"],
)
def test_each_form_of_list_gives_the_same_vectors(tmp_path, vectors):
    file = write(tmp_path / "a.parquet", vectors, id=[str(i) for i in range(len(MATRIX))])
    found, rows = read(file, ["id"])
    assert found.dtype == np.float32 and np.array_equal(found, MATRIX)
    assert [row["id"] for row in rows] == [str(i) for i in range(len(MATRIX))]


def test_half_precision_and_bits_are_widened(tmp_path):
    half, _ = read(write(tmp_path / "half.parquet", fixed(MATRIX.astype(np.float16), pa.float16())))
    assert np.allclose(half, MATRIX, atol=4e-3)
    bits, _ = read(write(tmp_path / "bits.parquet", fixed(np.packbits(MATRIX > 0, axis=1), pa.uint8())))
    assert np.array_equal(bits, np.where(MATRIX > 0, 1, -1))


def with_row(number, value):
    values = MATRIX[:8].tolist()
    values[number] = value
    return pa.array(values, pa.list_(pa.float32()))


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (with_row(3, None), "row 4, column 'vector': null, not a vector"),
        (with_row(5, [1.0, 2.0]), "row 6, column 'vector': not 16 numbers, as the vectors above it"),
        (with_row(2, [float("nan")] * 16), "row 3, column 'vector': not all numbers are finite"),
        (pa.array(["a", "b"]), "column 'vector': holds string, not lists of numbers"),
        (pa.array([["a"], ["b"]]), "holds list<.*: string>, not lists of numbers"),
    ],
    ids=["null", "length", "nan", "text", "texts"],
)
def test_a_fault_is_named(tmp_path, vectors, message):
    with pytest.raises(ValueError, match=message) as error:
        read(write(tmp_path / "bad.parquet", vectors))
    assert str(tmp_path / "bad.parquet") in str(error.value)


def test_a_length_is_kept_from_one_batch_to_the_next(tmp_path):
    values = [[1.0, 2.0]] * ROWS_AT_ONCE + [[1.0]]
    with pytest.raises(ValueError, match=f"row {ROWS_AT_ONCE + 1}, .*not 2 numbers"):
        read(write(tmp_path / "bad.parquet", pa.array(values, pa.list_(pa.float32()))))


def test_a_missing_column_is_named(tmp_path):
    with pytest.raises(ValueError, match="no column 'embedding'; the columns are vector"):
        list(read_vectors(write(tmp_path / "a.parquet", fixed(MATRIX, pa.float32())), vector="embedding"))
