"""Seconds of training, less those of evaluations and saves."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Seconds of training between two laps, less those of pauses. It stands still until it is started."""

    def __init__(self) -> None:
        self._since: float | None = None

    @property
    def runs(self) -> bool:
        """Whether it was started."""
        return self._since is not None

    def start(self) -> None:
        """Begin a lap now."""
        self._since = time.perf_counter()

    def lap(self) -> float:
        """Seconds since the last lap began, without pauses; the next lap begins."""
        now = time.perf_counter()
        assert self._since is not None
        seconds, self._since = now - self._since, now
        return seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The time inside does not count."""
        before = time.perf_counter()
        yield
        if self._since is not None:
            self._since += time.perf_counter() - before
