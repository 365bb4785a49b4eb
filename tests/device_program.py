"""An agent's update on a mesh of forced CPU devices, told as JSON; tests run it.

    python -m tests.device_program AGENT GROUPS WIDTH

Two seeds, batches of four sequences, three updates.
"""

import json
import os
import re
import sys

# Before jax starts; without optimisation, since compiling takes most of the time.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0 "
    "--xla_cpu_use_fusion_emitters=false"
)

import jax
import numpy as np

from experiments.configs.base import get_config
from moto_jax.agents import make_agent
from moto_jax.running import devices
from moto_jax.running.compilation import compile_updates
from moto_jax.running.players import run_keys
from tests.fakes import random_batch

SEEDS, BATCH_SIZE, UPDATES = (0, 1), 4, 3
COLLECTIVES = (
    *("all-gather", "all-reduce", "all-to-all", "collective-permute"),
    *("reduce-scatter", "collective-broadcast"),
)


def batch_of(step, length):
    """Returns NumPy arrays [seeds, T, B, ...]."""
    size = {"action_size": 9, "image_size": 64}
    each = [
        random_batch(length, BATCH_SIZE, seed=10 * seed + step, **size)
        for seed in SEEDS
    ]
    return jax.tree.map(lambda *parts: np.stack(parts), *each)


def collectives(text):
    """Returns the largest number of elements that each kind of collective makes."""
    largest = {}
    for line in text.splitlines():
        for kind in COLLECTIVES:
            made = re.search(rf"= (.*?) {kind}(-start)?\(", line)
            if made:
                shapes = re.findall(r"\w+\[([\d,]*)\]", made[1])
                sizes = [
                    int(np.prod([int(n) for n in shape.split(",") if n], dtype=int))
                    for shape in shapes
                ]
                largest[kind] = max(largest.get(kind, 0), *sizes)
    return largest


def main(name: str, groups: str, width: str) -> None:
    config = get_config("tiny")
    config.agent, config.seeds = name, SEEDS
    config.mesh.update(seed=int(groups), data=int(width))
    mesh = devices.make_mesh(config, BATCH_SIZE)
    one = make_agent(config, action_size=9, image_size=64)
    length = one.batch_shape[0]
    agent = devices.over_seeds(one, mesh)
    keys, *_ = run_keys(SEEDS)
    state = jax.jit(agent.init)(keys)
    size = (len(SEEDS), BATCH_SIZE, mesh)
    abstract = devices.abstract_state(agent, keys, mesh)
    update = compile_updates(
        agent, abstract, devices.abstract_batch(batch_of(0, length), *size)
    )["offline", 1]
    losses = []
    for step in range(UPDATES):
        batch = devices.place_batch(batch_of(step, length), *size)
        state, metrics = update(state, batch)
        losses.append(jax.tree.map(np.ndarray.tolist, jax.device_get(metrics)))
    acting = jax.tree.leaves(agent.acting_params(state))
    params = [np.asarray(leaf).ravel() for leaf in acting]
    facts = {
        "mesh": list(mesh.devices.shape),
        "metrics": losses,
        "params": np.concatenate(params).tolist(),
        "collectives": collectives(update.as_text()),
        "image_shards": sorted(
            shard.data.shape for shard in batch.image.addressable_shards
        ),
        "params_shards": sorted(
            shard.data.shape for shard in acting[-1].addressable_shards
        ),
        "acting": np.asarray(
            jax.tree.leaves(devices.local_copy(agent.acting_params(state), [1]))[0]
        ).tolist(),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main(*sys.argv[1:])
