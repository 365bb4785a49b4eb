import numpy as np
import pytest

from moto_jax import statistics


def test_the_middle_half_by_hand():
    assert statistics.interquartile_mean(np.array([9.0, 1.0, 2.0, 4.0])) == 3.0
    assert (
        statistics.interquartile_mean(np.array([0.0, 3.0, 12.0]))
        == (0.25 * 0 + 3 + 0.25 * 12) / 1.5
    )
    assert statistics.interquartile_mean(np.array([7.0])) == 7.0
    assert statistics.interquartile_mean(np.array([1.0, 4.0])) == 2.5
    # Of eight the four in the middle, along the first axis.
    columns = np.stack([np.arange(8.0) ** 2, -np.arange(8.0)], axis=1)
    np.testing.assert_allclose(
        statistics.interquartile_mean(columns[::-1]), [(4 + 9 + 16 + 25) / 4, -3.5]
    )


def test_an_estimate_of_three_seeds():
    values = np.array([[0.0, 1.0], [3.0, 1.0], [12.0, 1.0]])
    found = statistics.estimate([values])
    np.testing.assert_allclose(found.mean, [5, 1])
    np.testing.assert_allclose(found.middle, [4, 1])
    assert found.number == 3
    # One resample in 27 is of the lowest seed alone: more than 2.5 %.
    np.testing.assert_allclose(found.mean_low, [0, 1])
    np.testing.assert_allclose(found.mean_high, [12, 1])
    np.testing.assert_allclose(found.middle_high, [12, 1])
    assert all(
        np.array_equal(one, two)
        for one, two in zip(found, statistics.estimate([values]), strict=True)
    )


def test_an_interval_of_many_seeds_is_that_of_a_mean():
    values = np.random.default_rng(0).normal(size=400)
    found = statistics.estimate([values])
    error = values.std() / 20
    np.testing.assert_allclose(found.mean_high - found.mean, 1.96 * error, rtol=0.1)
    np.testing.assert_allclose(found.mean - found.mean_low, 1.96 * error, rtol=0.1)
    assert found.middle_low < found.middle < found.middle_high


def test_strata_are_resampled_by_themselves():
    """Where seeds agree within each task nothing is left to chance."""
    found = statistics.estimate([np.zeros(3), np.ones(3)])
    assert (found.mean, found.mean_low, found.mean_high) == (0.5, 0.5, 0.5)
    assert found.number == 6


def test_one_seed_has_no_interval():
    found = statistics.estimate([np.array([[2.0]])])
    assert found.mean == found.middle == 2.0
    assert np.isnan(found.mean_low) and np.isnan(found.middle_high)
    with pytest.raises(ValueError, match="no value"):
        statistics.estimate([])
    with pytest.raises(ValueError, match="no value"):
        statistics.estimate([np.ones(2), np.ones(0)])


def test_rank_correlation_by_hand():
    rising = statistics.rank_correlation([1, 2, 3, 4], [0, 1, 10, 100])
    assert rising.value == pytest.approx(1.0) and rising.number == 4
    falling = statistics.rank_correlation([1, 2, 3], [5, 4, 3])
    assert falling.value == pytest.approx(-1.0)
    # Ranks 1, 2.5, 2.5, 4 against 1, 3, 2, 4: 4.5 / sqrt(4.5 * 5).
    tied = statistics.rank_correlation([1, 2, 2, 3], [1, 3, 2, 4])
    assert tied.value == pytest.approx(4.5 / np.sqrt(4.5 * 5))
    assert tied.low <= tied.value <= tied.high
    assert np.isnan(statistics.rank_correlation([1, 1], [1, 2])[:3]).all()


def test_rank_correlation_within_groups_by_hand():
    # Rising within each of two groups, falling from one to the other.
    x, y = [1, 2, 3, 11, 12, 13], [21, 22, 23, 1, 2, 3]
    groups = np.array([0, 0, 0, 7, 7, 7])
    within = statistics.grouped_rank_correlation(x, y, groups)
    assert within.value == pytest.approx(1.0) and within.number == 6
    assert within.low == within.high == pytest.approx(1.0)
    assert statistics.rank_correlation(x, y).value < 0
    # A mean over groups: 1 and -1; a group in which nothing varies does not count.
    opposed = statistics.grouped_rank_correlation(x, [*y[:3], 3, 2, 1], groups)
    assert opposed.value == pytest.approx(0.0)
    still = statistics.grouped_rank_correlation(x, [*y[:3], 5, 5, 5], groups)
    assert still.value == pytest.approx(1.0)
    nothing = statistics.grouped_rank_correlation(x, [5] * 6, groups)
    assert np.isnan(nothing[:3]).all()


def test_an_interval_of_ranks_shrinks_with_their_number():
    generator = np.random.default_rng(0)
    x = generator.normal(size=200)
    y = x + generator.normal(size=200)
    wide = statistics.rank_correlation(x[:20], y[:20])
    narrow = statistics.rank_correlation(x, y)
    assert narrow.low > 0.5 and narrow.high < 0.9
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_lines_by_hand():
    fit = statistics.linear_fit(np.array([1.0, 2.0, 3.0]), np.array([2.0, 8.0, 8.0]))
    assert fit.slope == pytest.approx(3.0)
    assert fit.offset == pytest.approx(0.0)
    # The second point lies highest above the origin's line.
    assert fit.bound == pytest.approx(4.0)
    same = statistics.linear_fit(np.array([2.0, 2.0]), np.array([1.0, 6.0]))
    assert np.isnan(same.slope) and same.bound == 3.0
    for x in ([], [0.0, 1.0]):
        with pytest.raises(ValueError, match="positive x"):
            statistics.linear_fit(np.array(x), np.ones(len(x)))


def test_quantiles_of_what_is_known():
    values = np.array([[0.0, 50.0, 100.0], [1.0, np.nan, 1.0], [np.nan] * 3])
    median, low, high = statistics.quantile_band(values)
    np.testing.assert_allclose(median, [50, 1, np.nan])
    np.testing.assert_allclose(low, [5, 1, np.nan])
    np.testing.assert_allclose(high, [95, 1, np.nan])
