"""Training and collecting side by side, as the online phase does them."""

import collections
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.benchmarks.measure import Part, figure_of, seconds
from experiments.benchmarks.sampling import make_episode
from experiments.benchmarks.scale import compile_program
from experiments.benchmarks.update import preset_config
from moto_jax.acting.collection import (
    Play,
    PolicyStep,
    collect_episodes,
    make_policy_step,
)
from moto_jax.acting.worker import Observation
from moto_jax.acting.worker_pool import WorkerPool
from moto_jax.data.batches import device_batches
from moto_jax.data.episodes import Episode
from moto_jax.data.replay import Replay
from moto_jax.running import devices
from moto_jax.running.online_episodes import OnlineEpisodes
from moto_jax.running.players import acting_device
from moto_jax.running.schedule import Round
from moto_jax.types import Config
from moto_jax.worlds.kitchen import tasks
from moto_jax.worlds.kitchen.labels import make_label
from moto_jax.worlds.kitchen.world import environment_maker

_TIMELINE_COLUMNS = 72
_KEYS = jax.random.split(jax.random.key(0), 1)


class _TimedPool(WorkerPool):
    """Notes when each environment step was done."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.times: list[float] = []

    def answers(self) -> dict[int, Observation | None]:
        found = super().answers()
        self.times.append(time.perf_counter())
        return found


class Loop:
    """What the driver does in a block of the online phase, part by part."""

    def __init__(self, config: Config, pool: WorkerPool):
        """Compiles the update and fills a replay.

        Args:
          config: of a run of one seed; `config.training.updates_per_episode` make a
            block.
          pool: the environments.
        """
        section = config.replay
        self.replay = Replay(
            make_label(tasks.resolve_task(config.task)),
            section.batch_size,
            section.sequence_length,
            seed=0,
        )
        for number in range(20):
            self.replay.add(make_episode(number, config.env.image_size), str(number))
        self.agent, self._update, self._place = compile_program(config)
        self.updates_per_block = config.training.updates_per_episode
        self.update_times: list[float] = []
        self._pool = pool
        self._policy: PolicyStep = make_policy_step(self.agent.policies["sampled"])
        self._state = jax.jit(self.agent.init)(_KEYS)
        self._columns = range(section.batch_size)
        self._done = 0

    def train(self) -> None:
        """Does a block's updates; returns once the last is done."""
        in_flight: collections.deque[Any] = collections.deque()
        # A CPU computes in the thread that asks.
        limit = 0 if jax.default_backend() == "cpu" else 2
        steps = range(self._done, self._done + self.updates_per_block)
        for batch in device_batches([self.replay], steps, self._columns, self._place):
            self._state, metrics = self._update(self._state, batch)
            in_flight.append(metrics)
            if len(in_flight) > limit:
                self._wait(in_flight)
        while in_flight:
            self._wait(in_flight)
        self._done += self.updates_per_block

    def _wait(self, in_flight: collections.deque[Any]) -> None:
        jax.block_until_ready(in_flight.popleft())
        self.update_times.append(time.perf_counter())

    def collect(self, number: int, params: Any) -> Episode:
        """Plays an episode."""
        plays = [Play(0, number)]
        (episode,) = collect_episodes(self._pool, self._policy, params, _KEYS, plays)
        return episode

    def params(self) -> Any:
        """Returns what the policy acts with beside training."""
        params = self.agent.acting_params(self._state)
        return devices.local_copy(params, [0], acting_device())


def measure_overlap(preset: str = "cpu", rounds: int = 3) -> Part:
    """Yields the seconds of an online block beside those of its two halves alone."""
    config = preset_config(preset)
    with (
        tempfile.TemporaryDirectory() as directory,
        _TimedPool(environment_maker(config), config.env.workers) as pool,
    ):
        loop = Loop(config, pool)
        online = OnlineEpisodes(
            [Path(directory)],
            lambda new, params: {0: [loop.collect(new.number, params)]},
            [{}],
        )

        def block(number: int) -> None:
            new = Round(number, range(number, number + 1))
            online.start(new, loop.params)
            loop.train()
            online.take(new, [0], loop.params)

        pairs, notes = [], []
        for number in range(1 + rounds):
            training = seconds(loop.train)
            collecting = seconds(lambda: loop.collect(10_000 + number, loop.params()))  # noqa: B023
            pool.times.clear()
            loop.update_times.clear()
            start = time.perf_counter()
            both = seconds(lambda: block(number))  # noqa: B023
            if number:
                pairs.append((both, max(training, collecting)))
            notes = [
                f"overlap/online: {loop.updates_per_block} updates alone "
                f"{training:.2f} s, an episode alone {collecting:.2f} s, both "
                f"{both:.2f} s (last round)",
                *timeline(start, both, loop.update_times, pool.times),
            ]
        online.close()
    yield figure_of(
        "overlap/online",
        "s a block",
        "the slower of training and collecting alone",
        pairs,
        less_is_better=True,
    )
    yield from notes


def timeline(
    start: float, duration: float, updates: Sequence[float], steps: Sequence[float]
) -> list[str]:
    """Returns two rows of text: how many updates, and of environment steps, when.

    Args:
      start: the first column's left end, seconds.
      duration: from there to the last column's right end.
      updates: when each update was done.
      steps: when each environment step was done.
    """
    rows = []
    for name, times in (("updates", updates), ("steps", steps)):
        counts = [0] * _TIMELINE_COLUMNS
        for moment in times:
            column = int((moment - start) / duration * _TIMELINE_COLUMNS)
            counts[min(max(column, 0), _TIMELINE_COLUMNS - 1)] += 1
        cells = ("." if not count else min(count, 9) for count in counts)
        rows.append(f"    {name:<8}{''.join(map(str, cells))}")
    rows.append(
        f"    a column is {duration / _TIMELINE_COLUMNS:.2f} s and shows how many were "
        "done in it, 9 for more"
    )
    return rows
