"""Which of the paper's figures runs suffice for, and their drawing."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

from moto_jax.study import model_figures
from moto_jax.study.comparison import ablation_drawing, comparison_drawing
from moto_jax.study.drawings import Contents, Drawing, write, write_contents
from moto_jax.study.gap_figure import gap_drawing
from moto_jax.study.style import PRINT_STYLE
from moto_jax.study.systems import MOTO, System, collect, find_runs

if TYPE_CHECKING:
    from experiments.figure_values import MakeWorld, Models

# Of figure 1's strip; the table has all.
_DRAWN = 2


def make_figures(runs: Path, out: Path, make_world: "MakeWorld") -> Contents:
    """Writes all figures that the runs beneath a directory suffice for.

    Args:
      runs: that directory.
      out: of the figures; made where missing.
      make_world: see `moto_jax.worlds.registry`.

    Raises:
      ValueError: if there is no run, or nothing can be drawn.
      OSError: if a file cannot be written.
    """
    found, notes = find_runs(runs)
    systems, more = collect(found)
    notes += more
    out.mkdir(parents=True, exist_ok=True)
    drawings: list[Drawing] = []

    def draw(number: int, make: Callable[[], Drawing]) -> None:
        try:
            with matplotlib.rc_context(PRINT_STYLE):
                drawing = make()
        # Whatever an environment, its graphics or a checkpoint may fail with.
        except (ValueError, OSError, RuntimeError, ArithmeticError) as error:
            notes.append(f"figure {number} is left out: {error}")
        else:
            write(drawing, out)
            drawings.append(drawing)

    draw(2, lambda: comparison_drawing(systems))
    draw(3, lambda: ablation_drawing(systems))
    models, more = _open_all(systems, make_world)
    notes += [f"figures 1, 4 and 5: {note}" for note in more]
    for number, make in _model_drawings(models, make_world).items():
        draw(number, make)
    if not drawings:
        raise ValueError("; ".join(notes))
    drawings.sort(key=lambda drawing: drawing.name)
    # The list goes where the machine's own directories say nothing.
    notes = [note.replace(f"{Path.cwd()}/", "") for note in notes]
    # What an earlier command drew is of other runs.
    write_contents(drawings, notes, out)
    return Contents([{"name": one.name, "title": one.title} for one in drawings], notes)


def _open_all(
    systems: Sequence[System], make_world: "MakeWorld"
) -> "tuple[list[Models], list[str]]":
    """Returns MOTO's checkpoints on each task, and what is wrong with the others."""
    wanted = [system for system in systems if system.label == MOTO]
    if not wanted:
        return [], ["there is no run of MOTO"]
    from experiments.figure_values import open_models

    probes = {}
    models, notes = [], []
    for system in wanted:
        try:
            models.append(open_models(system, make_world, probes))
        except (ValueError, OSError, RuntimeError) as error:
            notes.append(f"MOTO on {system.task} is left out: {error}")
    return models, notes


def _model_drawings(
    models: "Sequence[Models]", make_world: "MakeWorld"
) -> dict[int, Callable[[], Drawing]]:
    """Returns what draws figures 1, 4 and 5, by number."""
    if not models:
        return {}
    from experiments import figure_values, gap_values

    def figure_1() -> Drawing:
        # The paper's, of whose task no demonstration does all objects.
        chosen = next(
            (one for one in models if one.system.task == "partial"), models[0]
        )
        predicted = figure_values.predictions(chosen)
        *seen, last = chosen.world.events
        what = (
            f"Task {chosen.system.task}: held-out demonstrations of "
            f"{', '.join(seen)} and {last}; drawn are {_DRAWN} of them, by MOTO's last "
            f"checkpoint of seed {chosen.system.runs[0].config['seeds'][0]}."
        )
        return model_figures.prediction_drawing(predicted, _DRAWN, what)

    def figure_4() -> Drawing:
        return model_figures.reward_drawing([figure_values.rewards(m) for m in models])

    def figure_5() -> Drawing:
        several = [gap_values.gaps(one, make_world) for one in models]
        return gap_drawing(several, models[0].probe.horizon)

    return {1: figure_1, 4: figure_4, 5: figure_5}
