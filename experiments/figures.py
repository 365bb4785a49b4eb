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
    from experiments.figure_values import World

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
        contents = make_figures(Path(_RUNS.value), Path(_OUT.value), _real_world)
    except (ValueError, OSError) as error:
        fail(error)
    for one in contents.figures:
        print(f"{Path(_OUT.value) / one['name']}.png: {one['title']}")
    for note in contents.notes:
        print(f"note: {note}")


def _real_world() -> "World":
    """Returns the environments that the runs' configurations name."""
    from experiments.figure_values import World
    from moto_jax import assembly

    def make_stage(config):
        assembly.prepare(config)
        return assembly.make_stage(config)

    def demonstration(config, objects, seed):
        assembly.prepare(config)
        return assembly.demonstration(config, objects, seed)

    return World(demonstration, make_stage)


if __name__ == "__main__":
    run_program(main)
