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
      agent: built from it.
      state: the agent's.
      metadata: everything else; see `training.Run.save`.
    """

    path: Path
    config: Config
    agent: Agent
    state: Any
    metadata: dict[str, Any]


def restore_agent(path: str | os.PathLike[str]) -> Restored:
    """Returns the agent of a run's newest intact checkpoint, or of a step's.

    Raises:
      CheckpointError: if there is none, or it does not fit the code.
    """
    path = checkpoints.find(path)
    config: Config = ConfigDict(checkpoints.read_metadata(path)["config"])
    agent = make_agent(
        config, action_size=tasks.NUM_ACTIONS, image_size=config.env.image_size
    )
    abstract = jax.eval_shape(agent.init, jax.random.key(0))
    state, metadata = checkpoints.restore(path, abstract)
    return Restored(path, config, agent, state, metadata)
