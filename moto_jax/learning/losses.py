"""Losses over arrays and over functions of parameters; shared by the agents."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from moto_jax.learning.distributions import TruncatedNormal
from moto_jax.types import Array


def masked_mean(values: Array, mask: Array) -> jax.Array:
    """Returns the mean of `values` where `mask` is true, 0 if it never is.

    Args:
      values: [...].
      mask: bool [...], of the same shape.
    """
    chex.assert_equal_shape([values, mask])
    chex.assert_type(mask, bool)
    total = jnp.sum(jnp.where(mask, values, 0.0))
    return total / jnp.maximum(jnp.sum(mask), 1)


def behaviour_loss(
    policy: Callable[[jax.Array], TruncatedNormal],
    feature: Array,
    behaviour_action: Array,
    is_behaviour: Array,
) -> jax.Array:
    """Filtered behaviour cloning (Eq. 9): - mean log pi(a_j | s_j) over accepted rows.

    Args:
      policy: features [..., F] -> distribution of actions.
      feature: [T, B, F].
      behaviour_action: [T, B, A], what is to be cloned at row j.
      is_behaviour: bool [T, B], whether anything is.
    """
    rows = is_behaviour.shape
    chex.assert_shape([feature, behaviour_action], (*rows, None))
    # Masked actions are replaced before the density, so that nothing infinite is
    # multiplied by zero in the gradient.
    action = jnp.where(is_behaviour[..., None], behaviour_action, 0.0)
    log_prob = policy(jnp.asarray(feature)).log_prob(action)
    chex.assert_shape(log_prob, rows)
    return -masked_mean(log_prob, is_behaviour)


def model_value_loss(mixture: Array, weights: Array | float = 1.0) -> jax.Array:
    """Actor loss by values (Eq. 5): - mean over t < H of lambda G^t + (1 - lambda) V^t.

    Args:
      mixture: [H + 1, N].
      weights: [H] or scalar.
    """
    return -_weighted_mean(mixture[:-1], weights)


def imagined_critic_loss(
    value: Array, target: Array, weights: Array | float = 1.0
) -> jax.Array:
    """Critic regression on imagined rows (Eq. 6), averaged over critics.

    Args:
      value: [C, H, N], Q_i(s^t, a^t) for t < H.
      target: [H, N], from the target critics.
      weights: [H] or scalar.
    """
    return _weighted_mean(_squared_error(value, target), weights)


def recorded_critic_loss(value: Array, target: Array, mask: Array) -> jax.Array:
    """Critic regression on recorded rows (Eq. 7), averaged over critics.

    Args:
      value: [C, T, B], Q_i(s_j, a_j).
      target: [T, B], from the target critics.
      mask: bool [T, B], false where row j + 1 begins another episode.
    """
    return masked_mean(_squared_error(value, target), mask)


def _squared_error(value: Array, target: Array) -> jax.Array:
    """Returns [...], the squared error of [C, ...] averaged over critics."""
    chex.assert_shape(value, (None, *target.shape))
    target = jax.lax.stop_gradient(target)
    return jnp.mean(jnp.square(value - target[None]), axis=0)


def _weighted_mean(values: Array, weights: Array | float) -> jax.Array:
    """Returns the mean of [H, N], row t of which weighs weights [H] or a scalar."""
    rows = jnp.mean(values, axis=tuple(range(1, values.ndim)))
    if jnp.ndim(weights):
        chex.assert_equal_shape([weights, rows])
    return jnp.mean(weights * rows)


def cumulative_discounts(horizon: int, discount: float) -> jax.Array:
    """Returns [H] weights discount^t of imagined rows (the authors' code's)."""
    return discount ** jnp.arange(horizon, dtype=jnp.float32)


def regression_loss(value: Array, target: Array) -> jax.Array:
    """Returns the mean of (Q_i - target)^2 over critics [C, ...] and targets [...]."""
    chex.assert_shape(value, (None, *target.shape))
    target = jax.lax.stop_gradient(target)
    return jnp.mean(jnp.square(value - target[None]))


def likelihood_loss(
    log_prob: jax.Array, weights: Array | float = 1.0, mask: Array | bool = True
) -> jax.Array:
    """Returns - mean of weights * log pi(a | s) over the rows of a mask.

    Args:
      log_prob: [N].
      weights: [N] or scalar, held fixed.
      mask: bool [N] or scalar.
    """
    for one in (weights, mask):
        if jnp.ndim(one):
            chex.assert_equal_shape([one, log_prob])
    weighted = jax.lax.stop_gradient(jnp.asarray(weights)) * log_prob
    return -masked_mean(weighted, jnp.broadcast_to(mask, log_prob.shape))


def expectile_loss(difference: jax.Array, expectile: float) -> jax.Array:
    """Returns the mean of |expectile - 1(u < 0)| u^2 (IQL, Eq. 5).

    Args:
      difference: u [N], target minus prediction.
      expectile: in (0, 1); at 0.5 this is half the mean squared error, above it the
        prediction is drawn to the larger targets.
    """
    weight = jnp.where(difference < 0, 1.0 - expectile, expectile)
    return jnp.mean(weight * jnp.square(difference))


def advantage_weights(
    advantage: jax.Array, scale: float, max_weight: float
) -> jax.Array:
    """Returns exp(scale * advantage), at most `max_weight` (IQL, Eq. 7)."""
    # The exponent is cut first: an infinite weight is no weight.
    exponent = jnp.minimum(scale * advantage, jnp.log(max_weight))
    return jnp.exp(exponent)


def temperature_loss(
    log_temperature: jax.Array, entropy: Array, target_entropy: float
) -> jax.Array:
    """SAC's dual: the temperature rises while the entropy is below its target.

    Args:
      log_temperature: scalar; the temperature is its exponential.
      entropy: scalar, of the policy, held fixed.
      target_entropy: nats.
    """
    chex.assert_rank([log_temperature, entropy], 0)
    excess = jax.lax.stop_gradient(entropy) - target_entropy
    return jnp.exp(log_temperature) * excess


def conservative_penalty(
    sampled_value: jax.Array,
    log_density: Array,
    data_value: jax.Array,
    pushed_down: Array,
    pushed_up: Array,
) -> jax.Array:
    """CQL(H)'s gap: log-mean-exp of Q over sampled actions, less Q of the data.

    log E_{a ~ mu} [exp(Q(s, a)) / mu(a)] estimates the log-integral of exp Q over
    actions, whatever the M actions are drawn from (CQL, appendix F; COMBO, Eq. 2).

    Args:
      sampled_value: [C, M, N], Q_i(s, a_m).
      log_density: [M, N], log mu(a_m | s) of what drew the action.
      data_value: [C, N], Q_i(s, a) of the stored actions.
      pushed_down: bool [N], rows whose sampled actions are pushed down.
      pushed_up: bool [N], rows whose stored action is pushed up.

    Returns:
      A scalar, averaged over critics.
    """
    critics, count, rows = sampled_value.shape
    chex.assert_shape(log_density, (count, rows))
    chex.assert_shape(data_value, (critics, rows))
    corrected = sampled_value - jax.lax.stop_gradient(log_density)[None]
    soft_maximum = jax.nn.logsumexp(corrected, axis=1) - jnp.log(count)
    return masked_mean(jnp.mean(soft_maximum, axis=0), pushed_down) - masked_mean(
        jnp.mean(data_value, axis=0), pushed_up
    )
