"""NumPy arrays in files: written whole or not at all, and never pickled."""

import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from .atomic import atomic_file


def write_array(path: str | os.PathLike, array: np.ndarray) -> None:
    """Write an array to a .npy file."""
    with atomic_file(path) as partial, open(partial, "wb") as file:
        np.save(file, array, allow_pickle=False)


def write_arrays(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name to a .npz file."""
    with atomic_file(path) as partial, open(partial, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_array(path: str | os.PathLike, remedy: str) -> np.ndarray:
    """Read a .npy file.

    Args:
        path: the file.
        remedy: what to do if it cannot be read, as a sentence for the error.

    Raises:
        ValueError: the file is damaged.
    """
    with _naming_damage(path, remedy):
        return np.load(path)


def read_arrays(path: str | os.PathLike, remedy: str) -> dict[str, np.ndarray]:
    """Read a .npz file; arguments and errors are those of `read_array`."""
    with _naming_damage(path, remedy), np.load(path) as arrays:
        return dict(arrays)


@contextmanager
def _naming_damage(path: str | os.PathLike, remedy: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is damaged ({error}). {remedy}") from error
