"""A run and its process: requests to stop, passing time, memory, compiled programs."""

import collections
import contextlib
import ctypes
import hashlib
import os
import platform
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from moto_jax import interruption

# glibc's names of what `mallopt` sets.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


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
        if signal.getsignal(number) is interruption.tidy_up_and_end:
            interruption.handle_with(interruption.end_at_once)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            # None stands for one that was not set from Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
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


def keep_freed_memory() -> bool:
    """Keeps memory that the main thread frees for its next request, where it can.

    An update on a CPU takes and frees hundreds of megabytes. The C library (glibc)
    gives them back to the system each time and gets them again page by page, zeroed: a
    quarter of the time of an update at the `cpu` preset. Only the main thread's heap
    can keep blocks of that size, so JAX is told to compute in the thread that asks.
    (One heap for all threads would keep them too, but compiling leaves it so
    fragmented that everything takes half as long again.) To be called before JAX
    starts its backend.

    Returns:
      Whether the C library took it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))


# Settings of JAX that a user may have in the environment for other programs' sake, and
# what they are to our networks, whose dtypes the configuration says.
_NUMBERS = {"jax_enable_x64": False, "jax_numpy_dtype_promotion": "standard"}


def settle_numbers() -> list[str]:
    """Lets JAX compute as the networks are written; returns a sentence a change."""
    said = []
    for name, ours in _NUMBERS.items():
        theirs = getattr(jax.config, name)
        if theirs != ours:
            jax.config.update(name, ours)
            said.append(f"{name.upper()} is {theirs}: here it is {ours}")
    return said


def keep_compiled_programs() -> Path:
    """Makes JAX keep compiled programs between processes, and returns where.

    In $JAX_COMPILATION_CACHE_DIR where that is set; otherwise under the user's cache
    directory, apart for each kind of processor, since a home directory may serve
    machines of several.
    """
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if chosen:
        return Path(chosen)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = home / "moto_jax" / "jax" / _processor()
    jax.config.update("jax_compilation_cache_dir", str(directory))
    # Programs of a few milliseconds too: a second run then compiles nothing.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return directory


def _processor() -> str:
    """Returns the processor's architecture and a digest of what it can do."""
    able = ""
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo") as file:
        able = next(line for line in file if line.lower().startswith(("flags", "feat")))
    digest = hashlib.sha256(able.encode()).hexdigest()[:8]
    return f"{platform.machine()}-{digest}"


def return_free_memory() -> None:
    """Gives freed heap pages back to the system, where the C library can (glibc).

    Compiling an update leaves a gigabyte of them behind, which would stay resident for
    the whole run.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
