"""How an agent's functions are compiled for a run."""

import contextlib
import hashlib
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from moto_jax.data.files import write_atomically
from moto_jax.running.run_control import return_free_memory
from moto_jax.types import Agent, Batch, Metrics

Options = dict[str, str | bool]

# Kinds of work that XLA records into CUDA graphs, so that a graph is launched instead
# of each kernel. Its own default leaves out loops, of which an update mostly is.
_RECORDED = (
    "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE"
)

# Option -> value, and the CUDA that can do it, as 1000 * major + 10 * minor.
_GPU_OPTIONS: dict[str, tuple[str | bool, int]] = {
    "xla_gpu_enable_command_buffer": (_RECORDED, 12_030),
    # A loop of known length as plain nodes, instead of one that asks on each trip.
    "xla_gpu_command_buffer_unroll_loops": (True, 12_090),
}


def compile_updates(
    agent: Agent, state: Any, batch: Batch, together: int = 1
) -> dict[tuple[str, int], Any]:
    """Compiles each phase's update, the same update of two phases only once.

    All programs compile side by side.

    Args:
      agent: whose updates.
      state: like the agent's, abstract.
      batch: like those of its updates, abstract.
      together: how many updates a program may do.

    Returns:
      (phase, number of updates, 1 or `together`) -> a program, which takes the state
      and as many batches; it returns the new state and the last update's metrics.
    """
    options = program_options()
    phases: dict[Any, list[str]] = {}
    for phase, update in agent.updates.items():
        phases.setdefault(update, []).append(phase)
    said = "; ".join(" and ".join(names) for names in phases.values())
    record = _record_of(said, state, batch, together)
    longest = _longest(record)
    if longest:
        said += f", remaining {timedelta(seconds=longest)} or less, as before"
    print(f"compiling the update: {said}", file=sys.stderr, flush=True)
    start = time.monotonic()
    lowered = {
        (update, size): jax.jit(_in_turn(update), donate_argnums=0).lower(
            state, *([batch] * size)
        )
        for update in phases
        for size in {1, together}
    }
    with ThreadPoolExecutor(len(lowered)) as threads:
        compiled = threads.map(
            lambda one: one.compile(options or None), lowered.values()
        )
        programs = dict(zip(lowered, compiled, strict=True))
    seconds = time.monotonic() - start
    print(f"compiled in {seconds:.0f} s", file=sys.stderr, flush=True)
    # Those found in the cache take next to no time: the longest is what to expect.
    if record is not None and round(seconds) > longest:
        with contextlib.suppress(OSError):
            write_atomically(record, str(round(seconds)).encode())
    return_free_memory()
    return {
        (phase, size): programs[update, size]
        for phase, update in agent.updates.items()
        for size in {1, together}
    }


def _record_of(*programs: Any) -> Path | None:
    """Returns the file that tells how many seconds such programs took to compile here.

    It lies with the compiled programs; None where these are not kept on a disk. Such
    are those of the same phases, shapes, jax, device and XLA_FLAGS, whatever their
    code: it tells a user what to expect, nothing more.
    """
    directory = getattr(jax.config, "jax_compilation_cache_dir", None)
    if not directory or "://" in directory:
        return None
    kind = [jax.__version__, jax.devices()[0].device_kind]
    kind.append(os.environ.get("XLA_FLAGS", ""))
    kind += [str(leaf) for leaf in jax.tree.leaves(programs)]
    digest = hashlib.sha256(repr(kind).encode()).hexdigest()[:16]
    return Path(directory) / f"{digest}.seconds"


def _longest(record: Path | None) -> int:
    """Returns the seconds that the file tells of, 0 without one."""
    with contextlib.suppress(OSError, ValueError):
        return int(record.read_bytes()) if record is not None else 0
    return 0


def _in_turn(update: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that does the update with each of its batches in turn."""

    def updates(state: Any, *batches: Batch) -> tuple[Any, Metrics]:
        if len(batches) == 1:
            return update(state, *batches)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)
        state, metrics = jax.lax.scan(update, state, stacked)
        return state, jax.tree.map(lambda leaf: leaf[-1], metrics)

    return updates


def initialise(agent: Agent, key: jax.Array) -> Any:
    """Returns `agent.init(key)`; what runs once is compiled to compile fast."""
    return jax.jit(agent.init).lower(key).compile(cpu_options(0) or None)(key)


def program_options() -> Options:
    """Returns the options of an update's program on the device at hand."""
    if jax.default_backend() == "cpu":
        return cpu_options(1)
    version = getattr(jax.devices()[0].client, "platform_version", "")
    options = known_options(gpu_options(version))
    for name, value in options.items():
        print(f"XLA compiles with {name}={value}", file=sys.stderr)
    return options


def cpu_options(level: int) -> Options:
    """Returns the options of a program that LLVM is to optimise so far, on a CPU.

    What the environment asks for comes first. At level 1 MOTO's update compiles in two
    thirds of the time and is as fast; at 0 it is less than half as fast.
    """
    flag = "xla_backend_optimization_level"
    if jax.default_backend() != "cpu" or _is_set(flag):
        return {}
    return {flag: str(level)}


def gpu_options(platform_version: str) -> Options:
    """Returns the options that record an update's loops into CUDA graphs.

    Empty where the card's platform cannot; what the environment says of one holds.

    Args:
      platform_version: as the device's client has it, with "cuda 12080" of CUDA 12.8.
    """
    found = re.search(r"cuda (\d+)", platform_version.lower())
    version = int(found[1]) if found else 0
    return {
        name: value
        for name, (value, least) in _GPU_OPTIONS.items()
        if version >= least and not _is_set(name)
    }


def known_options(options: Mapping[str, str | bool]) -> Options:
    """Returns those of the options that this version of XLA knows, with their values.

    In XLA_FLAGS an unknown one would end the process; here XLA is asked.
    """
    known = {}
    for name, value in options.items():
        try:
            jax.jit(lambda: 0).lower().compile({name: value})
        except jax.errors.JaxRuntimeError as error:
            print(f"XLA knows no {name}={value}: {error}", file=sys.stderr)
        else:
            known[name] = value
    return known


def _is_set(flag: str) -> bool:
    return flag in os.environ.get("XLA_FLAGS", "")
