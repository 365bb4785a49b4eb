"""Several processes that do one run together, on one machine or on many.

Each holds some of the devices, collects with environments of its own, and feeds its
share of every batch. All see one run directory; the first writes what belongs to all.
Every function here may be called in a run of one process, where it does nothing.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

# A process that is silent for so long counts as dead; the others then stop.
_HEARTBEAT_SECONDS = 40
_SHUTDOWN_SECONDS = 60

# How long the first process, whose end takes the others along, leaves them to end.
_LAST_WORDS_SECONDS = 5

# In the errors of a collective whose other end has gone.
_COMMUNICATION = ("gloo", "nccl", "connection", "coordination", "peer", "socket")


class MachineError(RuntimeError):
    """Processes of this run cannot be found, or one of them has gone."""


def join() -> None:
    """Joins the other processes of this run; before JAX starts its backend.

    Under SLURM, Open MPI and the other launchers that JAX knows everything is found;
    elsewhere $JAX_COORDINATOR_ADDRESS (HOST:PORT of the first process),
    $JAX_NUM_PROCESSES and $JAX_PROCESS_ID say it.

    Raises:
      MachineError: if the processes cannot be found.
    """
    try:
        number, count = (
            int(os.environ[name]) if name in os.environ else None
            for name in ("JAX_PROCESS_ID", "JAX_NUM_PROCESSES")
        )
        jax.distributed.initialize(
            num_processes=count,
            process_id=number,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise MachineError(
            f"config.distributed is true, but the processes cannot be joined ({reason}"
            "): start them under SLURM or Open MPI, or set JAX_COORDINATOR_ADDRESS="
            "HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID in each"
        ) from error
    _say_why_jax_aborts()
    print(
        f"process {jax.process_index()} of {jax.process_count()}; if one ends early, "
        f"all stop within {_HEARTBEAT_SECONDS} s, and the same commands go on from the "
        "last checkpoint",
        file=sys.stderr,
    )


def _say_why_jax_aborts() -> None:
    """Makes this process end as by `leave` where JAX gives the others up.

    It then calls abort() in a thread of its own, where no Python runs and nothing can
    be caught; the callback that it takes instead dies of its argument (std::bad_cast,
    jaxlib 0.10). The signal comes in that thread, which holds no lock of Python's.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, type(_aborted)]
    libc.signal.restype = ctypes.c_void_p
    libc.signal(signal.SIGABRT, _aborted)


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _aborted(number: int) -> None:
    """Handles the signal; kept by the module for as long as it may come."""
    del number
    leave(
        "JAX gave this process up, as it does when another of the run has ended or "
        "cannot be reached: start all of them again with the same commands, and the "
        "run goes on from its last checkpoint"
    )


def is_first() -> bool:
    """Whether this process writes what belongs to all."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Returns once every process has come here; `what` is the same in all."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def gather(value: Any) -> list[Any]:
    """Returns the JSON-able values of all processes, by process; all must call it."""
    if jax.process_count() == 1:
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array([len(text)], np.int32))
    # Few sizes, since each is a program of its own.
    padded = np.zeros(1 << int(lengths.max() - 1).bit_length(), np.uint8)
    padded[: len(text)] = text
    rows = multihost_utils.process_allgather(padded)
    return [
        json.loads(bytes(row[:length]))
        for row, length in zip(rows, lengths.ravel(), strict=True)
    ]


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """Says in one sentence that another process has gone.

    Raises:
      MachineError: for an error in talking to the others.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        known = any(word in reason.lower() for word in _COMMUNICATION)
        if jax.process_count() == 1 or not known:
            raise
        raise MachineError(
            f"another process of this run has ended or cannot be reached ({reason}): "
            "this one stops too; start all of them again with the same commands, and "
            "the run goes on from its last checkpoint"
        ) from error


def leave(reason: object, status: int = 1) -> NoReturn:
    """Ends this process with a status and the reason in one line, at once.

    The usual end would wait for processes that are gone, or that wait for this one.
    """
    sys.stdout.flush()
    print(f"error: {' '.join(str(reason).split())}", file=sys.stderr, flush=True)
    if is_first() and jax.process_count() > 1:
        # Those that end for the same reason are to say so themselves; without the
        # coordinator that lives here, JAX would abort them in its own words.
        time.sleep(_LAST_WORDS_SECONDS)
    os._exit(status)
