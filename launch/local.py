"""Runs of a sweep on this machine, some at once."""

import collections
import contextlib
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from launch.runs import Session, SweepRun
from launch.status import read_status

_POLL_SECONDS = 0.1


def run_all(
    runs: Sequence[SweepRun], jobs: int, say: Callable[[str], None]
) -> int | None:
    """Does the runs in order, whatever becomes of each.

    SIGTERM and Ctrl-C let no further run start, and ask those under way to save and
    stop; a second one is handed on too, and makes them end at once.

    Args:
      runs: those to be done.
      jobs: how many at once, at most.
      say: takes a line for each start and each end.

    Returns:
      The number of the signal that stopped it, None if none did.
    """
    waiting = collections.deque(runs)
    started: dict[Session, float] = {}
    handed_on = 0
    with _collected_signals() as received:
        try:
            while started or (waiting and not received):
                while waiting and len(started) < jobs and not received:
                    _start(waiting.popleft(), started, say)
                while handed_on < len(received):
                    handed_on += 1
                    _terminate(started)
                for session in [*started]:
                    if session.process.poll() is not None:
                        _end(session, time.monotonic() - started.pop(session), say)
                time.sleep(_POLL_SECONDS)
        finally:
            # Only an error leaves any: no run goes on that nobody watches.
            _terminate(started)
            for session in started:
                session.finish()
    return received[0] if received else None


def _start(
    run: SweepRun, started: dict[Session, float], say: Callable[[str], None]
) -> None:
    try:
        session = Session(run)
    except OSError as error:
        say(f"{'skipped':<8} {run.name}: {error}")
        return
    started[session] = time.monotonic()
    say(f"{'started':<8} {run.name}")


def _end(session: Session, seconds: float, say: Callable[[str], None]) -> None:
    session.finish()
    status = read_status(session.run)
    reason = f": {status.error}" if status.error else ""
    say(f"{status.state:<8} {session.run.name} after {_duration(seconds)}{reason}")


def _terminate(sessions: Iterable[Session]) -> None:
    for session in sessions:
        session.process.terminate()


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"


@contextlib.contextmanager
def _collected_signals() -> Iterator[list[int]]:
    """Lets SIGTERM and SIGINT do nothing but join the list, in order."""
    received: list[int] = []
    previous = {
        number: signal.signal(number, lambda number, frame: received.append(number))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
