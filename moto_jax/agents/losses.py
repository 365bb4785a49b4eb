"""Losses over arrays and over functions of parameters; shared by the agents."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from moto_jax.distributions import TruncatedNormal
from moto_jax.types import Array


def masked_mean(values: Array, mask: Array) -> jax.Array:
    """Returns the mean of `values` where `mask` is true, 0 if it never is."""
    total = jnp.sum(jnp.where(mask, values, 0.0))
    return total / jnp.maximum(jnp.sum(mask), 1)


def behaviour_loss(
    policy: Callable[[jax.Array], TruncatedNormal],
    feature: Array,
    prev_action: Array,
    is_behaviour: Array,
) -> jax.Array:
    """Filtered behaviour cloning (Eq. 9): - mean log pi(a_j | s_j) over accepted rows.

    Args:
      policy: features [..., F] -> distribution of actions.
      feature: [T, B, F].
      prev_action: [T, B, A]; the action taken at row j is in row j + 1.
      is_behaviour: bool [T, B], whether the action taken at row j is to be cloned.
    """
    mask = is_behaviour[:-1]
    # Masked actions are replaced before the density, so that nothing infinite is
    # multiplied by zero in the gradient.
    action = jnp.where(mask[..., None], prev_action[1:], 0.0)
    return -masked_mean(policy(jnp.asarray(feature[:-1])).log_prob(action), mask)


def model_value_loss(mixture: Array, weights: Array | float = 1.0) -> jax.Array:
    """Actor loss by values (Eq. 5): - mean over t < H of lambda G^t + (1 - lambda) V^t.

    Args:
      mixture: [H + 1, N].
      weights: [H] or scalar.
    """
    return -jnp.mean(weights * _row_means(mixture[:-1]))


def imagined_critic_loss(
    value: Array, target: Array, weights: Array | float = 1.0
) -> jax.Array:
    """Critic regression on imagined rows (Eq. 6), averaged over critics.

    Args:
      value: [C, H, N], Q_i(s^t, a^t) for t < H.
      target: [H, N], from the target critics.
      weights: [H] or scalar.
    """
    target = jax.lax.stop_gradient(target)
    error = jnp.mean(jnp.square(value - target[None]), axis=0)
    return jnp.mean(weights * _row_means(error))


def _row_means(values: Array) -> jax.Array:
    """Returns [H], the means of [H, N] over N."""
    return jnp.mean(values, axis=tuple(range(1, values.ndim)))


def recorded_critic_loss(value: Array, target: Array, mask: Array) -> jax.Array:
    """Critic regression on recorded rows (Eq. 7), averaged over critics.

    Args:
      value: [C, T - 1, B], Q_i(s_j, a_j).
      target: [T - 1, B], from the target critics.
      mask: bool [T - 1, B], false where row j + 1 begins another episode.
    """
    target = jax.lax.stop_gradient(target)
    error = jnp.mean(jnp.square(value - target[None]), axis=0)
    return masked_mean(error, mask)


def cumulative_discounts(horizon: int, discount: float) -> jax.Array:
    """Returns [H] weights discount^t of imagined rows (the authors' code's)."""
    return discount ** jnp.arange(horizon, dtype=jnp.float32)
