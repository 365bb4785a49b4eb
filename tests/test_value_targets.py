"""TD(lambda) against hand numbers, the paper's sum over n-step returns, and limits."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moto_jax.learning import value_targets
from tests import reference


def random_rollout(horizon=5, starts=3, seed=0):
    generator = np.random.default_rng(seed)
    reward = generator.normal(size=(horizon, starts)).astype(np.float32)
    value = generator.normal(size=(horizon + 1, starts)).astype(np.float32)
    return reward, value


def test_lambda_returns_by_hand():
    # G^2 = 10; G^1 = 2 + 0.5 (0.75 * 10 + 0.25 * 10) = 7;
    # G^0 = 1 + 0.5 (0.75 * 4 + 0.25 * 7) = 3.375.
    returns = value_targets.lambda_returns(
        jnp.array([1.0, 2.0]), jnp.array([100.0, 4.0, 10.0]), 0.5, 0.25
    )
    np.testing.assert_allclose(returns, [3.375, 7.0, 10.0], rtol=1e-6)


@pytest.mark.parametrize("horizon", [1, 2, 5])
@pytest.mark.parametrize("lambda_", [0.0, 0.4, 0.95, 1.0])
def test_lambda_returns_are_the_papers_mixture_of_n_step_returns(horizon, lambda_):
    reward, value = random_rollout(horizon)
    returns = value_targets.lambda_returns(reward, value, 0.9, lambda_)
    expected = reference.lambda_returns(reward, value, 0.9, lambda_)
    np.testing.assert_allclose(returns, expected, rtol=1e-5, atol=1e-5)


def test_lambda_zero_bootstraps_after_one_step():
    reward, value = random_rollout()
    returns = value_targets.lambda_returns(reward, value, 0.9, 0.0)
    np.testing.assert_allclose(returns[:-1], reward + 0.9 * value[1:], rtol=1e-5)


def test_lambda_one_uses_only_the_last_value():
    reward, value = random_rollout()
    elsewhere = value.copy()
    elsewhere[:-1] = 1e3
    returns = value_targets.lambda_returns(reward, value, 0.9, 1.0)
    np.testing.assert_array_equal(
        returns, value_targets.lambda_returns(reward, elsewhere, 0.9, 1.0)
    )
    discounts = 0.9 ** np.arange(5)[:, None]
    total = np.sum(discounts * reward, axis=0) + 0.9**5 * value[-1]
    np.testing.assert_allclose(returns[0], total, rtol=1e-5)


@pytest.mark.parametrize("lambda_", [0.0, 0.3, 1.0])
def test_a_perfect_value_is_its_own_return(lambda_):
    # A reward of 1 a step for ever is worth 1 / (1 - discount).
    value = jnp.full((6, 1), 10.0)
    returns = value_targets.lambda_returns(jnp.ones((5, 1)), value, 0.9, lambda_)
    np.testing.assert_allclose(returns, value, rtol=1e-5)


@pytest.mark.parametrize("lambda_", [0.0, 0.4, 0.95, 1.0])
def test_lambda_returns_agree_with_rlax(lambda_):
    with warnings.catch_warnings():
        # What rlax imports makes noise of its own.
        warnings.simplefilter("ignore")
        rlax = pytest.importorskip("rlax")
    reward, value = random_rollout(starts=1)
    expected = rlax.lambda_returns(
        reward[:, 0], jnp.full(5, 0.9), value[1:, 0], lambda_
    )
    returns = value_targets.lambda_returns(reward[:, 0], value[:, 0], 0.9, lambda_)
    np.testing.assert_allclose(returns[:-1], expected, rtol=1e-5)


def test_lambda_returns_are_no_loop_on_a_device():
    value = jnp.zeros((16, 3))
    program = (
        jax.jit(value_targets.lambda_returns)
        .lower(value[1:], value, 0.9, 0.9)
        .as_text()
    )
    assert "stablehlo.while" not in program


def test_mixture_adds_the_zero_step_term_with_the_missing_weight():
    returns, value = jnp.array([3.0, 5.0]), jnp.array([1.0, 5.0])
    mixture = value_targets.lambda_mixture(returns, value, 0.75)
    np.testing.assert_allclose(mixture, [2.5, 5.0])


def test_one_step_targets_by_hand():
    target = value_targets.one_step_targets(
        jnp.array([[1.0], [2.0]]), jnp.array([[0.5], [0.0]]), jnp.array([[8.0], [9.0]])
    )
    np.testing.assert_allclose(target, [[5.0], [2.0]])


def test_minimum_over_critics_is_taken_entry_by_entry():
    values = jnp.array([[1.0, 5.0, 3.0], [2.0, 4.0, 3.0]])
    least = value_targets.minimum_over_critics(values, jax.random.key(0))
    np.testing.assert_array_equal(least, [1.0, 4.0, 3.0])


def test_the_mean_over_critics_is_taken_entry_by_entry():
    values = jnp.array([[1.0, 5.0], [3.0, 2.0]])
    reduced = value_targets.mean_over_critics(values, jax.random.key(0))
    np.testing.assert_array_equal(reduced, [2.0, 3.5])


def test_of_drawn_critics_the_least_counts_and_every_pair_is_drawn():
    values = jnp.array([[1.0, 9.0], [2.0, 8.0], [3.0, 7.0]])
    reduce = value_targets.least_of_random_critics(2)
    seen = {
        tuple(np.asarray(reduce(values, jax.random.key(seed))).tolist())
        for seed in range(40)
    }
    # Of critics 0 and 1, 0 and 2, 1 and 2; never one alone, never all three.
    assert seen == {(1.0, 8.0), (1.0, 7.0), (2.0, 7.0)}
    everyone = value_targets.least_of_random_critics(3)(values, jax.random.key(0))
    np.testing.assert_array_equal(everyone, [1.0, 7.0])


def test_random_critic_is_one_critic_for_all_entries_and_each_in_turn():
    values = jnp.arange(3.0)[:, None] + jnp.zeros((3, 50))
    keys = jax.random.split(jax.random.key(0), 60)
    chosen = jax.vmap(value_targets.random_critic, in_axes=(None, 0))(values, keys)
    np.testing.assert_array_equal(chosen, np.broadcast_to(chosen[:, :1], (60, 50)))
    assert set(np.unique(chosen)) == {0.0, 1.0, 2.0}
