"""An agent from a checkpoint alone: its configuration is part of it."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from moto_jax.agents import make_agent
from moto_jax.run_layout import with_later_keys
from moto_jax.running import checkpoints
from moto_jax.types import Agent, Config, Params
from moto_jax.worlds.registry import make_world


class Restored(NamedTuple):
    """What a checkpoint holds.

    Attributes:
      path: of the step's directory.
      config: the run's resolved configuration.
      seed: the one of its seeds that was asked for.
      agent: built from the configuration.
      state: the agent's, of that seed.
      metadata: everything else; see `loop.Run.save`.
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
    config = read_config(path)
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
    agent = _agent_of(path, config)
    states, metadata = checkpoints.restore(path, abstract_states(agent, seeds))
    index = seeds.index(seed)
    # In one program, in place of one for every leaf's shape.
    state = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf[index], tree))(states)
    return Restored(path, config, seed, agent, state, metadata)


class KeptCheckpoints(NamedTuple):
    """All checkpoints that a run has kept, of one agent.

    Attributes:
      config: the run's resolved configuration.
      agent: built once, so that what is compiled for one checkpoint serves all.
      steps: updates done at each, oldest first.
      acting_params: step -> what the policies act with, of all seeds: [seeds, ...].
        Raises CheckpointError for a step that is not intact.
    """

    config: Config
    agent: Agent
    steps: tuple[int, ...]
    acting_params: Callable[[int], Params]


def open_checkpoints(run: str | os.PathLike[str]) -> KeptCheckpoints:
    """Returns what a run has kept; parameters are read when asked for.

    Raises:
      CheckpointError: if it has none, or the newest intact one does not fit the code.
    """
    directory = checkpoints.find(run).parent
    config = read_config(directory)
    agent = _agent_of(directory, config)
    abstract = abstract_states(agent, list(config.seeds))

    def acting_params(step: int) -> Params:
        states, _ = checkpoints.restore(directory / str(step), abstract)
        return agent.acting_params(states)

    steps = tuple(checkpoints.steps(directory))
    return KeptCheckpoints(config, agent, steps, acting_params)


def read_config(path: Path) -> Config:
    """Returns a checkpoint's configuration, with keys that an old one lacks.

    Raises:
      CheckpointError: if it holds what is none.
    """
    with _understood(path):
        metadata = checkpoints.read_metadata(path)
        return ConfigDict(with_later_keys(metadata["config"]))


def _agent_of(path: Path, config: Config) -> Agent:
    """Returns the agent of a checkpoint's configuration; see `build_agent`."""
    with _understood(path):
        return build_agent(config)


@contextlib.contextmanager
def _understood(path: Path) -> Iterator[None]:
    """Names a checkpoint whose configuration lacks a key, or holds another kind there.

    A stranger's may hold anything. What is checked by its key's name says so itself.
    """
    try:
        yield
    except (LookupError, AttributeError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise checkpoints.CheckpointError(
            f"the configuration of checkpoint {path} cannot be used "
            f"({type(error).__name__}: {reason}): use the commit that it was saved with"
        ) from None


def build_agent(config: Config) -> Agent:
    """Returns the agent of a configuration, for its own world.

    Raises:
      ValueError: for a configuration of another version of this code.
    """
    world = make_world(config)
    return make_agent(
        config, action_size=world.action_size, image_size=world.image_size
    )


def abstract_states(agent: Agent, seeds: list[int]) -> Any:
    """Returns shapes and dtypes of the seeds' states, side by side."""
    keys = jax.random.split(jax.random.key(0), len(seeds))
    return jax.eval_shape(jax.vmap(agent.init), keys)
