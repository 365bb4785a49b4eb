r"""Makes a dataset of pixel episodes, or shows what is in one.

Scripted demonstrations, no download:

    python -m experiments.render_dataset --directory=data/mixed --task=mixed \
        --num_episodes=60

Real demonstrations from a D4RL kitchen file:

    python -m experiments.render_dataset --directory=data/complete --source=d4rl \
        --path=mini_kitchen_microwave_kettle_light_slider-v0.hdf5

What a dataset holds, each file checked:

    python -m experiments.render_dataset --directory=data/mixed --inspect

An interrupted call is taken up by the same call.
"""

import collections
from collections.abc import Sequence

from absl import flags
from rich.console import Console
from rich.table import Table

from experiments.command_line import fail, run_program
from moto_jax.acting.building import progress_bar
from moto_jax.data.episodes import Manifest, load_dataset, read_manifest
from moto_jax.worlds.graphics import GraphicsError
from moto_jax.worlds.kitchen import demonstrations as sources
from moto_jax.worlds.kitchen import tasks
from moto_jax.worlds.kitchen.labels import make_label

_DIRECTORY = flags.DEFINE_string(
    "directory", None, "Where the dataset is, or is to be.", required=True
)
_INSPECT = flags.DEFINE_bool("inspect", False, "Check and show, make nothing.")
_SOURCE = flags.DEFINE_enum(
    "source", "scripted", ["scripted", "d4rl"], "Where the demonstrations come from."
)
_TASK = flags.DEFINE_string(
    "task", "mixed", "A task's name, or its objects in order, separated by commas."
)
_PATH = flags.DEFINE_string("path", None, "D4RL: the hdf5 file.")
_NUM_EPISODES = flags.DEFINE_integer("num_episodes", 60, "Scripted: how many.")
_COMPLETE_SHARE = flags.DEFINE_float(
    "complete_share",
    None,
    "Scripted: share of episodes that do the whole task; the human demonstrations' "
    "where not given.",
)
_ACTION_NOISE = flags.DEFINE_float(
    "action_noise", 0.1, "Scripted: standard deviation of the noise on each action."
)
_SEED = flags.DEFINE_integer("seed", 0, "Scripted: of everything random.")
_RENDER_PROFILE = flags.DEFINE_string(
    "render_profile", "fast", "fast, shaded or paper."
)
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 64, "Pixels a side.")
_NUM_WORKERS = flags.DEFINE_integer("num_workers", 2, "Processes.")


def _make() -> None:
    common = {
        "render_profile": _RENDER_PROFILE.value,
        "image_size": _IMAGE_SIZE.value,
        "num_workers": _NUM_WORKERS.value,
    }
    with progress_bar("episodes") as progress:
        if _SOURCE.value == "scripted":
            sources.scripted_episodes(
                _DIRECTORY.value,
                task=_TASK.value,
                num_episodes=_NUM_EPISODES.value,
                complete_share=_COMPLETE_SHARE.value,
                action_noise=_ACTION_NOISE.value,
                seed=_SEED.value,
                progress=progress,
                **common,
            )
        elif _PATH.value is None:
            raise ValueError("--source=d4rl needs --path, the hdf5 file")
        else:
            sources.d4rl_episodes(
                _DIRECTORY.value, path=_PATH.value, progress=progress, **common
            )


def _show(manifest: Manifest) -> None:
    """Prints a line for each set of finished objects, in order of completion."""
    episodes = load_dataset(
        _DIRECTORY.value, manifest.render_profile, manifest.image_size
    )
    task = tasks.resolve_task(_TASK.value)
    label = make_label(task)
    groups = collections.defaultdict(list)
    for record, episode in zip(manifest.episodes, episodes, strict=True):
        groups[record.objects].append((record.rows, label(episode).behaviour_rows))
    table = Table(title=f"{_DIRECTORY.value}: {manifest.source}")
    for name in ("objects, in order of completion", "episodes", "rows", "cloned rows"):
        table.add_column(name, justify="left" if name[0] == "o" else "right")
    for objects, lengths in sorted(groups.items(), key=lambda item: -len(item[1])):
        rows, cloned = (sum(column) for column in zip(*lengths, strict=True))
        table.add_row(", ".join(objects), str(len(lengths)), str(rows), str(cloned))
    Console().print(table)
    print(
        f"{len(episodes)} episodes, render profile {manifest.render_profile}, "
        f"{manifest.image_size} pixels, mujoco {manifest.mujoco_version}; cloned rows "
        f"are those of the task {', '.join(task)}"
    )


def main(argv: Sequence[str]) -> None:
    """Makes or shows the dataset; what is wrong is said in one sentence."""
    del argv
    try:
        if not _INSPECT.value:
            _make()
        _show(read_manifest(_DIRECTORY.value))
    except (ValueError, GraphicsError) as error:
        fail(error)


if __name__ == "__main__":
    run_program(main)
