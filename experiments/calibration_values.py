"""What the newest checkpoints predict along demonstrations that no dataset has."""

from collections.abc import Sequence

import jax
import matplotlib
import numpy as np

from experiments.figure_values import (
    MakeWorld,
    Models,
    Probe,
    checkpoints,
    newest,
    open_models,
)
from experiments.report_sections import full_label, small_picture
from moto_jax.study import model_probes
from moto_jax.study.calibration import (
    Calibration,
    by_reward,
    reward_figure,
    uncertainty_figure,
)
from moto_jax.study.page import Gallery, Grid, Listing, Part
from moto_jax.study.style import PRINT_STYLE
from moto_jax.study.systems import System


def calibration_sections(
    systems: Sequence[System], make_world: MakeWorld
) -> list[Part]:
    """Returns how well each system's models predict; what cannot be asked is said.

    Args:
      systems: whose newest checkpoints are asked.
      make_world: see `moto_jax.worlds.registry`.
    """
    parts: list[Part] = []
    probes: dict[str, Probe] = {}
    for system in systems:
        title = f"The model of {full_label(system, systems)}"
        try:
            models = open_models(system, make_world, probes)
            found = calibration(models)
        # Whatever an environment, its graphics or a checkpoint may fail with.
        except (ValueError, OSError, RuntimeError) as error:
            parts.append(Listing(title, f"It was not asked: {error}.", []))
        else:
            parts += _sections(title, models, found)
    return parts


def calibration(models: Models) -> Calibration:
    """Returns what the newest checkpoint of each seed predicts, H steps ahead.

    Each is rolled open loop from every posterior along held-out demonstrations.

    Raises:
      ValueError: if none of them is longer than H steps.
    """
    horizon = models.probe.horizon
    batch = model_probes.padded_batch(
        models.demonstrations, models.world.label, models.rows
    )
    lengths = [episode.num_rows for episode in models.demonstrations]
    whole = model_probes.whole_windows(lengths, models.rows, horizon)
    if not whole.any():
        raise ValueError(f"no demonstration is longer than {horizon} steps")
    starts = models.rows - horizon
    # Of the row that each action leads to.
    real = np.stack([batch.reward[1 + t : 1 + t + starts] for t in range(horizon)])
    columns = []
    for run, _, params in checkpoints(models, newest):
        key = jax.random.key(run.config["seeds"][0])
        found = models.probe.open_loop(params["model"], batch, key)
        reward, uncertainty = map(np.asarray, (found.reward, found.uncertainty))
        error = np.abs(reward - real).mean(axis=0)
        fields = (real[-1], reward[-1], uncertainty.mean(axis=0), error)
        columns.append([field[whole] for field in fields])
    return Calibration(*map(np.concatenate, zip(*columns, strict=True)))


def _sections(title: str, models: Models, found: Calibration) -> list[Part]:
    horizon, episodes = models.probe.horizon, len(models.demonstrations)
    with matplotlib.rc_context(PRINT_STYLE):
        pictures = [
            small_picture(
                "predicted against real reward",
                f"The reward {horizon} steps ahead, against what it was.",
                reward_figure(found),
            ),
            small_picture(
                "uncertainty against error",
                "Mean over the steps; each point is an eighth of the predictions. Rank "
                f"correlation {found.rank.value:.2f}.",
                uncertainty_figure(found),
            ),
        ]
    rows = [
        [f"{row['real']:g}", f"{row['number']:,}"]
        + [f"{row[name]:.2f}" for name in ("predicted", "error")]
        for row in by_reward(found)
    ]
    return [
        Gallery(
            title,
            f"The newest checkpoint of each seed (n = {len(models.system.runs)}) sees "
            f"{episodes} held-out demonstrations up to a row and predicts the next "
            f"{horizon} rewards from the recorded actions alone, from every row.",
            pictures,
        ),
        Grid(
            f"{title}, in figures",
            f"Of the reward {horizon} steps ahead; the error is a root mean square.",
            ["real reward", "predictions", "mean", "error"],
            rows,
        ),
    ]
