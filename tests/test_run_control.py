import json
import os
import platform
import signal
import subprocess
import sys
import threading

import pytest

from moto_jax.running import run_control
from moto_jax.running.run_control import StopRequest, Stopwatch


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


def run_python(program, **environment):
    """Runs a program in a process of its own; returns the JSON it prints last."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


FAULTS = """
import json, resource
from moto_jax.running.run_control import keep_freed_memory
kept = {keep} and keep_freed_memory()
faults = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    memory = bytearray(1 << 28)
    memory[::4096] = bytes(len(memory[::4096]))
    del memory
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(json.dumps([kept, faults]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_kept_for_the_next_to_ask():
    kept, faults = run_python(FAULTS.format(keep=True))
    assert kept is True
    pages = (1 << 28) // 4096
    assert faults[0] > pages / 600  # Pages of 2 MiB at the largest.
    assert max(faults[1:]) < faults[0] / 10
    _, without = run_python(FAULTS.format(keep=False))
    assert min(without[1:]) > without[0] / 2


COMPILE = """
import json, sys
import jax, jax.monitoring
from moto_jax.running.run_control import keep_compiled_programs
events = []
jax.monitoring.register_event_listener(lambda name, **kwargs: events.append(name))
directory = keep_compiled_programs()
jax.jit(lambda x: x @ x + 1)(jax.numpy.ones((8, 8))).block_until_ready()
counts = [sum(name.endswith(end) for name in events) for end in ("hits", "misses")]
print(json.dumps([str(directory), *counts]))
"""


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("JAX_ENABLE_X64", "1", ["JAX_ENABLE_X64 is True: here it is False"]),
        (
            "JAX_NUMPY_DTYPE_PROMOTION",
            "strict",
            ["JAX_NUMPY_DTYPE_PROMOTION is strict: here it is standard"],
        ),
        ("JAX_NUMPY_RANK_PROMOTION", "raise", []),
    ],
)
def test_numbers_are_of_the_kind_that_the_networks_are_written_for(
    variable, value, said
):
    words = (
        "import json, jax.numpy as jnp; from moto_jax.running import run_control; "
        "said = run_control.settle_numbers(); "
        "sum = jnp.zeros(1) + jnp.arange(1); "
        "print(json.dumps([said, str(sum.dtype), run_control.settle_numbers()]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", words],
        env={**os.environ, variable: value},
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout) == [said, "float32", []]


def test_a_second_process_compiles_nothing(tmp_path):
    home = {"XDG_CACHE_HOME": str(tmp_path), "JAX_COMPILATION_CACHE_DIR": ""}
    directory, hits, misses = run_python(COMPILE, **home)
    assert directory.startswith(str(tmp_path / "moto_jax" / "jax"))
    assert hits == 0 and misses > 0
    assert run_python(COMPILE, **home) == [directory, misses, 0]


def test_the_users_own_cache_of_programs_is_used(tmp_path):
    home = {"XDG_CACHE_HOME": str(tmp_path / "unused")}
    chosen = str(tmp_path / "chosen")
    directory, *_ = run_python(COMPILE, **home, JAX_COMPILATION_CACHE_DIR=chosen)
    assert directory == chosen
    assert not (tmp_path / "unused").exists()


def test_a_handler_that_python_did_not_set_gives_way_to_the_default(monkeypatch):
    """Such as one of a library in C, of which Python knows nothing."""
    with StopRequest() as stop:
        monkeypatch.setitem(stop._previous, signal.SIGTERM, None)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
