"""Losses over arrays: numbers by hand, alignment of masks, and what gets a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moto_jax.learning import losses
from moto_jax.learning.distributions import TruncatedNormal
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
    BEHAVIOUR_ACTION = jnp.array([1.0, -1.0, 9.0]).reshape(3, 1, 1)

    def loss(self, *is_behaviour, feature=None):
        return losses.behaviour_loss(
            unit_policy,
            self.FEATURE if feature is None else feature,
            self.BEHAVIOUR_ACTION,
            jnp.array(is_behaviour)[:, None],
        )

    def test_rows_that_count_are_averaged(self):
        # Row 0, at feature 0.0, asks for 1.0; row 1, at 0.5, for -1.0.
        np.testing.assert_allclose(self.loss(True, False, False), surprise(1.0))
        np.testing.assert_allclose(self.loss(False, True, False), surprise(1.5))
        np.testing.assert_allclose(
            self.loss(True, True, False), (surprise(1.0) + surprise(1.5)) / 2
        )

    def test_a_sequence_that_is_cut_asks_for_its_last_row_too(self):
        np.testing.assert_allclose(self.loss(False, False, True), surprise(9.0))

    def test_no_row_is_no_loss(self):
        assert self.loss(False, False, False) == 0.0

    @pytest.mark.parametrize("bad", [np.nan, np.inf, 50.0])
    def test_masked_actions_leak_nothing(self, bad):
        def policy(feature):
            return TruncatedNormal(jnp.tanh(feature), 0.1 + jnp.zeros_like(feature))

        def loss(feature, action):
            actions = jnp.array([1.0, action, bad]).reshape(3, 1, 1)
            mask = jnp.array([True, False, False])[:, None]
            return losses.behaviour_loss(policy, feature, actions, mask)

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


def test_regression_is_on_every_critic_and_leaves_the_target_alone():
    value, target = jnp.array([[1.0, 2.0], [3.0, 5.0]]), jnp.array([0.0, 1.0])
    # (1 + 1 + 9 + 16) / 4
    np.testing.assert_allclose(losses.regression_loss(value, target), 6.75)
    gradients = jax.grad(losses.regression_loss, argnums=(0, 1))(value, target)
    np.testing.assert_allclose(gradients[0], [[0.5, 0.5], [1.5, 2.0]])
    np.testing.assert_array_equal(gradients[1], 0.0)


class TestLikelihoodLoss:
    LOG_PROB = jnp.array([-1.0, 2.0, 4.0])

    def test_by_hand(self):
        np.testing.assert_allclose(losses.likelihood_loss(self.LOG_PROB), -5 / 3)
        weights = jnp.array([3.0, 0.5, 1.0])
        mask = jnp.array([True, True, False])
        # - (3 * -1 + 0.5 * 2) / 2: the mean is over rows, not over weights.
        loss = losses.likelihood_loss(self.LOG_PROB, weights, mask)
        np.testing.assert_allclose(loss, 1.0)

    def test_weights_are_held_fixed(self):
        weights = jnp.array([3.0, 0.5, 1.0])
        gradient = jax.grad(losses.likelihood_loss, argnums=(0, 1))
        to_log_prob, to_weights = gradient(self.LOG_PROB, weights)
        np.testing.assert_allclose(to_log_prob, -weights / 3)
        np.testing.assert_array_equal(to_weights, 0.0)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_masked_rows_leak_nothing(self, bad):
        mask = jnp.array([True, True, False])
        loss, gradient = jax.value_and_grad(losses.likelihood_loss)(
            self.LOG_PROB.at[2].set(bad), 1.0, mask
        )
        np.testing.assert_allclose(loss, -0.5)
        np.testing.assert_allclose(gradient, [-0.5, -0.5, 0.0])


class TestExpectileLoss:
    def test_at_a_half_is_half_the_mean_squared_error(self):
        difference = jnp.array([-3.0, 0.0, 1.0, 2.0])
        loss = losses.expectile_loss(difference, 0.5)
        np.testing.assert_allclose(loss, 0.5 * np.mean(np.square(difference)))

    def test_larger_targets_weigh_as_much_as_the_expectile(self):
        difference = jnp.array([2.0, -2.0])
        loss, gradient = jax.value_and_grad(losses.expectile_loss)(difference, 0.9)
        # (0.9 * 4 + 0.1 * 4) / 2
        np.testing.assert_allclose(loss, 2.0, rtol=1e-6)
        np.testing.assert_allclose(gradient, [1.8, -0.2], rtol=1e-6)

    @pytest.mark.parametrize("expectile", [0.1, 0.5, 0.7])
    def test_is_least_at_the_expectile(self, expectile):
        # Of 0 and 1 that is the expectile itself.
        slope = jax.grad(
            lambda value: losses.expectile_loss(
                jnp.array([0.0, 1.0]) - value[None], expectile
            )
        )
        np.testing.assert_allclose(slope(jnp.float32(expectile)), 0.0, atol=1e-6)
        assert slope(jnp.float32(expectile - 0.1)) < 0.0
        assert slope(jnp.float32(expectile + 0.1)) > 0.0


def test_advantage_weights_are_exponentials_up_to_a_bound():
    advantage = jnp.array([-1e4, -1.0, 0.0, 1.0, 2.0, 1e4])
    weights = losses.advantage_weights(advantage, 3.0, 100.0)
    expected = [0.0, np.exp(-3.0), 1.0, np.exp(3.0), 100.0, 100.0]
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


@pytest.mark.parametrize(("entropy", "slope"), [(1.0, 1.5), (-3.0, -0.5)])
def test_temperature_falls_above_its_target_and_rises_below(entropy, slope):
    # A temperature of 0.5 and a target of -2: 0.5 * (entropy + 2).
    to_temperature, to_entropy = jax.grad(losses.temperature_loss, argnums=(0, 1))(
        jnp.log(0.5), entropy, -2.0
    )
    np.testing.assert_allclose(to_temperature, slope, rtol=1e-6)
    assert to_entropy == 0.0


class TestConservativePenalty:
    DOWN = np.array([True, False, True, False])
    UP = np.array([False, True, True, False])
    ONE = np.ones((2, 1), np.bool_)

    def arrays(self):
        generator = np.random.default_rng(3)
        shapes = ((2, 5, 4), (5, 4), (2, 4))
        return [np.float32(generator.normal(size=shape)) for shape in shapes]

    def test_is_the_gap_of_a_loop(self):
        arrays = self.arrays()
        np.testing.assert_allclose(
            losses.conservative_penalty(*arrays, self.DOWN, self.UP),
            reference.conservative_gap(*arrays, self.DOWN, self.UP),
            rtol=1e-5,
        )

    def test_pushes_sampled_values_down_and_the_datas_up_in_their_rows_alone(self):
        to_sampled, to_density, to_data = jax.grad(
            losses.conservative_penalty, argnums=(0, 1, 2)
        )(*self.arrays(), self.DOWN, self.UP)
        assert np.all(to_sampled[..., self.DOWN] > 0.0)
        np.testing.assert_array_equal(to_sampled[..., ~self.DOWN], 0.0)
        # Softmax weights: a row's sum to its share.
        np.testing.assert_allclose(np.sum(to_sampled), 1.0, rtol=1e-5)
        np.testing.assert_allclose(to_data[:, self.UP], -0.25, rtol=1e-6)
        np.testing.assert_array_equal(to_data[:, ~self.UP], 0.0)
        np.testing.assert_array_equal(to_density, 0.0)

    @pytest.mark.parametrize("proposal", ["uniform", "policy", "both"])
    def test_estimates_the_integral_whatever_drew_the_actions(self, proposal):
        normal = TruncatedNormal(*[jnp.full((20_000, 1), x) for x in (-0.3, 0.7)])
        drawn = normal.sample(jax.random.key(0))
        # A grid's middles, for numbers drawn uniformly.
        even = (jnp.arange(1_000.0) + 0.5) / 500.0 - 1.0
        parts = {
            "policy": jnp.stack([drawn[:, 0], normal.log_prob(drawn)]),
            "uniform": jnp.stack([even, jnp.full(1_000, -jnp.log(2.0))]),
        }
        parts["both"] = jnp.concatenate(list(parts.values()), axis=1)
        action, log_density = parts[proposal][..., None]
        # Q(a) = 1 - 2 a: the integral of its exponential is e (e^2 - e^-2) / 2.
        gap = losses.conservative_penalty(
            (1.0 - 2.0 * action)[None], log_density, jnp.zeros((1, 1)), *self.ONE
        )
        np.testing.assert_allclose(gap, 1.0 + np.log(np.sinh(2.0)), rtol=0.01)

    def test_of_a_constant_is_the_logarithm_of_the_boxs_volume(self):
        values = jnp.full((2, 5, 1), 7.0), jnp.full((2, 1), 7.0)
        flat = jnp.full((5, 1), -3 * jnp.log(2.0))  # of three dimensions
        gap = losses.conservative_penalty(values[0], flat, values[1], *self.ONE)
        np.testing.assert_allclose(gap, 3 * np.log(2.0), rtol=1e-5)
