"""An agent from a checkpoint alone: its configuration is part of it."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from moto_jax import checkpoints
from moto_jax.agents import make_agent
from moto_jax.envs import tasks
from moto_jax.types import Agent, Config


class Restored(NamedTuple):
    """What a checkpoint holds.

    Attributes:
      path: of the step's directory.
      config: the run's resolved configuration.
      seed: the one of its seeds that was asked for.
      agent: built from the configuration.
      state: the agent's, of that seed.
      metadata: everything else; see `training.Run.save`.
    """

    path: Path
    config: Config
    seed: int
    agent: Agent
    state: Any
    metadata: dict[str, Any]


def restore_agent(path: str | os.PathLike[str], seed: int | None = None) -> Restored:
    """Returns the agent of a run's newest intact checkpoint, or of a step's.

    Args:
      path: a run, its checkpoints, or one step of them.
      seed: which of the run's; may be left out where there is one.

    Raises:
      CheckpointError: if there is none, it does not fit the code, or lacks the seed.
    """
    path = checkpoints.find(path)
    config: Config = ConfigDict(checkpoints.read_metadata(path)["config"])
    seeds = list(config.get("seeds", ()))
    if not seeds:
        raise checkpoints.CheckpointError(
            f"checkpoint {path} is of a version without several seeds: train again"
        )
    if seed is None and len(seeds) == 1:
        seed = seeds[0]
    if seed is None or seed not in seeds:
        raise checkpoints.CheckpointError(
            f"checkpoint {path} holds the seeds {', '.join(map(str, seeds))}: choose "
            "one of them with --seed"
        )
    agent = make_agent(
        config, action_size=tasks.NUM_ACTIONS, image_size=config.env.image_size
    )
    keys = jax.random.split(jax.random.key(0), len(seeds))
    abstract = jax.eval_shape(jax.vmap(agent.init), keys)
    states, metadata = checkpoints.restore(path, abstract)
    index = seeds.index(seed)
    # In one program, in place of one for every leaf's shape.
    state = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf[index], tree))(states)
    return Restored(path, config, seed, agent, state, metadata)
