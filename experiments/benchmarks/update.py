"""One update of MOTO against the straightforward one, and against the machine."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.flops import count_flops
from experiments.benchmarks.measure import Figure, Part, figure_of, seconds
from experiments.benchmarks.reference import (
    make_plain_model,
    make_straightforward_model,
)
from experiments.configs.base import get_config
from moto_jax.agents.moto import make_moto
from moto_jax.learning.world_model import WorldModel, make_world_model
from moto_jax.running.compilation import compile_updates
from moto_jax.types import Agent, Batch, Config
from moto_jax.worlds.kitchen import tasks

# Side of the square matrices whose product is the machine's peak.
_PEAK_SIDE = {"cpu": 2048, "gpu": 8192}


class Size(NamedTuple):
    """Where the update is measured.

    Attributes:
      preset: of the configuration.
      batch_size: sequences.
      sequence_length: rows.
      updates: in one measurement.
      rounds: measurements of each.
    """

    preset: str
    batch_size: int
    sequence_length: int
    updates: int
    rounds: int

    @property
    def frames(self) -> int:
        """Rows of a batch."""
        return self.batch_size * self.sequence_length


SIZES = (Size("cpu", 12, 24, 4, 6), Size("full", 16, 50, 1, 3))


def measure_updates(sizes: Sequence[Size] = SIZES) -> Part:
    """Yields frames a second, and the fraction of the matrix product's peak."""
    for size in sizes:
        yield from _measure_size(size)


def measure_memory(size: Size) -> Part:
    """Yields what one update holds at its peak, by the compiled program's own count."""
    batch = random_batch(size)
    held = []
    for rematerialise in (True, False):
        agent = make_agent(size.preset, rematerialise=rematerialise)
        program = compile_update(agent, batch)
        held.append(peak_bytes(program) / 1e9)
    yield figure_of(
        f"memory/{size.preset}",
        "GB",
        "imagined steps kept for the gradient",
        [(held[0], held[1])],
        less_is_better=True,
    )
    horizon = preset_config(size.preset).moto.horizon
    yield (
        f"memory/{size.preset}: batch {size.batch_size} x {size.sequence_length}, "
        f"horizon {horizon}, {jax.default_backend()} program; ours with "
        "config.moto.rematerialise"
    )


def own_batch(preset: str) -> Size:
    """Returns a preset with the batch of its configuration."""
    return size_of(preset_config(preset))


def size_of(config: Config) -> Size:
    """Returns a configuration's batch."""
    section = config.replay
    return Size(config.size, section.batch_size, section.sequence_length, 1, 1)


def preset_config(name: str) -> Config:
    """Returns a preset of `experiments/configs/base.py`."""
    return get_config(name)


def make_agent(
    preset: str,
    make_model: Callable[..., WorldModel] = make_world_model,
    dtype: str = "float32",
    rematerialise: bool = False,
) -> Agent:
    """Returns MOTO of a preset on a world model of one's own."""
    config = preset_config(preset)
    config.compute_dtype = dtype
    config.moto.rematerialise = rematerialise
    return agent_of(config, make_model)


def agent_of(
    config: Config, make_model: Callable[..., WorldModel] = make_world_model
) -> Agent:
    """Returns MOTO of a configuration on a world model of one's own."""
    return make_moto(
        config,
        action_size=tasks.NUM_ACTIONS,
        image_size=config.env.image_size,
        make_model=make_model,
    )


def flops_of(config: Config) -> float:
    """Returns the arithmetic of one seed's update, of the plain convolutions."""
    agent = agent_of(config, make_plain_model)
    state = jax.eval_shape(agent.init, jax.random.key(0))
    batch = random_batch(size_of(config))
    return count_flops(agent.updates["offline"], state, batch)


def random_batch(size: Size, seed: int = 0) -> Batch:
    """Returns a batch of noise; a third of the sequences begin an episode."""
    generator = np.random.default_rng(seed)
    rows = (size.sequence_length, size.batch_size)
    is_first = np.zeros(rows, np.bool_)
    is_first[0, ::3] = True
    none = np.zeros(rows, np.bool_)
    action = generator.uniform(-1, 1, (*rows, tasks.NUM_ACTIONS)).astype("f4")
    return Batch(
        image=generator.integers(0, 256, (*rows, 64, 64, 3), np.uint8),
        prev_action=action,
        reward=generator.integers(0, 5, rows).astype(np.float32),
        is_first=is_first,
        is_last=none,
        is_terminal=none,
        is_behaviour=generator.random(rows) < 0.4,
        behaviour_action=np.roll(action, -1, axis=0),
        return_to_go=np.zeros(rows, np.float32),
        row=np.arange(none.size, dtype=np.int32).reshape(rows, order="F"),
    )


def compile_update(agent: Agent, batch: Batch) -> Any:
    """Returns the compiled offline update for this batch's shapes."""
    state = jax.eval_shape(agent.init, jax.random.key(0))
    return compile_updates(agent, state, batch)["offline", 1]


def peak_bytes(program: Any) -> int:
    """Returns the bytes that a compiled program's arguments and temporaries take."""
    memory = program.memory_analysis()
    return memory.argument_size_in_bytes + memory.temp_size_in_bytes


def measured_peak(dtype: Any = jnp.float32) -> Callable[[], float]:
    """Returns a function that measures the device's matrix product, FLOP a second."""
    side = _PEAK_SIDE.get(jax.default_backend(), _PEAK_SIDE["gpu"])
    matrix = jnp.full((side, side), 1 / side, dtype)
    product = jax.jit(lambda left, right: left @ right)
    product(matrix, matrix).block_until_ready()

    def work() -> None:
        results = [product(matrix, matrix) for _ in range(8)]
        jax.block_until_ready(results)

    def measure() -> float:
        return 8 * 2 * side**3 / seconds(work)

    return measure


class Timed:
    """An update with its state, timed a few at a time."""

    def __init__(self, agent: Agent, batch: Batch, updates: int):
        """Compiles it; `updates` are done in one measurement."""
        self._program = compile_update(agent, batch)
        self._state = jax.jit(agent.init)(jax.random.key(0))
        self._batch = jax.device_put(batch)
        self._updates = updates

    def seconds(self) -> float:
        """Returns the seconds that one update takes."""
        return seconds(self._work) / self._updates

    def _work(self) -> None:
        for _ in range(self._updates):
            self._state, metrics = self._program(self._state, self._batch)
        jax.block_until_ready(metrics)


def _measure_size(size: Size) -> Part:
    batch = random_batch(size)
    agents = {
        "ours": make_agent(size.preset),
        "plain": make_agent(size.preset, make_plain_model),
        "straightforward": make_agent(size.preset, make_straightforward_model),
    }
    state = jax.eval_shape(agents["plain"].init, jax.random.key(0))
    flops = count_flops(agents["plain"].updates["offline"], state, batch)
    timed = {name: Timed(agent, batch, size.updates) for name, agent in agents.items()}
    peak = measured_peak()
    rounds = []
    # The first round warms caches and heap.
    for _ in range(1 + size.rounds):
        spent = {name: update.seconds() for name, update in timed.items()}
        rounds.append(spent | {"peak": peak()})
    yield from _figures(size, flops, rounds[1:])


def _figures(
    size: Size, flops: float, rounds: Sequence[dict[str, float]]
) -> list[Figure | str]:
    def against(name: str, words: str, other: str) -> Figure:
        pairs = [
            (size.frames / spent["ours"], size.frames / spent[other])
            for spent in rounds
        ]
        return figure_of(name, "frames/s", words, pairs)

    speeds = [(flops / spent["ours"] / 1e9, spent["peak"] / 1e9) for spent in rounds]
    return [
        against(
            f"update/{size.preset}",
            "flax convolutions, all inside the scan",
            "straightforward",
        ),
        against(
            f"update/{size.preset}/convolutions",
            "flax convolutions, only the recurrence inside the scan",
            "plain",
        ),
        figure_of(
            f"update/{size.preset}/peak", "GFLOP/s", "matrix product in float32", speeds
        ),
        f"update/{size.preset}: batch {size.batch_size} x {size.sequence_length}, "
        f"{statistics.median(spent['ours'] for spent in rounds):.2f} s and "
        f"{flops / 1e9:.0f} GFLOP an update",
    ]
