r"""Predicts images from recorded actions, and shows them beside what happened.

    python -m experiments.open_loop --checkpoint=runs/mixed-cpu-moto-seed0 \
        --out=results/open_loop.png

A scripted demonstration of the checkpoint's task, which no dataset has, is
cut where one object after another is being moved. The model sees the first frames of a
cut, then the actions alone. Writes the picture, and every predicted frame's error as
CSV beside it; prints the errors next to those of a copy of the last frame seen.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags, logging

from experiments.command_line import fail, output_console, prepare_jax, run_program
from moto_jax.data.files import write_atomically
from moto_jax.study.figures import check_format, open_loop_strip
from moto_jax.study.predictions import Cut, choose_cuts, prediction_errors
from moto_jax.tables import comma_separated

if TYPE_CHECKING:
    from moto_jax.data.episodes import Episode
    from moto_jax.data.rows import Rows
    from moto_jax.running.restoring import Restored
    from moto_jax.worlds.world import World

_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "Directory of a run, or of one step of its checkpoints.",
    required=True,
)
_OUT = flags.DEFINE_string(
    "out",
    None,
    "The picture (.png, .pdf or .svg); the CSV gets the same name.",
    required=True,
)
_SEED = flags.DEFINE_integer(
    "seed", None, "Which of the run's seeds; may be left out where there is one."
)
_EPISODE = flags.DEFINE_integer(
    "episode",
    0,
    "Number of the demonstration, also the seed of what the model draws.",
    lower_bound=0,
)
_CONTEXT = flags.DEFINE_integer("context", 5, "Frames the model sees.", lower_bound=1)
_PREDICTED = flags.DEFINE_integer(
    "predicted", 25, "Frames it predicts after those.", lower_bound=1
)
_SEQUENCES = flags.DEFINE_integer(
    "sequences", 3, "At most so many, one an object of the task.", lower_bound=1
)
_EVERY = flags.DEFINE_integer(
    "every", 4, "The first predicted frame and then every so many are drawn.", 1
)

# Predicted frames are printed in blocks of so many.
_BLOCK = 5


def main(argv: Sequence[str]) -> None:
    """Predicts and draws; what is wrong is said in one sentence."""
    del argv
    logging.set_verbosity(logging.WARNING)
    prepare_jax()
    from moto_jax.worlds.graphics import GraphicsError

    try:
        _open_loop(Path(_OUT.value))
    except (ValueError, OSError, GraphicsError) as error:
        fail(error)


def _open_loop(out: Path) -> None:
    check_format(out)
    # Takes seconds, which a wrong name need not wait for.
    from moto_jax.acting.environment_seeds import Purpose, environment_seed
    from moto_jax.data.rows import to_rows
    from moto_jax.running.restoring import restore_agent
    from moto_jax.worlds.registry import make_world

    seed = environment_seed(Purpose.HELD_OUT_DEMONSTRATIONS, number=_EPISODE.value)
    restored = restore_agent(_CHECKPOINT.value, _SEED.value)
    if restored.agent.model is None:
        raise ValueError(
            f"{restored.path} is of agent {restored.config.agent}, which has no model "
            "to predict with: give a checkpoint of one that has"
        )
    world = make_world(restored.config)
    world.prepare()
    out.parent.mkdir(parents=True, exist_ok=True)
    episode = world.demonstrate(seed)
    cuts = _cuts(episode, world)
    truth, prediction = _predict(restored, to_rows(episode, world.label(episode)), cuts)
    model, copy = prediction_errors(truth, prediction, _CONTEXT.value)
    open_loop_strip(
        truth,
        prediction,
        out,
        _CONTEXT.value,
        _EVERY.value,
        [cut.name for cut in cuts],
    )
    table = comma_separated(_error_rows(cuts, model, copy))
    write_atomically(out.with_suffix(".csv"), table.encode())
    _show(model, copy)
    print(f"written to {out} and {out.with_suffix('.csv')}")


def _cuts(episode: "Episode", world: "World") -> list[Cut]:
    """Returns where to look, by the world's first events.

    Raises:
      ValueError: if the demonstration is too short, or does nothing.
    """
    from moto_jax.data.rows import first_rows

    first = first_rows(world.label(episode).events).tolist()
    cuts = choose_cuts(
        dict(zip(world.events, first, strict=True)),
        episode.num_rows,
        _CONTEXT.value,
        _PREDICTED.value,
    )
    if not cuts:
        raise ValueError("the demonstration fails with this --episode: give another")
    return cuts[: _SEQUENCES.value]


def _predict(
    restored: "Restored", rows: "Rows", cuts: Sequence[Cut]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns what was and what is predicted, uint8 [T, B, height, width, 3] both."""
    import jax

    from moto_jax.learning.imagination import open_loop
    from moto_jax.types import Batch

    length = _CONTEXT.value + _PREDICTED.value
    batch = Batch(
        **{
            field.name: np.stack(
                [
                    getattr(rows, field.name)[cut.start : cut.start + length]
                    for cut in cuts
                ],
                axis=1,
            )
            for field in dataclasses.fields(Batch)
        }
    )
    assert restored.agent.model is not None
    predict = jax.jit(partial(open_loop, restored.agent.model), static_argnums=2)
    params = restored.agent.acting_params(restored.state)["model"]
    key = jax.random.key(_EPISODE.value)
    prediction = predict(params, batch, _CONTEXT.value, key)
    return np.asarray(batch.image), np.asarray(prediction)


def _error_rows(
    cuts: Sequence[Cut], model: np.ndarray, copy: np.ndarray
) -> list[dict[str, Any]]:
    return [
        {
            "object": cut.name,
            "start_row": cut.start,
            "step": step + 1,
            "model_mse": f"{model[step, index]:.2f}",
            "copy_mse": f"{copy[step, index]:.2f}",
        }
        for index, cut in enumerate(cuts)
        for step in range(len(model))
    ]


def _show(model: np.ndarray, copy: np.ndarray) -> None:
    """Prints the errors by block of steps, averaged over the sequences."""
    from rich.table import Table

    table = Table(title="mean squared error, grey levels squared")
    for name in ("predicted frames", "model", "copy of the last frame seen"):
        table.add_column(name, justify="right")
    for first in range(0, len(model), _BLOCK):
        last = min(first + _BLOCK, len(model))
        means = (errors[first:last].mean() for errors in (model, copy))
        table.add_row(f"{first + 1} to {last}", *(f"{mean:.1f}" for mean in means))
    table.add_section()
    table.add_row("all", f"{model.mean():.1f}", f"{copy.mean():.1f}")
    output_console(88).print(table)


if __name__ == "__main__":
    run_program(main)
