"""MetaWorld's tasks as a `World`; the package is only imported where one is played."""

import functools
from pathlib import Path

from moto_jax.acting.collection import open_pool_stage
from moto_jax.acting.progress import Progress
from moto_jax.data.episodes import Episode, Manifest
from moto_jax.types import Config
from moto_jax.worlds.graphics import choose_backend, renderer_name
from moto_jax.worlds.metaworld import tasks
from moto_jax.worlds.metaworld.demonstrations import (
    metaworld_demonstration,
    scripted_episodes,
)
from moto_jax.worlds.metaworld.environment import MetaWorldEnv
from moto_jax.worlds.rewards import make_reward_label
from moto_jax.worlds.world import World

# The simulator's flag of success is the reward.
_SUCCESS_REWARD = 1.0


def make_metaworld(config: Config) -> World:
    """Returns the world of `config.env`, `config.task` and `config.data`.

    Raises:
      ValueError: for an unknown task, or another render profile.
    """
    tasks.check_task(config.task)
    if config.env.render_profile != tasks.RENDER_PROFILE:
        raise ValueError(
            f"config.env.render_profile is {config.env.render_profile!r}: MetaWorld is "
            f"drawn as {tasks.RENDER_PROFILE!r} alone (see "
            "experiments/configs/metaworld.py)"
        )
    sizes = {
        "image_size": config.env.image_size,
        "episode_steps": config.env.episode_steps,
    }

    def scripted(directory: Path, progress: Progress) -> Manifest:
        return scripted_episodes(
            directory,
            task=config.task,
            num_episodes=config.data.episodes,
            seed=config.data.seed,
            action_noise=config.data.action_noise,
            num_workers=config.env.workers,
            progress=progress,
            **sizes,
        )

    def demonstrate(seed: int) -> Episode:
        noise = config.data.action_noise
        return metaworld_demonstration(config.task, seed, noise, **sizes)

    return World(
        action_size=tasks.NUM_ACTIONS,
        image_size=config.env.image_size,
        render_profile=tasks.RENDER_PROFILE,
        events=(config.task,),
        label=make_reward_label(_SUCCESS_REWARD, config.replay.behaviour_rows_after),
        sources={"scripted": scripted},
        demonstrate=demonstrate,
        open_stage=lambda: open_pool_stage(
            functools.partial(MetaWorldEnv, config.task, **sizes), config.env.workers
        ),
        most_at_once=config.env.workers,
        prepare=_prepare,
        renderer_name=renderer_name,
    )


def _prepare() -> None:
    tasks.require_package()
    choose_backend()
