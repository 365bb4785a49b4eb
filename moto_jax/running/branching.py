"""A run that starts from another's newest checkpoint: state, demonstrations, episodes.

It takes over the whole state of every seed but its random key, into which the branch's
own seed is folded, so that branches of one run differ. The state's counter goes on, and
with it the schedules of learning rates and targets; the run's own count of updates, its
phases and its budget begin at 0. Its replay holds what the other's held: demonstrations
and collected episodes, which stay where they are.
"""

import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from moto_jax.data.episodes import read_manifest
from moto_jax.run_layout import (
    CONFIG_NAME,
    LATER_KEYS,
    RunError,
    flat_config,
    read_object,
    seed_directory,
)
from moto_jax.running import checkpoints, devices
from moto_jax.running.checkpoint_leaves import require_same_leaves
from moto_jax.types import Agent, Config
from moto_jax.worlds.sources import dataset_directories

# Keys that say what is observed and done, and with what; a branch has its parent's.
_SHARED = (
    *("agent", "env.name", "env.image_size", "env.render_profile"),
    *("data.source", "data.seed", "data.episodes", "data.complete_share"),
    "data.action_noise",
    # What an image's numbers mean to the networks, whose shapes do not tell.
    "world_model.colour_scale",
)

# Beginnings of keys that decide the networks' and the optimisers' shapes.
_NETWORKS = (
    *("world_model.", "actor.", "critic.", "latent.", "model_free.", "optimizer."),
    "moto.critic_layers",
)


class Parent(NamedTuple):
    """The checkpoint that a run starts from.

    Attributes:
      path: of the step's directory.
      seeds: how many it holds, as many as the run has, or one for all.
      episodes: for each of the run's seeds the online episodes that the checkpoint
        knows, sha256 by path, in order of collection.
    """

    path: Path
    seeds: int
    episodes: list[dict[str, str]]


def find_parent(config: Config, agent: Agent) -> Parent:
    """Returns the newest intact checkpoint of the run in `config.init_from`.

    Args:
      config: of the run that is to start.
      agent: the run's, of one seed.

    Raises:
      CheckpointError: if there is none, or its state has other leaves.
      RunError: if what it was trained with does not fit; names the key and both values.
      DatasetError: if its demonstrations cannot be read.
    """
    path = checkpoints.find(config.init_from)
    metadata = checkpoints.read_metadata(path)
    made_with = LATER_KEYS | flat_config(metadata["config"])
    wanted = flat_config(config.to_dict())
    # Demonstrations of the kitchen's recorded files are of no task.
    shared = [*_SHARED, "task"] if config.data.source == "scripted" else _SHARED
    _check_alike(path, made_with, wanted, shared)
    seeds = len(made_with["seeds"])
    if seeds not in (1, len(config.seeds)):
        raise RunError(
            f"config.seeds has {len(config.seeds)} seeds, but {path} holds {seeds}: "
            "start as many seeds from it, or give a run of a single one for all"
        )
    try:
        require_same_leaves(path, _abstract(agent, seeds))
    except checkpoints.CheckpointError:
        networks = [
            key for start in _NETWORKS for key in wanted if key.startswith(start)
        ]
        _check_alike(path, made_with, wanted, networks)
        raise
    _check_dataset(config, path)
    episodes = _episodes(path, metadata)
    return Parent(path, seeds, episodes * (len(config.seeds) // seeds))


def branch_state(agent: Agent, parent: Parent, seeds: Sequence[int], mesh: Mesh) -> Any:
    """Returns the parent's state for each of the run's seeds, with a key of its own.

    Args:
      agent: of one seed.
      parent: from `find_parent`.
      seeds: the run's.
      mesh: what the seeds are trained on.

    Returns:
      States [seeds, ...], placed as `devices.state_sharding` says.
    """
    sharding = devices.state_sharding(mesh)
    as_saved = sharding
    if parent.seeds != len(seeds):
        # One seed does not divide over groups of devices.
        as_saved = NamedSharding(mesh, PartitionSpec())
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=as_saved),
        _abstract(agent, parent.seeds),
    )
    state, _ = checkpoints.restore(parent.path, abstract)
    if parent.seeds != len(seeds):
        every = operator.itemgetter(np.zeros(len(seeds), np.int32))
        spread = jax.jit(lambda tree: jax.tree.map(every, tree), out_shardings=sharding)
        state = spread(state)
    fold = jax.jit(jax.vmap(jax.random.fold_in), out_shardings=sharding)
    return state.replace(key=fold(state.key, np.array(seeds, np.uint32)))


def dataset_directory(config: Mapping[str, Any], workdir: Path) -> Path:
    """Returns where a run's demonstrations lie: a branch's are its parent's.

    Args:
      config: of the run.
      workdir: its directory.

    Raises:
      RunError: if a run that it starts from has no readable configuration.
    """
    if config["data"]["directory"]:
        return Path(config["data"]["directory"])
    # Runs from before there were branches know nothing of it.
    if not config.get("init_from"):
        return workdir / "dataset"
    parent = _run_of(Path(config["init_from"]))
    return dataset_directory(read_object(parent / CONFIG_NAME), parent)


def _run_of(path: Path) -> Path:
    """Returns the directory of a run, given that, its checkpoints or one step."""
    for directory in (path, path.parent):
        if directory.name == "checkpoints":
            return directory.parent
    return path


def _abstract(agent: Agent, seeds: int) -> Any:
    keys = jax.random.split(jax.random.key(0), seeds)
    return jax.eval_shape(jax.vmap(agent.init), keys)


def _check_alike(
    path: Path,
    made_with: Mapping[str, Any],
    wanted: Mapping[str, Any],
    keys: Sequence[str],
) -> None:
    for key in keys:
        # A key that an older version did not have says nothing.
        if key in made_with and made_with[key] != wanted[key]:
            raise RunError(
                f"config.{key} is {wanted[key]!r}, but {path} was made with "
                f"{made_with[key]!r}: use that value, or start from another run"
            )


def _check_dataset(config: Config, path: Path) -> None:
    """Raises RunError unless run and parent have the same demonstrations."""
    run = _run_of(path)
    theirs = dataset_directory(read_object(run / CONFIG_NAME), run)
    own = Path(config.data.directory or theirs)
    source = config.data.source
    if _contents(source, own) != _contents(source, theirs):
        raise RunError(
            f"the demonstrations in {own} (config.data.directory) are others than "
            f"those in {theirs}, which {path} was trained with: leave the key empty"
        )


def _contents(source: str, directory: Path) -> list[tuple[Any, ...]]:
    contents = []
    for own in dataset_directories(source, directory).values():
        manifest = read_manifest(own)
        checksums = [record.sha256 for record in manifest.episodes]
        contents.append((manifest.source, manifest.request, checksums))
    return contents


def _episodes(path: Path, metadata: Mapping[str, Any]) -> list[dict[str, str]]:
    """Returns for each of the parent's seeds sha256 by path, its own parent's first."""
    run, seeds = _run_of(path), metadata["config"]["seeds"]
    known = metadata["online_episodes"]
    inherited = metadata.get("inherited_episodes") or [{} for _ in seeds]
    return [
        older
        | {
            str(seed_directory(run, seeds, seed) / "online" / name): checksum
            for name, checksum in sorted(files.items())
        }
        for seed, older, files in zip(seeds, inherited, known, strict=True)
    ]
