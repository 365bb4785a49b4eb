"""What a run is assembled from: environment, demonstrations, replay."""

import contextlib
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from moto_jax.collection import Stage, WorkerPool
from moto_jax.data.building import Progress, progress_bar
from moto_jax.data.episodes import Episode, Manifest, load_dataset
from moto_jax.data.mini_sources import mini_demonstration, mini_episodes
from moto_jax.data.replay import Replay
from moto_jax.data.sources import (
    d4rl_episodes,
    dataset_directories,
    kitchen_demonstration,
    scripted_episodes,
)
from moto_jax.device_stage import DeviceStage
from moto_jax.envs import minikitchen, tasks
from moto_jax.envs.graphics import choose_backend, software_warning
from moto_jax.types import Config

MINI = "minikitchen"

Pool = TypeVar("Pool", bound=WorkerPool)


def prepare(config: Config) -> None:
    """Chooses what draws the frames, before anything imports MuJoCo.

    Raises:
      ValueError: for an unknown environment, a way of drawing that it has not, or an
        unknown action or source of what is to be cloned.
      GraphicsError: where the machine cannot draw the kitchen.
    """
    tasks.action_size(config.env.name)
    if config.replay.cloned_action not in ("executed", "intended"):
        raise ValueError(
            f"config.replay.cloned_action is {config.replay.cloned_action!r}: use "
            "executed or intended"
        )
    check_source(config)
    if config.env.name != MINI:
        choose_backend()
    elif config.env.render_profile != minikitchen.RENDER_PROFILE:
        raise ValueError(
            f"config.env.render_profile is {config.env.render_profile!r}: the kitchen "
            f"in miniature is drawn as {minikitchen.RENDER_PROFILE!r} alone"
        )


def announce_renderer(config: Config) -> None:
    """Says what draws the frames, and warns where a GPU stands idle beside it.

    Raises:
      GraphicsError: where nothing can draw.
    """
    if config.env.name == MINI:
        return
    from moto_jax.envs.renderer import renderer_name

    name = renderer_name()
    print(f"frames are drawn by {name}", file=sys.stderr)
    warning = software_warning(name)
    if warning:
        print(warning, file=sys.stderr)


def make_stage(config: Config) -> contextlib.AbstractContextManager[Stage]:
    """Returns where policies play the episodes of `config.env`."""
    if config.env.name == MINI:
        environment = minikitchen.MiniKitchen(
            config.env.image_size, config.env.episode_steps
        )
        return contextlib.nullcontext(DeviceStage(environment))
    return make_pool(config, WorkerPool)


def make_pool(config: Config, pool_class: Callable[..., Pool]) -> Pool:
    """Starts the real kitchen's workers.

    Args:
      config: the run's.
      pool_class: (what makes an environment, number of workers) -> the pool.
    """
    # MuJoCo is imported only once its graphics backend is chosen.
    from moto_jax.envs.kitchen import KitchenEnv

    section = dict(config.env)
    workers = section.pop("workers")
    section.pop("name")
    return pool_class(functools.partial(KitchenEnv, config.task, **section), workers)


def make_dataset(config: Config, directory: Path) -> list[tuple[str, Episode]]:
    """Makes the demonstrations where they are missing, and returns them by file name.

    Raises:
      DatasetError: for a file that is not as it must be, or of another render profile.
      ValueError: for an unknown source.
    """
    check_source(config)
    named = []
    for source, own in dataset_directories(config.data.source, directory).items():
        with progress_bar(f"{source} demonstrations") as progress:
            if source == "scripted":
                manifest = _scripted(config, own, progress)
            else:
                manifest = d4rl_episodes(
                    own, path=config.data.path, progress=progress, **_drawing(config)
                )
        episodes = load_dataset(own, config.env.render_profile, config.env.image_size)
        names = [
            str((own / record.file).relative_to(directory))
            for record in manifest.episodes
        ]
        named += zip(names, episodes, strict=True)
    return named


def check_source(config: Config) -> None:
    """Raises ValueError for a source of demonstrations that does not exist."""
    known = ("scripted",) if config.env.name == MINI else ("scripted", "d4rl")
    sources = config.data.source.split("+")
    for source in sources:
        if source not in known or sources.count(source) > 1:
            raise ValueError(
                f"config.data.source is {config.data.source!r}: use "
                f"{' or '.join(known)}, or several of them with + between"
            )
    if "d4rl" in sources and not config.data.path:
        raise ValueError(
            f"config.data.source is {config.data.source} but config.data.path is "
            "empty: give the hdf5 file"
        )


def _scripted(config: Config, directory: Path, progress: Progress) -> Manifest:
    section = config.data
    share = section.complete_share
    shared: dict[str, Any] = {
        "task": config.task,
        "num_episodes": section.episodes,
        "complete_share": None if share < 0 else share,
        "seed": section.seed,
        "action_noise": section.action_noise,
        "progress": progress,
    }
    if config.env.name == MINI:
        return mini_episodes(directory, **shared, **_mini(config))
    return scripted_episodes(directory, **shared, **_drawing(config))


def _drawing(config: Config) -> dict[str, Any]:
    return {
        "render_profile": config.env.render_profile,
        "image_size": config.env.image_size,
        "num_workers": config.env.workers,
    }


def _mini(config: Config) -> dict[str, Any]:
    return {
        "image_size": config.env.image_size,
        "episode_steps": config.env.episode_steps,
    }


def demonstration(config: Config, objects: Sequence[str], seed: int) -> Episode:
    """Returns one scripted demonstration, drawn as the run's are.

    Args:
      config: the run's.
      objects: what is done, in order.
      seed: of everything random; see `envs.seeds` for those that no dataset has.
    """
    noise = config.data.action_noise
    if config.env.name == MINI:
        return mini_demonstration(objects, seed, noise, **_mini(config))
    section = {
        key: config.env[key]
        for key in (
            "render_profile",
            "image_size",
            "robot_noise_ratio",
            "object_noise_ratio",
        )
    }
    return kitchen_demonstration(objects, seed, noise, **section)


def make_replays(
    config: Config,
    directory: Path,
    seeds: Sequence[int],
    batch_shape: tuple[int, int],
) -> list[Replay]:
    """Returns replays that hold the demonstrations of `config.data`, images shared.

    Args:
      config: the run's.
      directory: of the demonstrations.
      seeds: one replay for each.
      batch_shape: (T, B) of the batches to be sampled.
    """
    length, size = batch_shape
    share = config.replay.online_share
    replays = [
        Replay(
            tasks.resolve_task(config.task),
            size,
            length,
            seed,
            online_share=None if share < 0 else share,
            rows_after=config.replay.behaviour_rows_after,
            clone_intended=config.replay.cloned_action == "intended",
            behaviour_share=config.replay.behaviour_share,
        )
        for seed in seeds
    ]
    for name, episode in make_dataset(config, directory):
        for replay in replays:
            replay.add(episode, name)
    return replays
