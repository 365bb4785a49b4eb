"""A run beside others of its configuration: within their band, or since when not.

The band at an evaluation reaches from the lowest lower end of the references' 95 %
intervals to the highest upper end; where an evaluation has no interval its mean counts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from moto_jax.run_layout import RunError
from moto_jax.study.runs import RunFiles, differing_keys
from moto_jax.study.style import BLUE, GREY


class Band(NamedTuple):
    """References of a configuration, at evaluations that a run shares with them all.

    Attributes:
      steps: int [n], updates done.
      low: float [n], of the band.
      high: float [n].
      run: float [n], the run's own values.
      references: the runs that the band is of.
    """

    steps: np.ndarray
    low: np.ndarray
    high: np.ndarray
    run: np.ndarray
    references: tuple[RunFiles, ...]

    @property
    def inside(self) -> np.ndarray:
        """Bool [n]."""
        return (self.low <= self.run) & (self.run <= self.high)


def reference_band(run: RunFiles, candidates: Sequence[RunFiles], measure: str) -> Band:
    """Returns the band of those candidates that differ from the run in the seed alone.

    A copy of the run itself, such as `experiments.keep_metrics` makes, is passed over.

    Args:
      run: to be compared, ended or not.
      candidates: runs that may be its references.
      measure: name in metrics.jsonl, such as "mean/objects".

    Raises:
      RunError: where there is none, or they share no evaluation.
    """
    others = [
        (one, _differences(run, one)) for one in candidates if not _is_copy(one, run)
    ]
    references = tuple(one for one, keys in others if not keys)
    if not others:
        raise RunError(f"there is no run beside {run.path}: give another --to")
    if not references:
        nearest, keys = min(others, key=lambda pair: len(pair[1]))
        shown = ", ".join(keys[:4]) + (", ..." if len(keys) > 4 else "")
        raise RunError(
            f"no reference has the configuration of {run.path}; the nearest, "
            f"{nearest.path}, differs in {shown}: give another --to"
        )
    own = _evaluations(run, measure)
    theirs = [_evaluations(one, measure) for one in references]
    shared = sorted(set(own).intersection(*theirs))
    if not shared:
        raise RunError(
            f"{run.path} shares no evaluation with {references[0].path} and the other "
            "references: evaluate after as many updates as they do"
        )
    return Band(
        steps=np.array(shared),
        low=np.array([min(one[step][1] for one in theirs) for step in shared]),
        high=np.array([max(one[step][2] for one in theirs) for step in shared]),
        run=np.array([own[step][0] for step in shared]),
        references=references,
    )


def _is_copy(one: RunFiles, run: RunFiles) -> bool:
    """Whether both are of one training: of evaluations even the clock is the same."""
    if one.config["seeds"] != run.config["seeds"]:
        return False
    own, other = (
        [row for row in each.rows if row["phase"].startswith("evaluation")]
        for each in (run, one)
    )
    shared = min(len(own), len(other))
    return shared > 0 and own[:shared] == other[:shared]


def _differences(run: RunFiles, other: RunFiles) -> list[str]:
    return [key for key in differing_keys([run, other]) if key != "seeds"]


def _evaluations(run: RunFiles, measure: str) -> dict[int, tuple[float, float, float]]:
    """Returns updates -> value and its interval; of equal updates the last."""
    return {
        row["step"]: (
            row[measure],
            row.get(f"{measure}_low", row[measure]),
            row.get(f"{measure}_high", row[measure]),
        )
        for row in run.rows
        if row["phase"].startswith("evaluation") and row.get(measure) is not None
    }


def verdict(band: Band) -> str:
    """Returns in a sentence whether a run is inside, and if not since when."""
    of = f"{len(band.references)} reference run" + "s" * (len(band.references) > 1)
    inside = band.inside
    last = f"{band.run[-1]:.2f}, band {band.low[-1]:.2f} to {band.high[-1]:.2f}"
    if inside.all():
        return f"inside the band of {of} at all {len(inside)} evaluations ({last})"
    if inside[-1]:
        out = ", ".join(f"{step:,}" for step in band.steps[~inside])
        return f"inside the band of {of} at its end ({last}), outside after {out}"
    # The first of the evaluations from which on all are outside.
    since = band.steps[len(inside) - np.argmax(inside[::-1])] if inside.any() else None
    where = "below" if band.run[-1] < band.low[-1] else "above"
    begin = f"since {since:,} updates" if since is not None else "from the first on"
    return f"{where} the band of {of} {begin} ({last})"


def band_figure(band: Band, name: str, measure: str) -> Figure:
    """Returns the run's curve in its references' band.

    Args:
      band: of them.
      name: the run's.
      measure: what is drawn.
    """
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.fill_between(
        *(band.steps, band.low, band.high),
        color=GREY,
        alpha=0.3,
        linewidth=0,
        label="their band",
    )
    for one in band.references:
        found = _evaluations(one, measure)
        steps = sorted(found)
        axes.plot(
            steps,
            [found[s][0] for s in steps],
            color=GREY,
            linewidth=0.8,
            label="references" if one is band.references[0] else None,
        )
    axes.plot(band.steps, band.run, color=BLUE, marker="o", label=name)
    outside = ~band.inside
    axes.plot(
        *(band.steps[outside], band.run[outside]),
        color=BLUE,
        marker="o",
        linestyle="",
        markerfacecolor="white",
        label="outside" if outside.any() else None,
    )
    axes.legend(loc="best")
    axes.set_xlabel("updates")
    axes.set_ylabel(measure.replace("/", " policy, "))
    count = len(band.references)
    axes.set_title(f"{name} in the band of {count} reference" + "s" * (count > 1))
    return figure
