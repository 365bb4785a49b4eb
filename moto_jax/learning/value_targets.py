"""TD(lambda) targets and reductions over critics; arrays in, arrays out."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from moto_jax.types import Array

Reduction = Callable[[jax.Array, jax.Array], jax.Array]


def lambda_returns(
    reward: jax.Array, value: jax.Array, discount: float, lambda_: float
) -> jax.Array:
    """Returns G^0 .. G^H of a rollout (Eq. 4 in recursive form).

    G^H = V^H and G^t = r^{t+1} + discount [(1 - lambda) V^{t+1} + lambda G^{t+1}].

    Args:
      reward: [H, ...], r^1 .. r^H, received on arriving.
      value: [H + 1, ...], V^0 .. V^H.
      discount: per step.
      lambda_: 0 bootstraps after one step, 1 only at the end.

    Returns:
      [H + 1, ...].
    """
    chex.assert_rank([discount, lambda_], 0)
    chex.assert_shape(value, (reward.shape[0] + 1, *reward.shape[1:]))

    def step(carry: jax.Array, inputs: tuple[jax.Array, jax.Array]):
        reward_t, value_t = inputs
        carry = reward_t + discount * ((1 - lambda_) * value_t + lambda_ * carry)
        return carry, carry

    # Unrolled: H steps of a few sums each are one kernel then, not H times three.
    _, returns = jax.lax.scan(
        step, value[-1], (reward, value[1:]), reverse=True, unroll=True
    )
    return jnp.concatenate([returns, value[-1:]], axis=0)


def lambda_mixture(returns: jax.Array, value: jax.Array, lambda_: float) -> jax.Array:
    """Returns lambda G^t + (1 - lambda) V^t (Eq. 5), of two arrays [...].

    Eq. 4 has no term that bootstraps at once, so this is the whole lambda-mixture.
    """
    chex.assert_equal_shape([returns, value])
    chex.assert_rank(lambda_, 0)
    return lambda_ * returns + (1 - lambda_) * value


def one_step_targets(
    reward: Array, discount: Array | float, mixture: jax.Array
) -> jax.Array:
    """Returns r_{j+1} + discount * mixture(s_{j+1}) for recorded rows (Eq. 7).

    Args:
      reward: [T - 1, B], the recorded reward of rows 1 .. T - 1.
      discount: scalar or [T - 1, B], zero where row j + 1 is terminal.
      mixture: [T - 1, B], `lambda_mixture` of the rollouts from rows 1 .. T - 1.
    """
    chex.assert_equal_shape([reward, mixture])
    if jnp.ndim(discount):
        chex.assert_equal_shape([discount, mixture])
    return jnp.asarray(reward) + discount * mixture


def minimum_over_critics(values: jax.Array, key: jax.Array) -> jax.Array:
    """Reduces [C, ...] to [...] by the least critic (the paper's text)."""
    del key
    return jnp.min(values, axis=0)


def random_critic(values: jax.Array, key: jax.Array) -> jax.Array:
    """Reduces [C, ...] to [...] by one critic drawn for the whole call.

    The code of the paper's authors does this for the targets.
    """
    return values[jax.random.randint(key, (), 0, values.shape[0])]


def mean_over_critics(values: jax.Array, key: jax.Array) -> jax.Array:
    """Reduces [C, ...] to [...] by the critics' mean."""
    del key
    return jnp.mean(values, axis=0)


def least_of_random_critics(count: int) -> Reduction:
    """Returns a reduction to the least of `count` critics drawn for the whole call.

    As in REDQ (Chen et al., 2021) and RLPD: of a large ensemble the least of all would
    be far below what any of them says.
    """

    def reduce(values: jax.Array, key: jax.Array) -> jax.Array:
        drawn = jax.random.choice(key, values.shape[0], (count,), replace=False)
        return jnp.min(values[drawn], axis=0)

    return reduce


CRITIC_REDUCTIONS: dict[str, Reduction] = {
    "min": minimum_over_critics,
    "random": random_critic,
}
