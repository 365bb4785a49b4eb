"""The conservative term of CQL, COMBO and Cal-QL, beside an actor-critic's regression.

Kumar et al., "Conservative Q-Learning for Offline Reinforcement Learning" (2020).
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from moto_jax.learning import losses
from moto_jax.learning.actor_critic import CriticRegulariser, Transitions
from moto_jax.types import Array


class Conservatism(NamedTuple):
    """Numbers of `config.cql` (CQL, Cal-QL) and `config.combo`, which comments each."""

    weight: float
    policy_actions: int
    uniform_actions: int
    backup_entropy: bool


def everywhere(transitions: Transitions) -> Array:
    """Returns true for every transition (CQL)."""
    return jnp.ones_like(transitions.recorded)


def where_imagined(transitions: Transitions) -> Array:
    """Returns true for transitions that the model made (COMBO)."""
    return ~transitions.recorded


def unbounded(transitions: Transitions) -> Array:
    """Returns no lower bound [N] of the values that are pushed down (CQL, COMBO)."""
    return jnp.full_like(transitions.return_to_go, -jnp.inf)


def recorded_returns(transitions: Transitions) -> Array:
    """Returns what the data got from each state [N], the bound of Cal-QL."""
    return transitions.return_to_go


def make_conservative(
    numbers: Conservatism,
    pushed_down: Callable[[Transitions], Array],
    lower_bound: Callable[[Transitions], Array] = unbounded,
) -> CriticRegulariser:
    """Returns the weighted conservative gap, pushing recorded actions up.

    Args:
      numbers: the gap's weight, and how many actions are drawn at each state from the
        policy and uniformly.
      pushed_down: transitions -> bool [N], at which states sampled actions are pushed
        down.
      lower_bound: transitions -> [N], below which the policy's actions are not.
    """
    weight, policy_actions, uniform_actions, _ = numbers

    def regulariser(q_values, data_value, policy, transitions, key):
        policy_key, uniform_key = jax.random.split(key)
        shape = transitions.action.shape
        drawn = jax.vmap(policy.sample)(jax.random.split(policy_key, policy_actions))
        uniform = jax.random.uniform(
            uniform_key, (uniform_actions, *shape), minval=-1.0, maxval=1.0
        )
        flat = jnp.full((uniform_actions, shape[0]), -shape[-1] * jnp.log(2.0))
        action = jax.lax.stop_gradient(jnp.concatenate([drawn, uniform]))
        sampled = q_values(action)
        floor = jnp.asarray(lower_bound(transitions))
        chex.assert_shape(floor, (shape[0],))
        policys = jnp.maximum(sampled[:, :policy_actions], floor[None, None])
        gap = losses.conservative_penalty(
            jnp.concatenate([policys, sampled[:, policy_actions:]], axis=1),
            jnp.concatenate([jax.vmap(policy.log_prob)(drawn), flat]),
            data_value,
            pushed_down(transitions),
            transitions.recorded,
        )
        return weight * gap, {"critic/conservative_gap": gap}

    return regulariser
