"""Runs of a sweep on this machine, some at once."""

import collections
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from launch.runs import Session, SweepRun
from launch.status import read_status

_POLL_SECONDS = 0.1


class _Started(NamedTuple):
    session: Session
    since: float


def run_all(
    runs: Sequence[SweepRun], jobs: int, say: Callable[[str], None]
) -> int | None:
    """Does the runs in order, whatever becomes of each.

    SIGTERM and Ctrl-C let no further run start, and ask those under way to save and
    stop; a second one is handed on too, and makes them end at once. Runs at once have
    cores of their own: sharing them costs small networks up to half of their speed.

    Args:
      runs: those to be done.
      jobs: how many at once, at most.
      say: takes a line for each start and each end.

    Returns:
      The number of the signal that stopped it, None if none did.
    """
    waiting = collections.deque(runs)
    started: dict[int, _Started] = {}
    places = core_sets(jobs)
    handed_on = 0
    with _collected_signals() as received:
        try:
            while started or (waiting and not received):
                while waiting and len(started) < jobs and not received:
                    place = next(n for n in range(jobs) if n not in started)
                    run = waiting.popleft()
                    try:
                        with _on_cores(places[place]):
                            session = Session(run)
                    except OSError as error:
                        say(f"{'skipped':<8} {run.name}: {error}")
                        continue
                    started[place] = _Started(session, time.monotonic())
                    say(f"{'started':<8} {run.name}")
                while handed_on < len(received):
                    handed_on += 1
                    _terminate(one.session for one in started.values())
                for place, (session, since) in list(started.items()):
                    if session.process.poll() is not None:
                        del started[place]
                        _end(session, time.monotonic() - since, say)
                time.sleep(_POLL_SECONDS)
        finally:
            # Only an error leaves any: no run goes on that nobody watches.
            _terminate(one.session for one in started.values())
            for session, _ in started.values():
                session.finish()
    return received[0] if received else None


def core_sets(jobs: int) -> list[set[int]]:
    """Returns the cores of each of so many jobs; empty where they are not shared out.

    They are not if there are more jobs than cores, or the system cannot.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if jobs > len(cores):
        return [set() for _ in range(jobs)]
    return [set(cores[place::jobs]) for place in range(jobs)]


@contextlib.contextmanager
def _on_cores(cores: set[int]) -> Iterator[None]:
    """Lets processes that are started meanwhile run on these cores alone, if any."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


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
