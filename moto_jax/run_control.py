"""A run and its process: requests to stop, passing time, unused memory."""

import collections
import contextlib
import ctypes
import signal
import time
from collections.abc import Iterator
from typing import Any


class StopRequest:
    """Whether someone asked the run to stop; SIGTERM and Ctrl-C do.

    The first signal asks: the update under way ends, the state is saved. The second
    acts at once, as it would without this class.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *unused: object) -> None:
        self._restore()

    def _take(self, number: int, frame: Any) -> None:
        self.signal_number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()


class Stopwatch:
    """Seconds spent in each part of a run, over all its sessions."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = collections.defaultdict(float)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts the time inside the context toward `name`."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] += time.monotonic() - start


def return_free_memory() -> None:
    """Gives freed heap pages back to the system, where the C library can (glibc).

    Compiling an update leaves a gigabyte of them behind, which would stay resident for
    the whole run.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
