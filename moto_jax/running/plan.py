"""What a run will hold and write, told before anything is allocated."""

import math
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from moto_jax.types import Agent, Config

# Of an episode's row beside its image: actions, rewards, flags, joint positions.
_ROW_BYTES = 400

# Sources that make as many episodes as `config.data.episodes` says.
_MAKING = {"scripted", "random"}


class Plan(NamedTuple):
    """Sizes of a run, in bytes.

    Attributes:
      parameters: numbers that a seed's policies act with.
      state: of all seeds: parameters, targets, averages, moments.
      demonstrations: how many are made; those that are read are in no number here.
      read: whether there are such.
      replay: of those made and all online episodes in memory, at most.
      disk: what is written, at most: episodes uncompressed, checkpoints.
    """

    parameters: int
    state: int
    demonstrations: int
    read: bool
    replay: int
    disk: int


def make_plan(config: Config, agent: Agent) -> Plan:
    """Returns the plan of a run; nothing is computed or allocated.

    Args:
      config: the run's.
      agent: made from it.
    """
    seeds = len(config.seeds)
    state = jax.eval_shape(agent.init, jax.random.key(0))
    acting = jax.eval_shape(agent.acting_params, state)
    image_bytes = 3 * config.env.image_size**2
    episode = (config.env.episode_steps + 1) * (image_bytes + _ROW_BYTES)
    sources = set(config.data.source.split("+"))
    made = config.data.episodes if sources & _MAKING else 0
    # Seeds share the demonstrations.
    episodes = made + seeds * config.training.online_episodes
    held = seeds * _bytes(state)
    kept = config.training.keep_checkpoints + 1
    return Plan(
        parameters=sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(acting)),
        state=held,
        demonstrations=made,
        read=bool(sources - _MAKING),
        replay=episodes * episode,
        disk=episodes * episode + kept * held,
    )


def _bytes(tree: object) -> int:
    leaves = jax.tree.leaves(tree)
    return sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize
        for leaf in leaves
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    )


def free_memory() -> int | None:
    """Returns the bytes that processes here can still have; None where nobody tells."""
    try:
        with open("/proc/meminfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return 1024 * int(line.split()[1])
    except OSError:
        pass
    return None


def free_disk(directory: str | os.PathLike[str]) -> int:
    """Returns the bytes that this user can still write where a directory is to be."""
    return shutil.disk_usage(nearest(directory)).free


def nearest(directory: str | os.PathLike[str]) -> Path:
    """Returns a directory that is to be, or what of its parents is there already."""
    path = Path(directory).absolute()
    while not path.exists():
        path = path.parent
    return path


def describe_plan(plan: Plan, memory: int | None, disk: int) -> list[str]:
    """Returns a plan in three lines, beside what there is.

    Args:
      plan: a run's.
      memory: bytes that are free, None where that is not known.
      disk: the same of the disk.
    """
    of_memory = "" if memory is None else f" of {_gigabytes(memory)} that are free"
    made = plan.demonstrations
    holding = f"with {made:,} demonstrations " if made else ""
    beside = ", beside the demonstrations that are read" if plan.read else ""
    return [
        f"networks: {plan.parameters / 1e6:.1f} M parameters act; state "
        f"{_gigabytes(plan.state)}",
        f"replay: {holding}at most {_gigabytes(plan.replay)}{of_memory}{beside}",
        f"disk: at most {_gigabytes(plan.disk)} of {_gigabytes(disk)} that are free",
    ]


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:.2f} GB"


def shortage(plan: Plan, memory: int | None, disk: int) -> str | None:
    """Returns in a sentence what there is too little of for a run, None if nothing."""
    if memory is not None and plan.state + plan.replay > memory:
        return (
            f"state and replay take {_gigabytes(plan.state + plan.replay)}, and "
            f"{_gigabytes(memory)} of memory are free: lower config.data.episodes, "
            "config.training.online_episodes or the networks' sizes"
        )
    if plan.disk > disk:
        return (
            f"the run writes up to {_gigabytes(plan.disk)}, and {_gigabytes(disk)} of "
            "disk are free: give another --workdir, or lower "
            "config.training.keep_checkpoints"
        )
    return None
