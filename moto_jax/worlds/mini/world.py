"""The kitchen in miniature as a `World`."""

import contextlib
from pathlib import Path

from moto_jax.acting.device_stage import DeviceStage
from moto_jax.acting.progress import Progress
from moto_jax.data.episodes import Episode, Manifest
from moto_jax.types import Config
from moto_jax.worlds.kitchen import tasks
from moto_jax.worlds.kitchen.labels import make_label
from moto_jax.worlds.kitchen.world import asked_of_the_demonstrator
from moto_jax.worlds.mini import minikitchen
from moto_jax.worlds.mini.demonstrations import mini_demonstration, mini_episodes
from moto_jax.worlds.world import World


def make_minikitchen(config: Config) -> World:
    """Returns the world of `config.env`, `config.task` and `config.data`.

    Raises:
      ValueError: for an unknown task or object, or another render profile.
    """
    task = tasks.resolve_task(config.task)
    if config.env.render_profile != minikitchen.RENDER_PROFILE:
        raise ValueError(
            f"config.env.render_profile is {config.env.render_profile!r}: the kitchen "
            f"in miniature is drawn as {minikitchen.RENDER_PROFILE!r} alone"
        )
    sizes = {
        "image_size": config.env.image_size,
        "episode_steps": config.env.episode_steps,
    }

    def scripted(directory: Path, progress: Progress) -> Manifest:
        asked = asked_of_the_demonstrator(config)
        return mini_episodes(directory, **asked, progress=progress, **sizes)

    def demonstrate(seed: int) -> Episode:
        return mini_demonstration(task, seed, config.data.action_noise, **sizes)

    return World(
        action_size=minikitchen.NUM_ACTIONS,
        image_size=config.env.image_size,
        render_profile=minikitchen.RENDER_PROFILE,
        events=task,
        label=make_label(
            task, config.replay.behaviour_rows_after, config.env.success_reward
        ),
        sources={"scripted": scripted},
        demonstrate=demonstrate,
        open_stage=lambda: contextlib.nullcontext(
            DeviceStage(minikitchen.MiniKitchen(**sizes))
        ),
        most_at_once=None,
        prepare=lambda: None,
        renderer_name=lambda: None,
    )
