"""Where a run's demonstrations come from: sources of its world, by name."""

from pathlib import Path

from moto_jax.acting.building import progress_bar
from moto_jax.data.episodes import Episode, load_dataset
from moto_jax.types import Config
from moto_jax.worlds.world import World


def check_source(config: Config, world: World) -> None:
    """Raises ValueError for a source of demonstrations that does not exist."""
    sources = config.data.source.split("+")
    for source in sources:
        if source not in world.sources or sources.count(source) > 1:
            raise ValueError(
                f"config.data.source is {config.data.source!r}: use "
                f"{' or '.join(world.sources)}, or several of them with + between"
            )
    if "d4rl" in sources and not config.data.path:
        raise ValueError(
            f"config.data.source is {config.data.source} but config.data.path is "
            "empty: give the hdf5 file"
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
      DatasetError: for a file that is not as it must be, or of another render profile.
    """
    named = []
    for name, own in dataset_directories(source, directory).items():
        with progress_bar(f"{name} demonstrations") as progress:
            manifest = world.sources[name](own, progress)
        episodes = load_dataset(own, world.render_profile, world.image_size)
        names = [
            str((own / record.file).relative_to(directory))
            for record in manifest.episodes
        ]
        named += zip(names, episodes, strict=True)
    return named
