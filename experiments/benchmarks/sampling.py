"""Sampling from replay against copying memory; what half a million steps take."""

import statistics
import time
from collections.abc import Sequence

import numpy as np

from experiments.benchmarks.measure import Part, compare, figure_of, rate
from moto_jax.data.episodes import Episode
from moto_jax.data.replay import Replay
from moto_jax.running.provenance import rss_bytes
from moto_jax.running.run_control import return_free_memory
from moto_jax.worlds.kitchen import tasks
from moto_jax.worlds.kitchen.labels import make_label

# What the paper's whole run stores.
_STEPS = 500_000


def measure_replay(
    steps: int = _STEPS,
    batch_size: int = 64,
    sequence_length: int = 50,
    image_size: int = 64,
    rounds: int = 7,
    calls: int = 10,
) -> Part:
    """Yields frames a second, bytes held, and what one more episode costs."""
    label = make_label(tasks.TASKS["mixed"])
    replay = Replay(label, batch_size, sequence_length, seed=0)
    return_free_memory()
    before = rss_bytes()
    adding = _fill(replay, steps, image_size)
    held = (rss_bytes() - before) / 1e9
    buffer = replay.empty_batch()
    source = np.ones(buffer.image.nbytes, np.uint8)
    target = np.empty_like(source)
    numbers = iter(range(10**9))
    frames = batch_size * sequence_length
    yield compare(
        "replay/sample",
        "frames/s",
        lambda: frames * rate(lambda: replay.sample(next(numbers), buffer), calls),
        "one copy of as many bytes",
        lambda: frames * rate(lambda: np.copyto(target, source), calls),
        rounds=rounds,
    )
    yield figure_of(
        "replay/memory",
        "GB",
        "the limit",
        [(held, 6.5 * steps / _STEPS)],
        less_is_better=True,
    )
    image = make_episode(0, image_size).image
    # What a buffer that grows by copying would do.
    copying = [1e6 / rate(image.copy, 1) * len(adding) for _ in adding]
    yield figure_of(
        "replay/add",
        "microseconds an episode",
        "one copy of all stored images",
        # The newest episodes, which join the most.
        list(zip(_medians(adding, rounds), _medians(copying, rounds), strict=True)),
        less_is_better=True,
    )
    yield (
        f"replay: {replay.num_rows:,} rows in {replay.num_episodes:,} episodes, "
        f"batches of {batch_size} x {sequence_length}"
    )


def _fill(replay: Replay, steps: int, image_size: int) -> list[float]:
    """Adds episodes until there are so many steps; returns each one's microseconds."""
    adding = []
    for number in range(-(-steps // tasks.EPISODE_STEPS)):
        episode = make_episode(number, image_size)
        start = time.perf_counter()
        replay.add(episode, str(number))
        adding.append(1e6 * (time.perf_counter() - start))
    return adding


def _medians(values: Sequence[float], count: int) -> list[float]:
    """Returns the medians of `count` runs of equal length at the end."""
    length = max(1, len(values) // (2 * count))
    ends = range(len(values) - (count - 1) * length, len(values) + 1, length)
    return [statistics.median(values[end - length : end]) for end in ends]


def make_episode(number: int, image_size: int) -> Episode:
    """Returns an episode of the kitchen's length in one colour."""
    rows = tasks.EPISODE_STEPS + 1
    return Episode(
        image=np.full((rows, image_size, image_size, 3), number % 256, np.uint8),
        action=np.zeros((rows - 1, tasks.NUM_ACTIONS), np.float32),
        objects_in_goal=np.zeros((rows, len(tasks.OBJECTS)), np.bool_),
        qpos=np.zeros((rows, 30), np.float32),
    )
