"""How far predictions can be believed, with numbers by hand."""

import numpy as np
import pytest

from moto_jax.study import calibration


@pytest.fixture
def one():
    return calibration.Calibration(
        real=np.array([1.0, 0.0, 1.0, 0.0]),
        predicted=np.array([0.5, 0.3, 1.5, 0.1]),
        uncertainty=np.array([0.2, 0.4, 0.3, 0.1]),
        error=np.array([0.6, 0.8, 0.7, 0.5]),
    )


def test_predictions_are_put_together_by_real_reward(one):
    none, some = calibration.by_reward(one)
    assert (none["real"], none["number"], some["real"], some["number"]) == (0, 2, 1, 2)
    assert none["predicted"] == pytest.approx(0.2) and some["predicted"] == 1.0
    assert none["error"] == pytest.approx(np.sqrt((0.3**2 + 0.1**2) / 2))
    assert some["error"] == pytest.approx(0.5)


def test_uncertainty_goes_from_least_to_most_in_equal_parts(one):
    rows = calibration.by_uncertainty(one)
    assert [row["uncertainty"] for row in rows] == [0.1, 0.2, 0.3, 0.4]
    assert [row["error"] for row in rows] == [0.5, 0.6, 0.7, 0.8]
    assert one.rank.value == pytest.approx(1.0)
    many = calibration.Calibration(*(np.arange(16.0) for _ in range(4)))
    first, *_ = rows = calibration.by_uncertainty(many)
    assert len(rows) == 8 and first == {"uncertainty": 0.5, "number": 2, "error": 0.5}


def test_pictures_show_those_numbers(one):
    (axes,) = calibration.reward_figure(one).axes
    (medians,) = [bars.lines[0] for bars in axes.containers]
    np.testing.assert_allclose(medians.get_ydata(), [0.2, 1.0])
    (axes,) = calibration.uncertainty_figure(one).axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0.5, 0.6, 0.7, 0.8])
