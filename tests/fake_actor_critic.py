"""Linear actors, critics and encoders for soft actor-critic, and rows to learn from."""

import chex
import jax
import jax.numpy as jnp
import numpy as np

from moto_jax.learning import actor_critic
from moto_jax.learning.actor_critic import Transitions
from moto_jax.learning.distributions import TruncatedNormal

COUNT, PIXELS, FEATURE, ACTION_SIZE, CRITICS = 6, 4, 3, 2, 2


def encode(params, observation):
    return observation @ params["encoder"]


def policy(params, feature):
    raw = feature @ params["mean"]
    log_std = params["log_std"].reshape((*(1,) * (feature.ndim - 1), -1))
    return TruncatedNormal(jnp.tanh(raw), jnp.exp(log_std) + jnp.zeros_like(raw))


def q_values(params, feature, action):
    """Q_i(s, a) = s v_i + a w_i - |a|^2 / 2, which has its greatest inside the box."""
    linear = jnp.stack(
        [
            feature @ v + action @ w
            for v, w in zip(params["v"], params["w"], strict=True)
        ]
    )
    return linear - 0.5 * jnp.sum(jnp.square(action), axis=-1)[None]


FUNCTIONS = actor_critic.Functions(encode, policy, q_values)


def normal(seed, **shapes):
    generator = np.random.default_rng(seed)
    return {
        name: jnp.float32(0.5 * generator.normal(size=shape))
        for name, shape in shapes.items()
    }


def actor_params(seed=0):
    return normal(seed, mean=(FEATURE, ACTION_SIZE), log_std=ACTION_SIZE)


def critic_params(seed=1):
    sizes = {"v": (CRITICS, FEATURE), "w": (CRITICS, ACTION_SIZE)}
    return normal(seed, encoder=(PIXELS, FEATURE), **sizes)


def transitions(seed=2):
    generator = np.random.default_rng(seed)
    return Transitions(
        observation=jnp.float32(generator.normal(size=(COUNT, PIXELS))),
        action=jnp.float32(generator.uniform(-1, 1, (COUNT, ACTION_SIZE))),
        reward=jnp.float32(generator.normal(size=COUNT)),
        continues=jnp.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0]),
        following=jnp.float32(generator.normal(size=(COUNT, PIXELS))),
        recorded=jnp.array([True, False, True, False, True, False]),
        is_behaviour=jnp.zeros(COUNT, bool),
        behaviour_action=jnp.float32(generator.uniform(-1, 1, (COUNT, ACTION_SIZE))),
        return_to_go=jnp.float32(generator.normal(size=COUNT)),
    )


def assert_slow_critics_moved(before, after, share):
    """The target is where it was, and by its share where the critics are now."""
    expected = jax.tree.map(
        lambda slow, live: (1.0 - share) * slow + share * live,
        before.target_critic,
        after.critic.params,
    )
    chex.assert_trees_all_close(after.target_critic, expected, rtol=1e-5)
