"""How far the members of a model's ensemble disagree: the uncertainty u (Eq. 2)."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp


def disagreement(logits: jax.Array) -> jax.Array:
    """Ensemble uncertainty u (Eq. 2) from log-probabilities: [E, ..., S, K] -> [...].

    The mean over all classes of the standard deviation over members. Logits are defined
    up to a constant a group, so log-softmax comes first; `logit_disagreement` is the
    paper's letter.
    """
    return logit_disagreement(jax.nn.log_softmax(logits, axis=-1))


def logit_disagreement(logits: jax.Array) -> jax.Array:
    """Ensemble uncertainty u (Eq. 2) from raw logits: [E, ..., S, K] -> [...]."""
    return jnp.mean(_deviation(logits), axis=(-2, -1))


def jensen_shannon(logits: jax.Array) -> jax.Array:
    """Jensen-Shannon divergence of the members, nats a group: [E, ..., S, K] -> [...].

    The entropy of the members' mean less their mean entropy. It is at most log E,
    however sharp the members grow, where the deviation of log-probabilities grows with
    them.
    """
    log_prob = jax.nn.log_softmax(logits, axis=-1)
    log_mean = jax.nn.logsumexp(log_prob, axis=0) - jnp.log(logits.shape[0])
    divergence = jnp.sum(jnp.exp(log_prob) * (log_prob - log_mean[None]), axis=-1)
    return jnp.mean(divergence, axis=(0, -1))


def log_density_deviation(logits: jax.Array, stoch: jax.Array) -> jax.Array:
    """LOMPO's penalty: the deviation over members of log p_i(z) of the state drawn.

    Args:
      logits: [E, ..., S, K].
      stoch: one-hot [..., S, K].

    Returns:
      [...], zero where all members agree.
    """
    chex.assert_shape(logits, (None, *stoch.shape))
    log_prob = jax.nn.log_softmax(logits, axis=-1)
    return _deviation(jnp.sum(log_prob * stoch[None], axis=(-2, -1)))


def _deviation(values: jax.Array) -> jax.Array:
    """Returns the standard deviation over the first axis, differentiable where it is 0.

    The gradient there is zero, not NaN.
    """
    variance = jnp.var(values, axis=0)
    agreed = variance == 0
    return jnp.where(agreed, 0.0, jnp.sqrt(jnp.where(agreed, 1.0, variance)))


DISAGREEMENTS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "log_prob_std": disagreement,
    "logit_std": logit_disagreement,
    "jensen_shannon": jensen_shannon,
}
