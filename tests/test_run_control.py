import os
import signal
import threading

import pytest

from moto_jax import run_control
from moto_jax.run_control import StopRequest, Stopwatch


@pytest.fixture
def received():
    """The signals that nobody caught, in place of the process's end."""
    numbers = []
    signals = (signal.SIGTERM, signal.SIGINT)
    previous = [
        signal.signal(number, lambda number, frame: numbers.append(number))
        for number in signals
    ]
    yield numbers
    for number, handler in zip(signals, previous, strict=True):
        signal.signal(number, handler)


def send(number):
    # Not to the process at large: another thread might take it a moment later.
    signal.pthread_kill(threading.main_thread().ident, number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks_and_the_second_acts(received, number, second):
    with StopRequest() as stop:
        assert stop.signal_number is None
        send(number)
        assert stop.signal_number == number
        assert received == []
        send(second)
        assert received == [second]
        assert stop.signal_number == number


def test_a_second_interrupt_is_an_interrupt(received):
    # A shell's background jobs are started with interrupts ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), StopRequest() as stop:
        send(signal.SIGINT)
        assert stop.signal_number == signal.SIGINT
        send(signal.SIGINT)


@pytest.mark.parametrize("asked", [False, True])
def test_what_was_there_before_is_there_again(received, asked):
    with StopRequest():
        if asked:
            send(signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    assert received == [signal.SIGTERM, signal.SIGINT]


def test_seconds_add_up_by_part(monkeypatch):
    clock = iter([10.0, 12.0, 20.0, 21.0, 30.0, 33.0])
    monkeypatch.setattr(run_control.time, "monotonic", lambda: next(clock))
    watch = Stopwatch()
    with watch.part("updates"):
        pass
    with watch.part("evaluation"):
        pass
    with pytest.raises(RuntimeError), watch.part("updates"):
        raise RuntimeError("counts too")
    assert watch.seconds == {"updates": 5.0, "evaluation": 1.0}
