"""Intervals, means, ranks and lines of a few numbers; seeded where it draws."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

_BOOTSTRAP_SAMPLES = 10_000
_RESAMPLES = 2_000


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Returns the 95 % score interval of a success rate (Wilson, 1927).

    It stays within [0, 1] and has a width at 0 and `trials` successes too, where the
    normal approximation has none.

    Raises:
      ValueError: unless 0 <= successes <= trials and trials > 0.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} successes in {trials} trials: no such rate")
    test = scipy.stats.binomtest(successes, trials)
    low, high = test.proportion_ci(0.95, method="wilson")
    return float(low), float(high)


def bootstrap_interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Returns the 95 % percentile interval of the mean of `values` [N].

    The resampling is seeded: equal values give an equal interval.
    """
    values = np.asarray(values, np.float64)
    generator = np.random.default_rng(seed)
    samples = generator.choice(values, size=(_BOOTSTRAP_SAMPLES, len(values)))
    low, high = np.quantile(samples.mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


class Estimate(NamedTuple):
    """What seeds say of a number; every field is [...] like one seed's values.

    Attributes:
      mean: over seeds.
      mean_low: of its 95 % bootstrap interval; NaN where there is one seed.
      mean_high: the same.
      middle: interquartile mean.
      middle_low: of its 95 % bootstrap interval; NaN where there is one seed.
      middle_high: the same.
      number: of seeds, in all strata.
    """

    mean: np.ndarray
    mean_low: np.ndarray
    mean_high: np.ndarray
    middle: np.ndarray
    middle_low: np.ndarray
    middle_high: np.ndarray
    number: int


def estimate(strata: Sequence[np.ndarray], seed: int = 0) -> Estimate:
    """Returns means over seeds with 95 % stratified bootstrap intervals.

    Each resample draws as many seeds as there are, within each stratum by itself, so
    that no task weighs more than another by chance (Agarwal et al., "Deep Reinforcement
    Learning at the Edge of the Statistical Precipice", 2021). With two or three seeds
    the interval spans little but the seeds themselves.

    Args:
      strata: of each task [seeds, ...], at least one seed each.
      seed: of the resampling: equal values give equal intervals.

    Raises:
      ValueError: without values.
    """
    arrays = [np.asarray(values, np.float64) for values in strata]
    if not arrays or any(len(values) == 0 for values in arrays):
        raise ValueError("no value to average")
    pooled = np.concatenate(arrays)
    statistics = (lambda values: values.mean(axis=0), interquartile_mean)
    mean, middle = (statistic(pooled) for statistic in statistics)
    if max(map(len, arrays)) == 1:
        unknown = np.full(mean.shape, np.nan)
        return Estimate(mean, unknown, unknown, middle, unknown, unknown, len(pooled))
    generator = np.random.default_rng(seed)
    # Seeds first, then resamples: [seeds, resamples, ...].
    drawn = np.concatenate(
        [
            values[generator.integers(0, len(values), (len(values), _RESAMPLES))]
            for values in arrays
        ]
    )
    (mean_low, mean_high), (middle_low, middle_high) = (
        np.quantile(statistic(drawn), [0.025, 0.975], axis=0)
        for statistic in statistics
    )
    return Estimate(
        mean, mean_low, mean_high, middle, middle_low, middle_high, len(pooled)
    )


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Returns the mean of the middle half over the first axis, [n, ...] -> [...].

    A value that lies across a quartile counts with the share of it that is inside: of
    three values the middle one counts four times as much as each of the others.
    """
    ordered = np.sort(np.asarray(values, np.float64), axis=0)
    number = len(ordered)
    ends = np.arange(number + 1)
    inside = np.clip(ends, number / 4, 3 * number / 4)
    weights = np.diff(inside) / (number / 2)
    return np.tensordot(weights, ordered, axes=1)


class RankCorrelation(NamedTuple):
    """Spearman's, with the 95 % bootstrap interval over pairs, and their number."""

    value: float
    low: float
    high: float
    number: int


def rank_correlation(
    left: np.ndarray, right: np.ndarray, seed: int = 0
) -> RankCorrelation:
    """Returns Spearman's rank correlation of pairs [n], equal values sharing a rank.

    NaN where one side does not vary; resamples in which that happens do not count.
    """
    pairs = np.array([left, right], np.float64)
    number = pairs.shape[1]
    chosen = np.random.default_rng(seed).integers(0, number, (_RESAMPLES, number))
    value = float(_rank_correlations(pairs[:, None])[0])
    resampled = _rank_correlations(pairs[:, chosen])
    low, high = np.full(2, np.nan)
    if not np.isnan(value):
        low, high = np.nanquantile(resampled, [0.025, 0.975])
    return RankCorrelation(value, float(low), float(high), number)


def grouped_rank_correlation(
    left: np.ndarray, right: np.ndarray, groups: np.ndarray, seed: int = 0
) -> RankCorrelation:
    """Returns the mean over groups of Spearman's within each, of pairs [n].

    The interval's resamples draw pairs within their group. A group in which one side
    does not vary does not count; NaN where none does.

    Args:
      left: one side.
      right: the other.
      groups: [n], equal for pairs of one group.
      seed: of the resampling.
    """
    generator = np.random.default_rng(seed)
    values, resampled = [], []
    for group in np.unique(groups):
        pairs = np.array([left, right], np.float64)[:, groups == group]
        number = pairs.shape[1]
        chosen = generator.integers(0, number, (_RESAMPLES, number))
        values.append(_rank_correlations(pairs[:, None])[0])
        resampled.append(_rank_correlations(pairs[:, chosen]))
    known = ~np.isnan(values)
    if not known.any():
        nan = float("nan")
        return RankCorrelation(nan, nan, nan, len(left))
    # A resample that draws one pair again and again has no correlation.
    drawn = np.ma.masked_invalid(np.array(resampled)[known])
    low, high = np.nanquantile(drawn.mean(axis=0).filled(np.nan), [0.025, 0.975])
    value = float(np.mean(np.array(values)[known]))
    return RankCorrelation(value, float(low), float(high), len(left))


def _rank_correlations(pairs: np.ndarray) -> np.ndarray:
    """Returns the rank correlation of each row of pairs [2, rows, n]."""
    ranks = scipy.stats.rankdata(pairs, axis=-1)
    left, right = ranks - ranks.mean(axis=-1, keepdims=True)
    scale = np.sqrt(np.sum(left**2, axis=-1) * np.sum(right**2, axis=-1))
    shared = np.sum(left * right, axis=-1)
    return np.divide(shared, scale, where=scale > 0, out=np.full(len(scale), np.nan))


class LinearFit(NamedTuple):
    """Two lines through points: what is usual, and what is never exceeded.

    Attributes:
      slope: of the least-squares line y = slope x + offset; NaN where x is constant.
      offset: of the same line.
      bound: the smallest c of y <= c x for all points.
    """

    slope: float
    offset: float
    bound: float


def linear_fit(x: np.ndarray, y: np.ndarray) -> LinearFit:
    """Returns the lines of points [n] whose x are positive.

    Raises:
      ValueError: for no point, or an x that is not positive: nothing times it bounds.
    """
    x, y = (np.asarray(values, np.float64) for values in (x, y))
    if len(x) == 0 or not (x > 0).all():
        raise ValueError("a bound in proportion needs points with positive x")
    bound = float(np.max(y / x))
    if np.ptp(x) == 0:
        return LinearFit(float("nan"), float("nan"), bound)
    # Whose result has fields that type checkers do not see.
    line: Any = scipy.stats.linregress(x, y)
    return LinearFit(float(line.slope), float(line.intercept), bound)


def quantile_band(values: np.ndarray) -> np.ndarray:
    """Returns median, 5 % and 95 % quantile over the last axis, [3, ...].

    Values that are NaN do not count; where all are, the result is NaN.
    """
    values = np.asarray(values, np.float64)
    known = ~np.isnan(values).all(axis=-1)
    band = np.full((3, *values.shape[:-1]), np.nan)
    band[:, known] = np.nanquantile(values[known], [0.5, 0.05, 0.95], axis=-1)
    return band
