"""How far something long is, for whoever waits for it."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta

# Is told how many are done, and of how many.
Progress = Callable[[int, int], None]


def remaining_time(seconds: float, done: int, total: int) -> str:
    """Returns how long the rest takes at the pace so far, such as "0:01:30".

    Args:
      seconds: that what is done took.
      done: at least 1.
      total: what is done, and the rest.
    """
    return str(timedelta(seconds=round(seconds * (total - done) / done)))


@contextlib.contextmanager
def progress_bar(label: str) -> Iterator[Progress]:
    """Shows progress on standard error: a bar on a terminal, else a line each tenth."""
    # Not needed in the processes that make the episodes.
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    # A dumb terminal would show no bar before the end.
    if console.is_interactive:
        with Bar(console=console) as bar:
            task = bar.add_task(label)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    # What an earlier program did tells nothing of the pace.
    began: tuple[int, float] | None = None

    def print_tenth(done: int, total: int) -> None:
        nonlocal began
        began = began or (done, time.monotonic())
        if done * 10 // total > (done - 1) * 10 // total:
            new = done - began[0]
            seconds = time.monotonic() - began[1]
            left = remaining_time(seconds, new, total - began[0]) if new else ""
            print(
                f"{label}: {done} of {total}{left and ', remaining '}{left}",
                file=sys.stderr,
                flush=True,
            )

    yield print_tenth
