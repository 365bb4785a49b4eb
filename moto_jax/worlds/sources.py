"""Where a run's demonstrations come from: sources by name, the mirror of WORLDS.

Those in `SOURCES` serve every world; a world has its own beside them, such as a
scripted demonstrator (`World.sources`).
"""

import dataclasses
import logging
import sys
from collections.abc import Callable
from pathlib import Path

from moto_jax.acting.building import (
    require_long_enough,
    require_own_directory,
)
from moto_jax.acting.progress import Progress, progress_bar
from moto_jax.data.episodes import (
    FOREIGN_PROFILE,
    MANIFEST_NAME,
    DatasetError,
    Episode,
    Manifest,
    load_dataset,
    read_manifest,
)
from moto_jax.types import Config
from moto_jax.worlds.pixel_source import pixel_episodes
from moto_jax.worlds.random_source import random_episodes
from moto_jax.worlds.world import Source, World

# What config.data.path is of the sources that read one.
_PATHS = {
    "d4rl": "the hdf5 file",
    "minari": "the hdf5 file, or the directory of a Minari dataset",
    "pixels": "the folder of npz episodes",
}

# Keys of config.env that change nothing of what is recorded.
_NOT_RECORDED = ("workers", "success_reward", "render_profile", "image_size")


def make_directory_source(config: Config, world: World) -> Source:
    """Returns what takes a dataset of any origin as it is; nothing is ever written."""
    del config, world

    def directory(directory: Path, progress: Progress) -> Manifest:
        del progress
        if not (directory / MANIFEST_NAME).exists():
            raise DatasetError(
                f"{directory}: holds no {MANIFEST_NAME}, so it is no dataset of ours "
                "(config.data.directory); a folder of npz episodes is read with "
                f"config.data.source=pixels and config.data.path={directory}"
            )
        return read_manifest(directory)

    return directory


def make_pixel_source(config: Config, world: World) -> Source:
    """Returns what converts a folder of npz episodes; see `pixel_source`."""

    def pixels(directory: Path, progress: Progress) -> Manifest:
        return pixel_episodes(
            directory,
            path=config.data.path,
            events=world.events,
            action_size=world.action_size,
            image_size=world.image_size,
            min_rows=config.replay.sequence_length,
            num_workers=config.env.workers,
            progress=progress,
        )

    return pixels


def make_random_source(config: Config, world: World) -> Source:
    """Returns what plays episodes of random actions on the world's stage."""

    def random(directory: Path, progress: Progress) -> Manifest:
        env = config.env.to_dict()
        kept = {key: env[key] for key in sorted(env) if key not in _NOT_RECORDED}
        return random_episodes(
            directory,
            open_stage=world.open_stage,
            action_size=world.action_size,
            num_episodes=config.data.episodes,
            seed=config.data.seed,
            environment={"task": config.task, **kept},
            render_profile=world.render_profile,
            image_size=world.image_size,
            progress=progress,
        )

    return random


SOURCES: dict[str, Callable[[Config, World], Source]] = {
    "directory": make_directory_source,
    "pixels": make_pixel_source,
    "random": make_random_source,
}


def with_sources(config: Config, world: World) -> World:
    """Returns the world with the sources of all worlds beside its own.

    Each leaves out episodes that are shorter than a sequence.

    Raises:
      ValueError: for what `check_source` refuses.
    """
    generic = {name: make(config, world) for name, make in SOURCES.items()}
    # In the order in which they are named; of two of a name the world's own counts.
    every = {**world.sources, **generic, **world.sources}
    sources = {name: _long_enough(source, config) for name, source in every.items()}
    world = world._replace(sources=sources)
    check_source(config, world)
    return world


def _long_enough(source: Source, config: Config) -> Source:
    """Returns the source without the episodes that fill no sequence, counted aloud."""

    def whole_sequences(directory: Path, progress: Progress) -> Manifest:
        manifest = source(directory, progress)
        min_rows = config.replay.sequence_length
        records = manifest.episodes
        require_long_enough(str(directory), [one.rows for one in records], min_rows)
        kept = tuple(record for record in records if record.rows >= min_rows)
        if len(kept) < len(records):
            print(
                f"{directory}: {len(records) - len(kept)} of {len(records)} episodes "
                "are left out, shorter than config.replay.sequence_length, "
                f"{min_rows} rows",
                file=sys.stderr,
            )
        return dataclasses.replace(manifest, episodes=kept)

    return whole_sequences


def check_source(config: Config, world: World) -> None:
    """Raises ValueError for a source of demonstrations that cannot be.

    Looks at the configuration alone: the files may be on another machine, where a
    checkpoint is only played.
    """
    sources = config.data.source.split("+")
    for source in sources:
        if source not in world.sources or sources.count(source) > 1:
            raise ValueError(
                f"config.data.source is {config.data.source!r}: use "
                f"{' or '.join(world.sources)}, or several of them with + between"
            )
    reading = [source for source in sources if source in _PATHS]
    if reading and not config.data.path:
        raise ValueError(
            f"config.data.source is {config.data.source} but config.data.path is "
            f"empty: give {_PATHS[reading[0]]}"
        )
    if len(reading) > 1:
        raise ValueError(
            f"config.data.source is {config.data.source}, but config.data.path is one: "
            f"of {', '.join(_PATHS)} use one"
        )
    if "directory" in sources and len(sources) > 1:
        raise ValueError(
            f"config.data.source is {config.data.source}: directory stands alone, for "
            "nothing is written into config.data.directory"
        )
    # A branch has its parent's.
    if "directory" in sources and not (
        config.data.directory or config.get("init_from", "")
    ):
        raise ValueError(
            "config.data.source is directory but config.data.directory is empty: give "
            "the dataset's"
        )


def dataset_directories(source: str, directory: Path) -> dict[str, Path]:
    """Returns where the datasets of a run's sources lie, by source.

    Args:
      source: one, whose dataset lies in the directory itself, or several with + between
        them, each in a folder of its name.
      directory: of the demonstrations.
    """
    sources = source.split("+")
    if len(sources) == 1:
        return {source: directory}
    return {one: directory / one for one in sources}


def load_demonstrations(
    source: str, world: World, directory: Path
) -> list[tuple[str, Episode]]:
    """Makes the demonstrations where they are missing, and returns them by file name.

    Args:
      source: see `dataset_directories`.
      world: which they are of.
      directory: of the demonstrations.

    Raises:
      DatasetError: for a file that is not as it must be, or of another render profile,
        or a directory with files of others where a dataset is to be made.
    """
    directories = dataset_directories(source, directory)
    if len(directories) > 1:
        require_own_directory(directory)
    named = []
    for name, own in directories.items():
        if name != "directory":
            require_own_directory(own)
        with progress_bar(f"{name} demonstrations") as progress:
            manifest = world.sources[name](own, progress)
        episodes = load_dataset(own, world.render_profile, world.image_size, manifest)
        if manifest.render_profile == FOREIGN_PROFILE:
            logging.warning(
                "%s: its frames were drawn elsewhere; the policy acts, and is "
                "evaluated, on frames of render profile %r: they should look alike",
                own,
                world.render_profile,
            )
        for record, episode in zip(manifest.episodes, episodes, strict=True):
            _check_kind(own / record.file, episode, world)
            named.append((str((own / record.file).relative_to(directory)), episode))
    return named


def _check_kind(path: Path, episode: Episode, world: World) -> None:
    """Raises DatasetError for an episode of another kind of world."""
    actions = episode.action.shape[1]
    if actions != world.action_size:
        raise DatasetError(
            f"{path}: field 'action' has {actions} columns where the world takes "
            f"{world.action_size}: give data of its robot, or set config.env.name to "
            "the data's world"
        )
    try:
        world.label(episode)
    except DatasetError as error:
        raise DatasetError(f"{path}: {error}") from None
