"""Many seeds and many devices: what an update then takes.

As a program it times one update on so many groups of devices; the benchmark starts it,
since a process has the devices it began with:

    python -m experiments.benchmarks.scale PRESET GROUPS WIDTH
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.benchmarks.measure import Part, figure_of, seconds
from experiments.benchmarks.update import (
    Timed,
    agent_of,
    peak_bytes,
    preset_config,
    random_batch,
    size_of,
)
from moto_jax.running import devices
from moto_jax.running.compilation import compile_updates, initialise
from moto_jax.running.players import run_keys
from moto_jax.types import Agent, Batch, Config

_SEEDS = (1, 2, 4, 8)
# Groups and width of the meshes that are timed; one device comes first.
_MESHES = ((1, 1), (1, 2), (2, 1))
# Rounds that do not count, until heap and caches have grown.
_WARM_UP = 2
_FORCE_DEVICES = "--xla_force_host_platform_device_count"


# Metric -> [seeds], and "parameters" -> [seeds, all of them].
Outcome = dict[str, np.ndarray]

# How the seeds of a group are mapped over; see `devices.over_seeds`.
_WAYS = {"vmap": jax.vmap, "loop": devices.one_after_another}


class Compiled(NamedTuple):
    """An update of several seeds on a mesh.

    Attributes:
      agent: with the seed axis.
      update: compiled.
      place: NumPy batch [seeds, T, B, ...] -> batch on the mesh.
    """

    agent: Agent
    update: Callable[..., Any]
    place: Callable[[Batch], Batch]


def compile_program(
    config: Config, map_seeds: Callable[..., Any] | None = None, together: int = 1
) -> Compiled:
    """Compiles the update of a configuration, its seeds and mesh included.

    Args:
      config: of a run.
      map_seeds: see `devices.over_seeds`.
      together: updates that the program does.
    """
    mesh = devices.make_mesh(config, config.replay.batch_size)
    agent = devices.over_seeds(agent_of(config), mesh, map_seeds)
    keys, *_ = run_keys(config.seeds)
    shape = (len(config.seeds), size_of(config).batch_size, mesh)
    batch = jax.tree.map(lambda part: part[None], random_batch(size_of(config)))
    updates = compile_updates(
        agent,
        devices.abstract_state(agent, keys, mesh),
        devices.abstract_batch(batch, *shape),
        together,
    )
    place = lambda batch: devices.place_batch(batch, *shape)  # noqa: E731
    return Compiled(agent, updates["offline", together], place)


class Program:
    """A compiled update with its state and a batch of noise."""

    def __init__(
        self,
        config: Config,
        map_seeds: Callable[..., Any] | None = None,
        together: int = 1,
    ) -> None:
        """Compiles it, and initialises the state; see `compile_program`."""
        self.agent, self.update, self._place = compile_program(
            config, map_seeds, together
        )
        self._together = together
        self.seeds = len(config.seeds)
        self._start(config.seeds)
        self._batch = self._placed(random_batch(size_of(config)))

    def _start(self, seeds: Sequence[int]) -> None:
        keys, *_ = run_keys(seeds)
        self.state = initialise(self.agent, keys)

    def _placed(self, batch: Batch) -> Batch:
        """Returns the batch on the mesh, the same for each seed."""
        return self._place(
            jax.tree.map(lambda part: np.stack([part] * self.seeds), batch)
        )

    def seconds(self, updates: int = 1) -> float:
        """Returns the seconds of one update of all seeds.

        Args:
          updates: that are timed, a multiple of those of the program.
        """
        batches = [self._batch] * self._together

        def work() -> None:
            for _ in range(updates // self._together):
                self.state, metrics = self.update(self.state, *batches)
            jax.block_until_ready(metrics)

        return seconds(work) / updates

    def step(self, batch: Batch) -> Mapping[str, jax.Array]:
        """Does one update of all seeds with a batch; returns its metrics."""
        self.state, metrics = self.update(self.state, self._placed(batch))
        return metrics

    def run(self, seeds: Sequence[int], batches: Sequence[Batch]) -> Outcome:
        """Trains some seeds from the start; returns the last metrics and parameters."""
        self._start(seeds)
        for batch in batches:
            metrics = self.step(batch)
        learnt = self.agent.acting_params(self.state)
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(learnt)]
        flat = np.concatenate([leaf.reshape(self.seeds, -1) for leaf in leaves], axis=1)
        return {"parameters": flat} | {
            name: np.asarray(value) for name, value in metrics.items()
        }


def measure_scale(preset: str = "cpu", rounds: int = 3) -> Part:
    """Yields the speed of several seeds, what they learn, and several devices."""
    yield from measure_seeds(preset, rounds)
    yield from measure_difference("tiny")
    yield from measure_devices(preset)


def measure_seeds(preset: str, rounds: int, counts: Sequence[int] = _SEEDS) -> Part:
    """Yields seed-updates a second of S seeds, beside an update without a seed axis."""
    timed: dict[str, Program] = {}
    for count in counts:
        timed[f"seeds{count}"] = Program(config_of(preset, count))
    if jax.default_backend() == "cpu":
        timed["seeds2/vmap"] = Program(config_of(preset, 2), jax.vmap)
    config = config_of(preset, 1)
    plain = Timed(agent_of(config), random_batch(size_of(config)), updates=4)
    measured = []
    for _ in range(_WARM_UP + rounds):
        spent = {
            name: program.seconds(max(1, 4 // program.seeds)) / program.seeds
            for name, program in timed.items()
        }
        measured.append(spent | {"plain": plain.seconds()})
    for name in timed:
        yield figure_of(
            f"scale/{preset}/{name}",
            "seed-updates/s",
            "one seed, without the axis",
            [(1 / spent[name], 1 / spent["plain"]) for spent in measured[_WARM_UP:]],
        )


def measure_difference(preset: str, updates: int = 200) -> Part:
    """Yields how far two seeds trained together come from each alone, relatively."""
    for way, difference in differences(preset, updates, (0, 1), _WAYS).items():
        yield (
            f"scale/{preset}: two seeds together by {way}, and each alone, after "
            f"{updates} updates: largest relative difference {difference:.1e} (losses "
            "one by one, parameters as one vector)"
        )


def differences(
    preset: str,
    updates: int,
    seeds: Sequence[int],
    ways: Mapping[str, Callable[..., Any]],
) -> dict[str, float]:
    """Returns the largest relative difference between seeds together and each alone.

    Args:
      preset: of the configuration.
      updates: done before they are compared, on the same batches of noise.
      seeds: that are trained.
      ways: name -> how they are mapped over when together.

    Returns:
      Name -> the largest over seeds, over losses and the norm of all parameters.
    """
    size = size_of(config_of(preset, 1))
    batches = [random_batch(size, number) for number in range(updates)]
    program = Program(config_of(preset, 1))
    alone = [program.run([seed], batches) for seed in seeds]
    found = {}
    for way, map_seeds in ways.items():
        together = Program(config_of(preset, len(seeds)), map_seeds).run(seeds, batches)
        found[way] = max(
            _difference(values[index], alone[index][metric][0])
            for metric, values in together.items()
            for index in range(len(seeds))
        )
    return found


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    norm = float(np.linalg.norm(theirs))
    return float(np.linalg.norm(np.float64(ours) - theirs)) / max(norm, 1e-6)


def measure_devices(preset: str, meshes: Sequence[tuple[int, int]] = _MESHES) -> Part:
    """Yields two seeds' updates on several devices, beside those on one."""
    facts = [_in_a_process(preset, *mesh) for mesh in meshes]
    for (groups, width), fact in zip(meshes[1:], facts[1:], strict=True):
        pairs = zip(fact["seconds"], facts[0]["seconds"], strict=True)
        yield figure_of(
            f"scale/{preset}/{groups}x{width}",
            "s for 2 seeds",
            "one device",
            list(pairs),
            less_is_better=True,
        )
    for (groups, width), fact in zip(meshes, facts, strict=True):
        yield (
            f"scale/{preset}/{groups}x{width}: {fact['gigabytes']:.2f} GB a device, "
            f"{fact['kind']}"
        )


def _in_a_process(preset: str, groups: int, width: int) -> dict[str, Any]:
    environment = dict(os.environ)
    if jax.default_backend() == "cpu":
        known = environment.get("XLA_FLAGS", "")
        environment["XLA_FLAGS"] = f"{known} {_FORCE_DEVICES}={groups * width}"
    done = subprocess.run(
        [sys.executable, "-m", __name__, preset, str(groups), str(width)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def config_of(preset: str, seeds: int) -> Config:
    """Returns a preset with so many seeds on one device, in float32."""
    config = preset_config(preset)
    config.compute_dtype = "float32"
    config.seeds = tuple(range(seeds))
    config.mesh.update(seed=1, data=1)
    return config


def main(preset: str, groups: str, width: str) -> None:
    """Times two seeds' update on a mesh; prints the seconds and more as JSON."""
    config = config_of(preset, 2)
    config.mesh.update(seed=int(groups), data=int(width))
    program = Program(config)
    fact = {
        "seconds": [program.seconds(2) for _ in range(4)][1:],
        "gigabytes": peak_bytes(program.update) / 1e9,
        "kind": devices.describe(devices.make_mesh(config, config.replay.batch_size)),
    }
    print(json.dumps(fact))


if __name__ == "__main__":
    from experiments.command_line import prepare_jax

    prepare_jax()
    main(*sys.argv[1:])
