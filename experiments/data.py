r"""Datasets of pixel episodes: makes one, shows what is in one, checks one.

    python -m experiments.data convert DIR --task=mixed --num_episodes=60
    python -m experiments.data convert DIR --source=d4rl --path=FILE.hdf5
    python -m experiments.data convert DIR --source=minari --path=MINARI_DATASET
    python -m experiments.data convert DIR --source=pixels --path=FOLDER
    python -m experiments.data inspect DIR
    python -m experiments.data validate DIR
    python -m experiments.data preview DIR --picture=preview.png

`convert` makes a dataset in DIR, by default of scripted demonstrations; an interrupted
call is taken up by the same call. `inspect` shows what a dataset holds. `validate`
checks every file, and ends with status 1 at the first fault. `preview` draws a few of
its episodes. A run reads DIR with --config.data.source=directory
--config.data.directory=DIR, and writes nothing into it.
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import flags
from rich.table import Table

from experiments.command_line import fail, output_console, run_program
from experiments.contact_sheet import write_contact_sheet
from moto_jax.acting.progress import progress_bar
from moto_jax.data.episodes import (
    MANIFEST_NAME,
    DatasetError,
    Episode,
    Manifest,
    load_dataset,
    read_manifest,
)
from moto_jax.worlds.graphics import GraphicsError
from moto_jax.worlds.kitchen import demonstrations, tasks
from moto_jax.worlds.kitchen.labels import BEHAVIOUR_ROWS_AFTER, make_label
from moto_jax.worlds.pixel_source import pixel_episodes

_SOURCE = flags.DEFINE_enum(
    "source",
    "scripted",
    ["scripted", "d4rl", "minari", "pixels"],
    "convert: where the demonstrations come from.",
)
_TASK = flags.DEFINE_string(
    "task", "mixed", "A task's name, or its objects in order, separated by commas."
)
_PATH = flags.DEFINE_string(
    "path",
    None,
    "convert: the hdf5 file of d4rl or minari, Minari's directory, or the folder of "
    "npz episodes of pixels.",
)
_NUM_EPISODES = flags.DEFINE_integer("num_episodes", 60, "scripted: how many.")
_COMPLETE_SHARE = flags.DEFINE_float(
    "complete_share",
    None,
    "scripted: share of episodes that do the whole task; the human demonstrations' "
    "where not given.",
)
_ACTION_NOISE = flags.DEFINE_float(
    "action_noise", 0.1, "scripted: standard deviation of the noise on each action."
)
_SEED = flags.DEFINE_integer("seed", 0, "scripted: of everything random.")
_RENDER_PROFILE = flags.DEFINE_string(
    "render_profile", "fast", "convert, but for pixels: fast, shaded or paper."
)
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 64, "convert: pixels a side.")
_NUM_WORKERS = flags.DEFINE_integer("num_workers", 2, "convert: processes.")
_PICTURE = flags.DEFINE_string("picture", "preview.png", "preview: its file.")
_EPISODES = flags.DEFINE_integer(
    "episodes", 5, "preview: how many, evenly spaced in the dataset.", lower_bound=1
)
_FRAMES = flags.DEFINE_integer(
    "frames", 8, "preview: how many of each, evenly spaced.", lower_bound=2
)


def convert(directory: Path) -> None:
    """Makes the dataset, or what is missing of it, and shows it."""
    path = _PATH.value or ""
    if _SOURCE.value != "scripted" and not path:
        raise ValueError(f"--source={_SOURCE.value} needs --path")
    common = {"image_size": _IMAGE_SIZE.value, "num_workers": _NUM_WORKERS.value}
    drawn = {**common, "render_profile": _RENDER_PROFILE.value}
    with progress_bar("episodes") as progress:
        if _SOURCE.value == "scripted":
            demonstrations.scripted_episodes(
                directory,
                task=_TASK.value,
                num_episodes=_NUM_EPISODES.value,
                complete_share=_COMPLETE_SHARE.value,
                action_noise=_ACTION_NOISE.value,
                seed=_SEED.value,
                progress=progress,
                **drawn,
            )
        elif _SOURCE.value == "pixels":
            pixel_episodes(
                directory,
                path=path,
                events=tasks.resolve_task(_TASK.value),
                progress=progress,
                **common,
            )
        else:
            read = {
                "d4rl": demonstrations.d4rl_episodes,
                "minari": demonstrations.minari_episodes,
            }[_SOURCE.value]
            read(directory, path=path, progress=progress, **drawn)
    inspect(directory)


def inspect(directory: Path) -> None:
    """Prints a line for each set of finished objects, in order of completion."""
    manifest = _manifest(directory)
    episodes = _episodes(directory, manifest)
    task = tasks.resolve_task(_TASK.value)
    label = make_label(task)
    groups = collections.defaultdict(list)
    for record, episode in zip(manifest.episodes, episodes, strict=True):
        groups[record.objects].append((record.rows, label(episode).behaviour_rows))
    table = Table(title=f"{directory}: {manifest.source}")
    for name in ("objects, in order of completion", "episodes", "rows", "cloned rows"):
        table.add_column(name, justify="left" if name[0] == "o" else "right")
    for objects, lengths in sorted(groups.items(), key=lambda item: -len(item[1])):
        rows, cloned = (sum(column) for column in zip(*lengths, strict=True))
        table.add_row(
            ", ".join(objects) or "not told", str(len(lengths)), str(rows), str(cloned)
        )
    output_console(88).print(table)
    told = any(episode.objects_in_goal is not None for episode in episodes)
    filtered = (
        f"those of the task {', '.join(task)}"
        if told
        else f"up to {BEHAVIOUR_ROWS_AFTER} after the reward's last rise"
    )
    print(
        f"{len(episodes)} episodes, render profile {manifest.render_profile}, "
        f"{manifest.image_size} pixels, mujoco {manifest.mujoco_version or 'unknown'}; "
        f"cloned rows are {filtered}"
    )


def validate(directory: Path) -> None:
    """Checks every file; says how many episodes and rows are sound."""
    manifest = _manifest(directory)
    episodes = _episodes(directory, manifest)
    first = episodes[0].fields()
    for record, episode in zip(manifest.episodes, episodes, strict=True):
        for name, field in episode.fields().items():
            other = first.get(name, field)
            if field.shape[1:] != other.shape[1:]:
                raise DatasetError(
                    f"{directory / record.file}: a row of field '{name}' is "
                    f"{list(field.shape[1:])}, and {list(other.shape[1:])} in "
                    f"{manifest.episodes[0].file}: use episodes of one format"
                )
    rows = sum(record.rows for record in manifest.episodes)
    print(f"ok: {len(episodes)} episodes, {rows} rows")


def preview(directory: Path) -> None:
    """Draws evenly spaced frames of a few episodes, a bar below each for its reward."""
    manifest = _manifest(directory)
    spaced = np.linspace(0, len(manifest.episodes) - 1, _EPISODES.value).round()
    records = [manifest.episodes[int(index)] for index in np.unique(spaced)]
    episodes = _episodes(
        directory, dataclasses.replace(manifest, episodes=tuple(records))
    )
    label = make_label(tasks.resolve_task(_TASK.value))
    rewards = [label(episode).reward for episode in episodes]
    full = max(0.0, *(float(reward.max()) for reward in rewards))
    shares = [np.clip(reward / (full or 1.0), 0.0, 1.0) for reward in rewards]
    images = [episode.image for episode in episodes]
    write_contact_sheet(_PICTURE.value, images, shares, _FRAMES.value)
    for record in records:
        print(f"{record.file}, {record.rows} rows")
    print(
        f"{_PICTURE.value} shows these, from top to bottom; a full bar is reward "
        f"{full:g}"
    )


def _manifest(directory: Path) -> Manifest:
    manifest = read_manifest(directory)
    if not manifest.episodes:
        raise DatasetError(
            f"{directory / MANIFEST_NAME}: field 'episodes' is empty: make the dataset "
            "again in another directory"
        )
    return manifest


def _episodes(directory: Path, manifest: Manifest) -> list[Episode]:
    profile, size = manifest.render_profile, manifest.image_size
    return load_dataset(directory, profile, size, manifest)


_COMMANDS: dict[str, Callable[[Path], None]] = {
    "convert": convert,
    "inspect": inspect,
    "validate": validate,
    "preview": preview,
}


def main(argv: Sequence[str]) -> None:
    """Does what the command says; what is wrong is said in one sentence."""
    try:
        if len(argv) != 3 or argv[1] not in _COMMANDS:
            raise ValueError(
                f"give one of {', '.join(_COMMANDS)} and a dataset's directory, such "
                "as: python -m experiments.data inspect DIR"
            )
        _COMMANDS[argv[1]](Path(argv[2]))
    except (ValueError, GraphicsError, OSError) as error:
        fail(error)


if __name__ == "__main__":
    run_program(main, positional=True)
