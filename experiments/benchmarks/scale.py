"""Many seeds, many devices, larger sizes: what an update then takes.

As a program it times one update on so many groups of devices; the benchmark starts it,
since a process has the devices it began with:

    python -m experiments.benchmarks.scale PRESET GROUPS WIDTH
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from experiments.benchmarks.flops import count_flops
from experiments.benchmarks.measure import Part, figure_of, seconds
from experiments.benchmarks.reference import make_plain_model
from experiments.benchmarks.update import (
    Size,
    peak_bytes,
    preset_config,
    random_batch,
)
from moto_jax import devices
from moto_jax.agents.moto import make_moto
from moto_jax.envs import tasks
from moto_jax.players import run_keys
from moto_jax.training import compile_updates, initialise
from moto_jax.types import Agent, Batch, Config
from moto_jax.world_model import WorldModel, make_world_model

_SEEDS = (1, 2, 4, 8)
# Groups and width of the meshes that are timed; one device comes first.
_MESHES = ((1, 1), (1, 2), (2, 1))
_FORCE_DEVICES = "--xla_force_host_platform_device_count"


# Metric -> [seeds], and "parameters" -> [seeds, all of them].
Outcome = dict[str, np.ndarray]

# How the seeds of a group are mapped over; see `devices.over_seeds`.
_WAYS = {"vmap": jax.vmap, "loop": devices.one_after_another}


class Program:
    """An update of several seeds on a mesh, with its state, timed a few at a time."""

    def __init__(
        self, config: Config, map_seeds: Callable[..., Any] | None = None
    ) -> None:
        """Compiles the update for a batch of noise.

        Args:
          config: of a run; its seeds and mesh count.
          map_seeds: see `devices.over_seeds`.
        """
        self.seeds = len(config.seeds)
        mesh = devices.make_mesh(config)
        self.agent = devices.over_seeds(_agent(config), mesh, map_seeds)
        keys, *_ = run_keys(config.seeds)
        size = _size_of(config)
        one = random_batch(size)
        batch = jax.tree.map(lambda part: np.stack([part] * self.seeds), one)
        shape = (self.seeds, size.batch_size, mesh)
        self.update = compile_updates(
            self.agent,
            devices.abstract_state(self.agent, keys, mesh),
            devices.abstract_batch(batch, *shape),
        )["offline"]
        self.state = initialise(self.agent, keys)
        self._place = lambda batch: devices.place_batch(batch, *shape)
        self._batch = self._place(batch)

    def seconds(self, updates: int = 1) -> float:
        """Returns the seconds of one update of all seeds."""

        def work() -> None:
            for _ in range(updates):
                self.state, metrics = self.update(self.state, self._batch)
            jax.block_until_ready(metrics)

        return seconds(work) / updates

    def run(self, seeds: Sequence[int], batches: Sequence[Batch]) -> Outcome:
        """Trains some seeds from the start; returns the last metrics and parameters."""
        keys, *_ = run_keys(seeds)
        self.state = initialise(self.agent, keys)
        for batch in batches:
            stacked = jax.tree.map(lambda part: np.stack([part] * self.seeds), batch)
            self.state, metrics = self.update(self.state, self._place(stacked))
        learnt = self.agent.acting_params(self.state)
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(learnt)]
        flat = np.concatenate([leaf.reshape(self.seeds, -1) for leaf in leaves], axis=1)
        return {"parameters": flat} | {
            name: np.asarray(value) for name, value in metrics.items()
        }


def measure_scale(preset: str = "cpu", rounds: int = 3) -> Part:
    """Yields seeds a program, devices an update, and time and memory by size."""
    yield from measure_seeds(preset, rounds)
    yield from measure_difference("tiny")
    yield from measure_devices(preset)
    yield from measure_sizes(preset, rounds)


def measure_seeds(preset: str, rounds: int, counts: Sequence[int] = _SEEDS) -> Part:
    """Yields seed-updates a second of S seeds, beside an update without a seed axis."""
    timed: dict[str, Program] = {}
    for count in counts:
        timed[f"seeds{count}"] = Program(_config(preset, count))
    if jax.default_backend() == "cpu":
        timed["seeds2/vmap"] = Program(_config(preset, 2), jax.vmap)
    config = _config(preset, 1)
    agent, batch = _agent(config), random_batch(_size_of(config))
    key = jax.random.key(0)
    plain = compile_updates(agent, jax.eval_shape(agent.init, key), batch)["offline"]
    state, batch = initialise(agent, key), jax.device_put(batch)
    measured = []
    for _ in range(1 + rounds):
        spent = {
            name: program.seconds(max(1, 4 // program.seeds)) / program.seeds
            for name, program in timed.items()
        }

        def work() -> None:
            nonlocal state
            for _ in range(4):
                state, metrics = plain(state, batch)
            jax.block_until_ready(metrics)

        measured.append(spent | {"plain": seconds(work) / 4})
    for name in timed:
        yield figure_of(
            f"scale/{preset}/{name}",
            "seed-updates/s",
            "one seed, without the axis",
            [(1 / spent[name], 1 / spent["plain"]) for spent in measured[1:]],
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
    size = _size_of(_config(preset, 1))
    batches = [random_batch(size, number) for number in range(updates)]
    program = Program(_config(preset, 1))
    alone = [program.run([seed], batches) for seed in seeds]
    found = {}
    for way, map_seeds in ways.items():
        together = Program(_config(preset, len(seeds)), map_seeds).run(seeds, batches)
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


def measure_sizes(preset: str, rounds: int) -> Part:
    """Yields time, arithmetic and memory of one update as its sizes are doubled."""
    doubled: dict[str, dict[str, Any]] = {
        "batch": {"replay.batch_size": 2},
        "sequence": {"replay.sequence_length": 2},
        "horizon": {"moto.horizon": 2},
        "latent": {
            "world_model.deter": 2,
            "world_model.hidden": 2,
            "world_model.groups": 2,
        },
    }
    programs = {"as it is": _Sized(_config(preset, 1))}
    for name, factors in doubled.items():
        config = _config(preset, 1)
        flat = {key: _get(config, key) * factor for key, factor in factors.items()}
        config.update_from_flattened_dict(flat)
        programs[name] = _Sized(config)
    measured = [
        {name: sized.program.seconds(2) for name, sized in programs.items()}
        for _ in range(1 + rounds)
    ][1:]
    base = programs["as it is"]
    for name in programs:
        if name != "as it is":
            yield figure_of(
                f"scale/{preset}/2x {name}",
                "s an update",
                "the preset's",
                [(spent[name], spent["as it is"]) for spent in measured],
                less_is_better=True,
            )
    for name, sized in programs.items():
        yield (
            f"scale/{preset}/{name}: {sized.flops / 1e9:.1f} GFLOP "
            f"({sized.flops / base.flops:.2f}x), {sized.gigabytes:.2f} GB "
            f"({sized.gigabytes / base.gigabytes:.2f}x)"
        )


class _Sized:
    """One seed's update, with its arithmetic and memory."""

    def __init__(self, config: Config):
        self.program = Program(config)
        self.gigabytes = peak_bytes(self.program.update) / 1e9
        self.flops = flops_of(config)


def flops_of(config: Config) -> float:
    """Returns the arithmetic of one seed's update, of the plain convolutions."""
    agent = _agent(config, make_plain_model)
    state = jax.eval_shape(agent.init, jax.random.key(0))
    batch = random_batch(_size_of(config))
    return count_flops(agent.updates["offline"], state, batch)


def _agent(
    config: Config, make_model: Callable[..., WorldModel] = make_world_model
) -> Agent:
    return make_moto(
        config,
        action_size=tasks.NUM_ACTIONS,
        image_size=config.env.image_size,
        make_model=make_model,
    )


def _config(preset: str, seeds: int) -> Config:
    """Returns a preset with so many seeds on one device, in float32."""
    config = preset_config(preset)
    config.compute_dtype = "float32"
    config.seeds = tuple(range(seeds))
    config.mesh.update(seed=1, data=1)
    return config


def _size_of(config: Config) -> Size:
    section = config.replay
    return Size(config.size, section.batch_size, section.sequence_length, 1, 1)


def _get(config: Config, key: str) -> Any:
    for part in key.split("."):
        config = config[part]
    return config


def main(preset: str, groups: str, width: str) -> None:
    """Times two seeds' update on a mesh; prints the seconds and more as JSON."""
    config = _config(preset, 2)
    config.mesh.update(seed=int(groups), data=int(width))
    program = Program(config)
    fact = {
        "seconds": [program.seconds(2) for _ in range(4)][1:],
        "gigabytes": peak_bytes(program.update) / 1e9,
        "kind": devices.describe(devices.make_mesh(config)),
    }
    print(json.dumps(fact))


if __name__ == "__main__":
    from experiments.command_line import prepare_jax

    prepare_jax()
    main(*sys.argv[1:])
