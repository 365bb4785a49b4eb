"""What a run is assembled from: demonstrations, replay, environments, a renderer."""

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from moto_jax.collection import WorkerPool
from moto_jax.data.building import progress_bar
from moto_jax.data.episodes import Episode, load_dataset
from moto_jax.data.replay import Replay
from moto_jax.data.sources import d4rl_episodes, scripted_episodes
from moto_jax.envs import tasks
from moto_jax.envs.graphics import software_warning
from moto_jax.types import Config


def make_dataset(config: Config, directory: Path) -> list[tuple[str, Episode]]:
    """Makes the demonstrations where they are missing, and returns them by file name.

    Raises:
      DatasetError: for a file that is not as it must be, or of another render profile.
      ValueError: for an unknown source.
    """
    section = config.data
    drawing = {
        "render_profile": config.env.render_profile,
        "image_size": config.env.image_size,
        "num_workers": config.env.workers,
    }
    with progress_bar("demonstrations") as progress:
        if section.source == "scripted":
            share = section.complete_share
            manifest = scripted_episodes(
                directory,
                task=config.task,
                num_episodes=section.episodes,
                complete_share=None if share < 0 else share,
                seed=section.seed,
                action_noise=section.action_noise,
                progress=progress,
                **drawing,
            )
        elif section.source == "d4rl":
            if not section.path:
                raise ValueError(
                    "config.data.source is d4rl but config.data.path is empty: give "
                    "the hdf5 file"
                )
            manifest = d4rl_episodes(
                directory, path=section.path, progress=progress, **drawing
            )
        else:
            raise ValueError(
                f"unknown source {section.source!r} in config.data.source: use "
                "scripted or d4rl"
            )
    episodes = load_dataset(directory, config.env.render_profile, config.env.image_size)
    names = [record.file for record in manifest.episodes]
    return list(zip(names, episodes, strict=True))


def make_replays(
    config: Config,
    workdir: Path,
    seeds: Sequence[int],
    batch_shape: tuple[int, int],
) -> list[Replay]:
    """Returns replays that hold the demonstrations of `config.data`, images shared.

    Args:
      config: the run's.
      workdir: its directory.
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
        )
        for seed in seeds
    ]
    directory = Path(config.data.directory or workdir / "dataset")
    for name, episode in make_dataset(config, directory):
        for replay in replays:
            replay.add(episode, name)
    return replays


def announce_renderer() -> None:
    """Says what draws the frames, and warns where a GPU stands idle beside it.

    Raises:
      GraphicsError: where nothing can draw.
    """
    from moto_jax.envs.renderer import renderer_name

    name = renderer_name()
    print(f"frames are drawn by {name}", file=sys.stderr)
    warning = software_warning(name)
    if warning:
        print(warning, file=sys.stderr)


def make_pool(config: Config) -> WorkerPool:
    """Starts the environments of `config.env`."""
    # MuJoCo is imported only once its graphics backend is chosen.
    from moto_jax.envs.kitchen import KitchenEnv

    section = dict(config.env)
    workers = section.pop("workers")
    make_env = functools.partial(KitchenEnv, config.task, **section)
    return WorkerPool(make_env, workers)
