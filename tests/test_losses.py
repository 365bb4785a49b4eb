"""Losses over arrays: numbers by hand, alignment of masks, and what gets a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moto_jax.agents import losses
from moto_jax.distributions import TruncatedNormal
from tests import fakes, reference


def unit_policy(feature):
    """Actions whose mean is the feature; the density is a unit normal's."""
    return fakes.Certain(feature)


def surprise(error):
    return 0.5 * error**2 + 0.5 * np.log(2 * np.pi)


class TestMaskedMean:
    def test_by_hand(self):
        values = jnp.array([[1.0, 2.0], [3.0, 100.0]])
        mask = jnp.array([[True, False], [True, False]])
        np.testing.assert_allclose(losses.masked_mean(values, mask), 2.0)

    def test_nothing_chosen_is_zero_with_a_zero_gradient(self):
        mean, gradient = jax.value_and_grad(losses.masked_mean)(
            jnp.ones(3), jnp.zeros(3, bool)
        )
        assert mean == 0.0
        np.testing.assert_array_equal(gradient, 0.0)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_masked_values_leak_nothing(self, bad):
        mean, gradient = jax.value_and_grad(losses.masked_mean)(
            jnp.array([bad, 4.0]), jnp.array([False, True])
        )
        assert mean == 4.0
        np.testing.assert_array_equal(gradient, [0.0, 1.0])


class TestBehaviourLoss:
    # Three rows of one sequence, one feature, one action dimension.
    FEATURE = jnp.array([0.0, 0.5, 0.0]).reshape(3, 1, 1)
    PREV_ACTION = jnp.array([9.0, 1.0, -1.0]).reshape(3, 1, 1)

    def loss(self, *is_behaviour, feature=None, prev_action=None):
        return losses.behaviour_loss(
            unit_policy,
            self.FEATURE if feature is None else feature,
            self.PREV_ACTION if prev_action is None else prev_action,
            jnp.array(is_behaviour)[:, None],
        )

    def test_the_action_taken_at_a_row_is_in_the_next(self):
        # Row 0, at feature 0.0, took 1.0; row 1, at 0.5, took -1.0.
        np.testing.assert_allclose(self.loss(True, False, False), surprise(1.0))
        np.testing.assert_allclose(self.loss(False, True, False), surprise(1.5))
        np.testing.assert_allclose(
            self.loss(True, True, False), (surprise(1.0) + surprise(1.5)) / 2
        )

    def test_the_last_row_has_no_action_yet(self):
        assert self.loss(False, False, True) == 0.0
        np.testing.assert_allclose(self.loss(True, False, True), surprise(1.0))

    @pytest.mark.parametrize("bad", [np.nan, np.inf, 50.0])
    def test_masked_actions_leak_nothing(self, bad):
        def policy(feature):
            return TruncatedNormal(jnp.tanh(feature), 0.1 + jnp.zeros_like(feature))

        def loss(feature, action):
            prev_action = jnp.array([bad, 1.0, action]).reshape(3, 1, 1)
            mask = jnp.array([True, False, False])[:, None]
            return losses.behaviour_loss(policy, feature, prev_action, mask)

        value, gradient = jax.value_and_grad(loss)(self.FEATURE, bad)
        expected, expected_gradient = jax.value_and_grad(loss)(self.FEATURE, 0.2)
        assert np.isfinite(value) and value == expected
        np.testing.assert_array_equal(gradient, expected_gradient)
        assert gradient[0, 0, 0] < 0.0
        np.testing.assert_array_equal(gradient[1:], 0.0)

    def test_descending_brings_the_mean_to_the_action(self):
        gradient = jax.grad(
            lambda feature: self.loss(True, True, False, feature=feature)
        )(self.FEATURE)
        # Means 0.0 and 0.5 with actions 1.0 and -1.0, averaged over two rows.
        np.testing.assert_allclose(np.ravel(gradient), [-0.5, 0.75, 0.0], rtol=1e-5)


class TestModelValueLoss:
    def test_is_minus_the_mean_without_the_last_row(self):
        mixture = jnp.array([[1.0, 2.0], [3.0, 6.0], [1e6, 1e6]])
        np.testing.assert_allclose(losses.model_value_loss(mixture), -3.0)

    def test_weights_rows_of_the_horizon(self):
        mixture = jnp.array([[1.0, 2.0], [3.0, 6.0], [1e6, 1e6]])
        weights = losses.cumulative_discounts(2, 0.5)
        # - (1 + 2 + 0.5 * 3 + 0.5 * 6) / 4
        loss = losses.model_value_loss(mixture, weights)
        np.testing.assert_allclose(loss, -1.875)


def test_cumulative_discounts_by_hand():
    np.testing.assert_allclose(losses.cumulative_discounts(3, 0.5), [1.0, 0.5, 0.25])


class TestCriticLosses:
    CRITICS, ROWS, COLUMNS = 2, 3, 4

    def arrays(self):
        generator = np.random.default_rng(0)
        shape = (self.ROWS, self.COLUMNS)
        value = generator.normal(size=(self.CRITICS, *shape))
        return np.float32(value), np.float32(generator.normal(size=shape))

    def test_imagined_loss_is_eq_6(self):
        value, target = self.arrays()
        np.testing.assert_allclose(
            losses.imagined_critic_loss(value, target),
            reference.imagined_critic_loss(value, target),
            rtol=1e-5,
        )

    def test_imagined_loss_weighs_rows_of_the_horizon(self):
        # Errors 1 and 2 at t = 0, 1: (1 + 0.5 * 4) / 2.
        loss = losses.imagined_critic_loss(
            jnp.array([[[1.0], [2.0]]]),
            jnp.zeros((2, 1)),
            losses.cumulative_discounts(2, 0.5),
        )
        np.testing.assert_allclose(loss, 1.5)

    def test_recorded_loss_is_eq_7_without_the_rows_before_another_episode(self):
        value, target = self.arrays()
        is_first = np.zeros((self.ROWS + 1, self.COLUMNS), np.bool_)
        is_first[0] = is_first[2, 1] = True
        np.testing.assert_allclose(
            losses.recorded_critic_loss(value, target, ~is_first[1:]),
            reference.recorded_critic_loss(value, target, is_first),
            rtol=1e-5,
        )

    @pytest.mark.parametrize("masked", [False, True])
    def test_gradient_goes_to_the_values_alone(self, masked):
        value, target = self.arrays()
        mask = np.ones(target.shape, np.bool_)
        mask[1, 2] = not masked

        def total(value, target):
            recorded = losses.recorded_critic_loss(value, target, mask)
            return losses.imagined_critic_loss(value, target) + recorded

        to_value, to_target = jax.grad(total, argnums=(0, 1))(value, target)
        np.testing.assert_array_equal(to_target, 0.0)
        share = 1 / value.size + mask[None] / (self.CRITICS * np.sum(mask))
        np.testing.assert_allclose(
            to_value, 2 * (value - target[None]) * share, rtol=1e-4
        )
