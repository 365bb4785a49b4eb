"""Batches of several replays on the device, made one ahead in a thread."""

from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import jax
import numpy as np

from moto_jax.data.replay import Replay
from moto_jax.types import Batch

T = TypeVar("T")


def prefetch(make: Callable[[int], T], steps: Iterable[int]) -> Generator[T]:
    """Yields `make(step)` for each step, made one ahead in a thread.

    What `make` reads must not change while the generator lives. An error in `make` is
    raised where its value is awaited; closing the generator waits for the value under
    way and drops it.
    """
    with ThreadPoolExecutor(max_workers=1) as executor:
        pending = None
        for step in steps:
            upcoming = executor.submit(make, step)
            if pending is not None:
                yield pending.result()
            pending = upcoming
        if pending is not None:
            yield pending.result()


def empty_batches(replays: Sequence[Replay], columns: range) -> Batch:
    """Returns NumPy arrays [S, T, len(columns), ...] for a batch of each replay."""
    one = replays[0].empty_batch(len(columns))
    return jax.tree.map(
        lambda part: np.empty((len(replays), *part.shape), part.dtype), one
    )


def device_batches(
    replays: Sequence[Replay],
    steps: Iterable[int],
    columns: range,
    place: Callable[[Batch], Batch],
) -> Generator[Batch]:
    """Yields the batches of some steps on the device, each made one ahead in a thread.

    All are sampled into one host buffer. To add episodes, finish the steps first.

    Args:
      replays: one a seed, S of them.
      steps: of the samples.
      columns: the sequences of each batch to sample.
      place: takes NumPy arrays [S, T, len(columns), ...], which are written over once
        what it returns is ready.
    """
    buffer = empty_batches(replays, columns)

    def make(step: int) -> Batch:
        for index, replay in enumerate(replays):
            own = jax.tree.map(lambda part, index=index: part[index], buffer)
            replay.sample(step, own, columns)
        return jax.block_until_ready(place(buffer))

    return prefetch(make, steps)
