"""The paper's figure 5: what a model's uncertainty says of its policy's shortfall."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from moto_jax.statistics import (
    RankCorrelation,
    grouped_rank_correlation,
    linear_fit,
    rank_correlation,
)
from moto_jax.study.drawings import Drawing
from moto_jax.study.style import (
    BLACK,
    BLUE,
    COLUMN,
    DOUBLE_COLUMN,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
)

# Seeds in a scatter: colour and marker.
_POINTS = (
    (BLUE, "o"),
    (VERMILLION, "s"),
    (GREEN, "^"),
    (ORANGE, "v"),
    (PURPLE, "D"),
    (SKY, "P"),
)


class Gaps(NamedTuple):
    """Checkpoints on one task, [n] each: how sure the model is, how good the policy.

    Attributes:
      task: name.
      expert: whose episodes the models were asked about.
      expert_return: mean return of those.
      seed: of the run.
      updates: done.
      uncertainty: eps_u, mean u along the expert's actions, as a multiple of the same
        along actions of the training data. As a model learns its members' heads sharpen
        and u grows wherever it is asked; against what it knows best this cancels.
      raw_uncertainty: eps_u as it is.
      gap: the expert's return less the policy's.
    """

    task: str
    expert: str
    expert_return: float
    seed: np.ndarray
    updates: np.ndarray
    uncertainty: np.ndarray
    raw_uncertainty: np.ndarray
    gap: np.ndarray


def gap_drawing(several: Sequence[Gaps], horizon: int) -> Drawing:
    """Returns figure 5: how far the policy is from the expert against eps_u.

    Theorem 4.1 (Eq. 11) bounds the one by a constant times the other; eps_u is
    estimated as Eq. 12 says, at checkpoints of the online phase. The line through the
    origin that no point exceeds is the least such constant.

    Args:
      several: one a task, each with a checkpoint at least.
      horizon: H of the rollouts.

    Raises:
      ValueError: if there is none.
    """
    if not several:
        raise ValueError("no checkpoint is there to measure a gap at")
    width = COLUMN if len(several) == 1 else DOUBLE_COLUMN
    figure = Figure(figsize=(width, 2.6), layout="constrained")
    panels = figure.subplots(1, len(several), squeeze=False)[0]
    facts = []
    for axes, one in zip(panels, several, strict=True):
        facts.append(_draw_gaps(axes, one))
    panels[0].set_ylabel("performance gap (return)")
    return Drawing(
        "figure5",
        "Figure 5: performance gap and model uncertainty (Theorem 4.1)",
        "Each point is a checkpoint of MOTO, from the end of the offline phase on: the "
        f"mean disagreement u of its model along {horizon} recorded actions of an "
        "expert, from every posterior state of its episodes, as a multiple of the same "
        "along demonstrations that it was trained on, and the expert's return less "
        "that of the checkpoint's mean policy in its evaluation. Solid: the smallest c "
        "for which gap <= c eps_u holds at all points; dotted: least squares. "
        "Spearman's rank correlations have 95 % bootstrap intervals over checkpoints, "
        "which are neighbours in time, so that they are narrower than they should be. "
        + " ".join(facts),
        figure,
        {"": gap_rows(several)},
    )


def _draw_gaps(axes: Axes, one: Gaps) -> str:
    """Draws one task's points and lines; returns what they say in a sentence."""
    for index, seed in enumerate(np.unique(one.seed)):
        colour, marker = _POINTS[index % len(_POINTS)]
        own = one.seed == seed
        axes.plot(
            one.uncertainty[own],
            one.gap[own],
            linestyle="",
            color=colour,
            marker=marker,
            markersize=4,
            alpha=0.85,
            label=f"seed {seed}",
        )
    fit = linear_fit(one.uncertainty, one.gap)
    far = 1.08 * one.uncertainty.max()
    axes.plot(
        [0, far], [0, fit.bound * far], color=BLACK, label=f"c = {_short(fit.bound)}"
    )
    if np.isfinite(fit.slope):
        ends = np.array([one.uncertainty.min(), one.uncertainty.max()])
        axes.plot(
            ends,
            fit.slope * ends + fit.offset,
            color=GREY,
            linestyle=":",
            label="least squares",
        )
    axes.set_xlim(0, far)
    low = min(0.0, float(one.gap.min()))
    axes.set_ylim(low - 0.05 * abs(low), None)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(r"uncertainty $\epsilon_u$, expert / training data")
    axes.set_title(f"task {one.task}", loc="left")
    axes.legend(loc="best", handlelength=1.6)
    over, within = _rank_correlations(one)
    return (
        f"On {one.task}, n = {over.number} checkpoints, expert: {one.expert}, return "
        f"{one.expert_return:.0f}; rank correlation within seeds {_told(within)}, "
        f"over all points {_told(over)}; least squares gap = {_short(fit.slope)} eps_u "
        f"+ {_short(fit.offset)}; bound c = {_short(fit.bound)}."
    )


def _rank_correlations(one: Gaps) -> tuple[RankCorrelation, RankCorrelation]:
    """Returns those over all points, and within seeds on average."""
    return (
        rank_correlation(one.uncertainty, one.gap),
        grouped_rank_correlation(one.uncertainty, one.gap, one.seed),
    )


def _told(rank: RankCorrelation) -> str:
    return f"{rank.value:.2f} [{rank.low:.2f}, {rank.high:.2f}]"


def _short(value: float) -> str:
    """Returns three digits that count, or all before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def gap_rows(several: Sequence[Gaps]) -> list[dict[str, Any]]:
    """Returns the points, a row each, with the lines of their task."""
    rows = []
    for one in several:
        fit = linear_fit(one.uncertainty, one.gap)
        over, within = _rank_correlations(one)
        for index in range(len(one.gap)):
            rows.append(
                {
                    "task": one.task,
                    "seed": int(one.seed[index]),
                    "updates": int(one.updates[index]),
                    "uncertainty": float(one.uncertainty[index]),
                    "raw_uncertainty": float(one.raw_uncertainty[index]),
                    "gap": float(one.gap[index]),
                    "expert_return": float(one.expert_return),
                    "bound": fit.bound,
                    "least_squares_slope": fit.slope,
                    "least_squares_offset": fit.offset,
                    "rank_correlation": over.value,
                    "rank_correlation_low": over.low,
                    "rank_correlation_high": over.high,
                    "within_seeds": within.value,
                    "within_seeds_low": within.low,
                    "within_seeds_high": within.high,
                }
            )
    return rows
