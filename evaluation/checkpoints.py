"""Opening checkpoints: an error about a damaged file names the checkpoint."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

_DAMAGES = (SafetensorError, EOFError, RecursionError, OverflowError, json.JSONDecodeError, UnicodeDecodeError)


@contextmanager
def readable_checkpoint(checkpoint: str) -> Iterator[None]:
    """Turn what libraries raise for damaged files into one line that names the checkpoint.

    Args:
        checkpoint: directory or hub name that is opened within.

    Raises:
        ValueError: a file is cut short or holds something else.
    """
    try:
        yield
    except _DAMAGES as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{checkpoint} has a damaged file ({reason}). Fetch or write the checkpoint again.") from error
