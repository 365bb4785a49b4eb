"""Intervals of rates and of means."""

import numpy as np

# Two-sided 95 % of the normal distribution.
_NORMAL_QUANTILE = 1.959963984540054
_BOOTSTRAP_SAMPLES = 10_000


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Returns the 95 % score interval of a success rate (Wilson, 1927).

    It stays within [0, 1] and has a width at 0 and `trials` successes too, where the
    normal approximation has none.

    Raises:
      ValueError: unless 0 <= successes <= trials and trials > 0.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} successes in {trials} trials: no such rate")
    z = _NORMAL_QUANTILE
    rate = successes / trials
    centre = (rate + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half_width = (z / (1 + z**2 / trials)) * np.sqrt(
        rate * (1 - rate) / trials + z**2 / (4 * trials**2)
    )
    # Rounding may leave the ends a bit off 0 and 1, where they belong.
    low = 0.0 if successes == 0 else centre - half_width
    high = 1.0 if successes == trials else centre + half_width
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
