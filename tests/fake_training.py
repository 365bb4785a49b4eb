"""Short runs of the training loop: a fake kitchen and an agent of nine weights.

As a program it does one run, which tests kill:

    python -m tests.fake_training WORKDIR LINES

kills itself with SIGKILL once metrics.jsonl has so many lines.
"""

import contextlib
import functools
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from experiments.configs import base
from moto_jax.acting import collection, videos
from moto_jax.acting.collection import PoolStage, make_policy_step
from moto_jax.acting.environment_seeds import Purpose
from moto_jax.acting.worker_pool import WorkerPool
from moto_jax.running import checkpoints, training
from moto_jax.running.metrics import MetricsWriter
from moto_jax.types import Agent, Policy
from moto_jax.worlds import registry
from tests.fake_kitchen import FakeKitchen, demonstrations

DEMONSTRATIONS = demonstrations()

# Updates 0 .. 4 offline, then three episodes with two updates each.
OFFLINE, EPISODES, UPDATES = 5, 3, 2
TOTAL = OFFLINE + EPISODES * UPDATES


def small_config(**changes: Any):
    """Returns a configuration for the fakes; `changes` are of its section training."""
    config = base.get_config("tiny")
    config.env.update(image_size=8, workers=2)
    config.replay.update(batch_size=2, sequence_length=4)
    config.mesh.update(seed=1, data=1)
    config.training.update(
        offline_updates=OFFLINE,
        online_episodes=EPISODES,
        updates_per_episode=UPDATES,
        log_every=1,
        checkpoint_every=4,
    )
    config.training.update(changes)
    return config


@struct.dataclass
class FakeState:
    """As little as an update needs to depend on everything that a run restores."""

    key: jax.Array
    step: jax.Array
    weight: jax.Array
    skipped: jax.Array


def summary(batch) -> jax.Array:
    """Returns one number in which every field of a batch counts.

    By sums of integers, which come out the same in any order, on any devices.
    """
    scales = {
        "image": 1.0,
        "prev_action": 1e3,
        "behaviour_action": 1e3,
        "reward": 1e2,
        "is_behaviour": 1e2,
    }
    total = 0.0
    for field, scale in scales.items():
        values = jnp.asarray(getattr(batch, field), jnp.float32)
        whole = jnp.sum(jnp.round(scale * values).astype(jnp.int32))
        total += whole / (255 * values.size)
    return total


def make_fake_agent(not_finite: Iterable[int] = (), model_share: float = 0.0) -> Agent:
    """Returns an agent whose updates with these numbers are skipped as not finite.

    With a share it begins with a phase of another update.
    """
    # Not of jax, whose backend a program may not have started yet.
    not_finite = np.asarray(list(not_finite) or [-1])

    def init(key):
        key, weight_key = jax.random.split(key)
        weight = 0.1 * jax.random.normal(weight_key, (9,))
        return FakeState(key, jnp.int32(0), weight, jnp.int32(0))

    def update(state, batch):
        # The key moves on, so that a run that forgot to restore it would be another.
        key, noise_key = jax.random.split(state.key)
        noise = jax.random.normal(noise_key, state.weight.shape)
        signal = summary(batch)
        finite = ~jnp.any(state.step == not_finite)
        moved = 0.9 * state.weight + 0.1 * jnp.sin(signal + noise)
        weight = jnp.where(finite, moved, state.weight)
        skipped = jnp.where(finite, 0, state.skipped + 1)
        metrics = {
            "signal": jnp.where(finite, signal, jnp.nan),
            "skipped_in_a_row": skipped,
            **{f"weight/{index}": weight[index] for index in range(2)},
        }
        return FakeState(key, state.step + 1, weight, skipped), metrics

    def model_update(state, batch):
        state, metrics = update(state, batch)
        return state.replace(weight=-state.weight), metrics

    def policy(noise_scale):
        def act(params, carry, image, is_first, key):
            carry = jnp.where(is_first[:, None], 0.0, carry)
            seen = jnp.mean(image.astype(jnp.float32), axis=(1, 2)) / 255
            noise = noise_scale * jax.random.normal(key, carry.shape)
            action = jnp.sin(params["weight"][None] + seen[:, :1] + carry + noise)
            return action, carry + 0.1 * action

        return Policy(lambda count: jnp.zeros((count, 9)), act)

    return Agent(
        init=init,
        updates={"offline": update, "online": update}
        | ({"model": model_update} if model_share else {}),
        policies={
            "mean": policy(0.0),
            "sampled": policy(0.5),
            "mean_with_noise": policy(0.1),
        },
        # No copy: whoever keeps these beyond the next update must make one.
        acting_params=lambda state: {"weight": state.weight},
        batch_shape=(4, 2),
        model_share=model_share,
    )


AGENT = make_fake_agent()

# The same policies in every run: they are traced once for all of them.
_policy_step_once = functools.cache(make_policy_step)


def install(
    replace: Callable[[Any, str, Any], None], pool: WorkerPool, agent: Agent = AGENT
) -> None:
    """Puts the fakes where training finds what they stand for.

    Args:
      replace: as `setattr`, or pytest's `monkeypatch.setattr`.
      pool: of fake kitchens; runs share it and leave it open.
      agent: what learns.
    """
    replace(collection, "make_policy_step", _policy_step_once)
    replace(videos, "write_video", lambda path, frames: path.write_bytes(b""))

    def make_world(config):
        return registry.make_world(config)._replace(
            open_stage=lambda: contextlib.nullcontext(PoolStage(pool)),
            prepare=lambda: None,
            renderer_name=lambda: None,
        )

    replacements = {
        "load_demonstrations": lambda source, world, directory: DEMONSTRATIONS,
        "make_agent": lambda config, **sizes: agent,
        "make_world": make_world,
    }
    for name, replacement in replacements.items():
        replace(training, name, replacement)


def collects(seed: int) -> bool:
    """Whether an environment seed is of an online episode; else of an evaluation."""
    return seed >> 29 == Purpose.TRAINING


def on_line(
    replace: Callable[[Any, str, Any], None], act: Callable[[int, str], None]
) -> None:
    """Calls `act` (step, phase) after each line of metrics."""
    write = MetricsWriter.write

    def write_and_act(self, step, phase, metrics):
        write(self, step, phase, metrics)
        act(step, phase)

    replace(MetricsWriter, "write", write_and_act)


def on_update(
    replace: Callable[[Any, str, Any], None], act: Callable[[int], None]
) -> None:
    """Calls `act` (updates done) at the end of each update."""
    update = training.Run._update

    def update_and_act(self, *args):
        update(self, *args)
        act(self.done)

    replace(training.Run, "_update", update_and_act)


def abstract_states(agent: Agent = AGENT, seeds: int = 1):
    """Returns shapes and dtypes of what a checkpoint of so many seeds holds."""
    keys = jax.random.split(jax.random.key(0), seeds)
    return jax.eval_shape(jax.vmap(agent.init), keys)


class Outcome(NamedTuple):
    """Everything about a run that must not depend on how often it was interrupted.

    Attributes:
      lines: of metrics.jsonl, without the keys that tell of time.
      leaves: name -> bytes, of the newest checkpoint's state.
      metadata: of that checkpoint, without the time.
      online: file name -> contents of the collected episodes.
    """

    lines: list[dict[str, Any]]
    leaves: dict[str, bytes]
    metadata: dict[str, Any]
    online: dict[str, bytes]


def outcome(workdir: Path, agent: Agent = AGENT) -> Outcome:
    """Reads a run's outcome from its directory; the run has one seed."""
    state, metadata = checkpoints.restore(workdir, abstract_states(agent))
    leaves = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        leaves[jax.tree_util.keystr(path)] = np.asarray(leaf).tobytes()
    del metadata["wall_seconds"]
    paths = sorted((workdir / "online").iterdir())
    return Outcome(
        lines=metrics_lines(workdir),
        leaves=leaves,
        metadata=metadata,
        online={path.name: path.read_bytes() for path in paths},
    )


def metrics_lines(workdir: Path) -> list[dict[str, Any]]:
    """Returns the records of metrics.jsonl, without the keys that tell of time."""
    text = (workdir / "metrics.jsonl").read_text()
    return [
        {key: value for key, value in record.items() if not key.startswith("wall_")}
        for record in map(json.loads, text.splitlines())
    ]


def refused(workdir: Path, error: type[Exception], config=None, **kwargs: Any) -> str:
    """Returns the one sentence with which a run is refused; it must change nothing."""
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    with pytest.raises(error) as raised:
        training.train(config or small_config(), workdir, **kwargs)
    after = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    assert after == before
    assert "\n" not in str(raised.value)
    return str(raised.value)


def main(workdir: str, lines: str) -> None:
    """Does a run until metrics.jsonl has so many lines."""
    left = iter(range(int(lines) - 1, -1, -1))

    def act(step: int, phase: str) -> None:
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    on_line(setattr, act)
    with WorkerPool(FakeKitchen, num_workers=2) as pool:
        install(setattr, pool)
        training.train(small_config(), Path(workdir))


if __name__ == "__main__":
    main(*sys.argv[1:])
