"""How far a model's predictions can be believed: rewards, and its own uncertainty."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from moto_jax.statistics import RankCorrelation, rank_correlation
from moto_jax.study.style import BLACK, BLUE, COLUMN, GREY

# Predictions are put together by equal real rewards, uncertainty in so many parts of
# equal size.
_PARTS = 8


class Calibration(NamedTuple):
    """Predictions from recorded actions beside what happened, [n] each.

    Attributes:
      real: rewards of the rows that are H steps ahead.
      predicted: for those rows.
      uncertainty: mean u over the H steps up to each.
      error: mean absolute error of the rewards of those steps.
    """

    real: np.ndarray
    predicted: np.ndarray
    uncertainty: np.ndarray
    error: np.ndarray

    @property
    def rank(self) -> RankCorrelation:
        """Spearman's rank correlation of uncertainty and error."""
        return rank_correlation(self.uncertainty, self.error)


def by_reward(one: Calibration) -> list[Mapping[str, float]]:
    """Returns a row for each real reward: `real`, `number`, `predicted`, `error`.

    The prediction is a mean, the error a root mean square.
    """
    rows = []
    for real in np.unique(one.real):
        predicted = one.predicted[one.real == real]
        error = np.sqrt(np.mean(np.square(predicted - real)))
        rows.append(
            {
                "real": float(real),
                "number": len(predicted),
                "predicted": float(predicted.mean()),
                "error": float(error),
            }
        )
    return rows


def by_uncertainty(one: Calibration) -> list[Mapping[str, float]]:
    """Returns a row for each part, least uncertain first: means and `number`."""
    order = np.argsort(one.uncertainty, kind="stable")
    return [
        {
            "uncertainty": float(one.uncertainty[part].mean()),
            "number": len(part),
            "error": float(one.error[part].mean()),
        }
        for part in np.array_split(order, min(_PARTS, len(order)))
    ]


def reward_figure(one: Calibration) -> Figure:
    """Returns what was predicted against the real reward."""
    figure = Figure(figsize=(COLUMN, 2.3), layout="constrained")
    axes = figure.add_subplot()
    reals = np.unique(one.real)
    several = [one.predicted[one.real == real] for real in reals]
    low, median, high = np.array(
        [np.quantile(values, [0.05, 0.5, 0.95]) for values in several]
    ).T
    ends = [float(reals[0]), float(reals[-1])]
    axes.plot(ends, ends, color=GREY, linestyle=":", label="as it is")
    axes.errorbar(
        reals,
        median,
        yerr=(median - low, high - median),
        color=BLUE,
        marker="o",
        linestyle="",
        capsize=2,
        label="median, 5 to 95 %",
    )
    axes.set_xlabel("real reward")
    axes.set_ylabel("predicted reward")
    axes.legend(loc="upper left")
    return figure


def uncertainty_figure(one: Calibration) -> Figure:
    """Returns the error of predicted rewards against the model's uncertainty."""
    figure = Figure(figsize=(COLUMN, 2.3), layout="constrained")
    axes = figure.add_subplot()
    rows = by_uncertainty(one)
    axes.plot(
        [row["uncertainty"] for row in rows],
        [row["error"] for row in rows],
        color=BLACK,
        marker="o",
    )
    axes.set_ylim(0, None)
    axes.set_xlabel("uncertainty u, mean of the steps")
    axes.set_ylabel("reward's mean error")
    return figure
