"""What happens to a run from outside: a request to stop, and the passing of time."""

import collections
import contextlib
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
