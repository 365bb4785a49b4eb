"""The real kitchen as a `World`."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moto_jax.acting.collection import open_pool_stage
from moto_jax.acting.progress import Progress
from moto_jax.data.episodes import Episode, Manifest
from moto_jax.types import Config
from moto_jax.worlds.graphics import choose_backend, renderer_name
from moto_jax.worlds.kitchen import tasks
from moto_jax.worlds.kitchen.demonstrations import (
    d4rl_episodes,
    kitchen_demonstration,
    minari_episodes,
    scripted_episodes,
)
from moto_jax.worlds.kitchen.labels import make_label
from moto_jax.worlds.world import World

if TYPE_CHECKING:
    from moto_jax.worlds.kitchen.environment import KitchenEnv

# Keys of config.env that the environment takes.
_ENVIRONMENT = (
    *("render_profile", "image_size", "episode_steps"),
    *("robot_noise_ratio", "object_noise_ratio"),
)


def make_kitchen(config: Config) -> World:
    """Returns the world of `config.env`, `config.task` and `config.data`.

    Raises:
      ValueError: for an unknown task or object.
    """
    task = tasks.resolve_task(config.task)
    drawing = {
        "render_profile": config.env.render_profile,
        "image_size": config.env.image_size,
    }
    noise = {
        key: config.env[key] for key in ("robot_noise_ratio", "object_noise_ratio")
    }

    def scripted(directory: Path, progress: Progress) -> Manifest:
        return scripted_episodes(
            directory,
            **asked_of_the_demonstrator(config),
            num_workers=config.env.workers,
            progress=progress,
            **drawing,
        )

    def d4rl(directory: Path, progress: Progress) -> Manifest:
        return d4rl_episodes(directory, progress=progress, **recorded())

    def minari(directory: Path, progress: Progress) -> Manifest:
        return minari_episodes(directory, progress=progress, **recorded())

    def recorded() -> dict[str, Any]:
        return drawing | {
            "path": config.data.path,
            "min_rows": config.replay.sequence_length,
            "num_workers": config.env.workers,
        }

    def demonstrate(seed: int) -> Episode:
        action_noise = config.data.action_noise
        return kitchen_demonstration(task, seed, action_noise, **drawing, **noise)

    return World(
        action_size=tasks.NUM_ACTIONS,
        image_size=config.env.image_size,
        render_profile=config.env.render_profile,
        events=task,
        label=make_label(
            task, config.replay.behaviour_rows_after, config.env.success_reward
        ),
        sources={"scripted": scripted, "d4rl": d4rl, "minari": minari},
        demonstrate=demonstrate,
        open_stage=lambda: open_pool_stage(
            environment_maker(config), config.env.workers
        ),
        most_at_once=config.env.workers,
        prepare=choose_backend,
        renderer_name=renderer_name,
    )


def environment_maker(config: Config) -> Callable[[], "KitchenEnv"]:
    """Returns what makes the environment of a run, picklable for its workers."""
    # MuJoCo is imported only once its graphics backend is chosen.
    from moto_jax.worlds.kitchen.environment import KitchenEnv

    section = {key: config.env[key] for key in _ENVIRONMENT}
    return functools.partial(KitchenEnv, config.task, **section)


def asked_of_the_demonstrator(config: Config) -> dict[str, Any]:
    """Returns what either kitchen's scripted demonstrations are made with."""
    section = config.data
    share = section.complete_share
    return {
        "task": config.task,
        "num_episodes": section.episodes,
        "complete_share": None if share < 0 else share,
        "seed": section.seed,
        "action_noise": section.action_noise,
    }
