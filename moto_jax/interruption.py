"""What Ctrl-C and SIGTERM do to a program, from its first import to its last line.

They end it with status 130 or 143 and one sentence, whatever it is doing. An exception
alone would come late where it computes outside Python, as a traceback from a library
that wraps it, or not at all from a callback, which swallows it.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)

# Seconds after which a program that goes on is asked again, and how often.
_AGAIN, _TIMES = 0.5, 20


def end_at_once(number: int, frame: Any) -> None:
    """A handler that ends the process as it is: what was written before is whole."""
    del frame
    _say(f"ended at once by {signal.Signals(number).name}")
    _leave(number)


def tidy_up_and_end(number: int, frame: Any) -> None:
    """A handler that unwinds what the program is in; a second signal ends it at once.

    Files that are being written are removed, and processes ended.
    """
    del frame
    handle_with(end_at_once)
    _say(
        f"interrupted by {signal.Signals(number).name}: nothing half-written stays, "
        "and the same command can be given again"
    )
    sys.unraisablehook = _tell_others
    _received.append(number)
    signal.signal(signal.SIGALRM, lambda *unused: sys.exit(128 + number))
    threading.Thread(target=_insist, args=[number], daemon=True).start()
    sys.exit(128 + number)


@contextlib.contextmanager
def handled() -> Iterator[None]:
    """Lets signals unwind what the context holds."""
    before = [signal.getsignal(number) for number in SIGNALS]
    handle_with(tidy_up_and_end)
    try:
        yield
    finally:
        _unwound.set()
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        # The interpreter's end would wait for a thread that compiles, or take it along
        # in the midst of C++, which aborts the process.
        if _received and any(map(_computes, threading.enumerate())):
            _leave(_received[0])


def handle_with(handler: Any) -> None:
    """Sets the handler of both signals."""
    for number in SIGNALS:
        signal.signal(number, handler)


_unwound = threading.Event()

# The number of the signal that the program is ending by, if any.
_received: list[int] = []


def _computes(thread: threading.Thread) -> bool:
    return thread is not threading.main_thread() and not thread.daemon


def _insist(number: int) -> None:
    """Asks the main thread again, now and then; at last ends the process."""
    for _ in range(_TIMES):
        time.sleep(_AGAIN)
        if not _unwound.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
    _leave(number)


def _tell_others(unraisable: Any) -> None:
    """Says what a callback could not raise, unless it is the program's end."""
    if not issubclass(unraisable.exc_type, SystemExit):
        sys.__unraisablehook__(unraisable)


def _say(sentence: str) -> None:
    # Not through Python's streams, which the signal may have interrupted.
    with contextlib.suppress(OSError):
        os.write(2, f"{sentence}\n".encode())


def _leave(number: int) -> None:
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os._exit(128 + number)
