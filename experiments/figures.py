r"""The paper's figures 1 to 5 from run directories.

    python -m experiments.figures --runs=runs/mini --out=results/mini

Beneath --runs lie the directories of runs, such as launch.sweeps makes them. Each
figure becomes a PNG, a PDF and its numbers as CSV; `figures.json` holds the captions.
What cannot be drawn from these runs is left out, and said: figures 1, 4 and 5 need
checkpoints of MOTO and play or demonstrate some episodes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags, logging

from experiments.command_line import fail, prepare_jax, run_program
from experiments.figure_drawings import make_figures

if TYPE_CHECKING:
    from moto_jax.types import Config
    from moto_jax.worlds.world import World

_RUNS = flags.DEFINE_string(
    "runs", None, "Directory beneath which the runs' directories lie.", required=True
)
_OUT = flags.DEFINE_string(
    "out", None, "Directory of the figures; made where missing.", required=True
)


def main(argv: Sequence[str]) -> None:
    """Draws; what is wrong is said in one sentence."""
    del argv
    logging.set_verbosity(logging.WARNING)
    prepare_jax()
    try:
        contents = make_figures(Path(_RUNS.value), Path(_OUT.value), _make_world)
    except (ValueError, OSError) as error:
        fail(error)
    for one in contents.figures:
        print(f"{Path(_OUT.value) / one['name']}.png: {one['title']}")
    for note in contents.notes:
        print(f"note: {note}")


def _make_world(config: "Config") -> "World":
    # Not needed where there are metrics alone.
    from moto_jax.worlds.registry import make_world

    return make_world(config)


if __name__ == "__main__":
    run_program(main)
