"""Distributions of actions and latent states, finite wherever they are evaluated."""

import chex
import distrax
import jax
import jax.numpy as jnp
from flax import struct
from jax.scipy.special import erf
from jax.scipy.stats import norm

# Keeps inverse-CDF samples within 4.8 standard deviations, where the density can still
# be divided by in float32.
_UNIFORM_MARGIN = 1e-6


def _normal_cdf(value: jax.Array) -> jax.Array:
    return 0.5 * (1 + erf(value / jnp.sqrt(2.0)))


@struct.dataclass
class TruncatedNormal:
    """A normal cut to [-1, 1], independent over the last axis.

    With the mean inside [-1, 1] the kept mass is at least a third for any std up to
    2.1, so density and gradients are finite on the closed interval; a tanh-transformed
    normal gives NaN at the recorded actions that reach its ends.

    Attributes:
      mean: float [..., A] in [-1, 1], the location before cutting, and the mode.
      std: float [..., A], the scale before cutting.
    """

    mean: jax.Array
    std: jax.Array

    def _standard_bounds(self) -> tuple[jax.Array, jax.Array]:
        return (-1 - self.mean) / self.std, (1 - self.mean) / self.std

    def _mass(self) -> jax.Array:
        low, high = self._standard_bounds()
        return _normal_cdf(high) - _normal_cdf(low)

    def mode(self) -> jax.Array:
        """Returns the most likely action [..., A]."""
        return self.mean

    def log_prob(self, action: jax.Array) -> jax.Array:
        """Returns log density [...] of actions [..., A] in [-1, 1]."""
        chex.assert_equal_shape([action, self.mean, self.std])
        density = norm.logpdf((action - self.mean) / self.std)
        return jnp.sum(density - jnp.log(self.std * self._mass()), axis=-1)

    def entropy(self) -> jax.Array:
        """Returns the differential entropy [...] in nats."""
        low, high = self._standard_bounds()
        mass = self._mass()
        edges = (low * norm.pdf(low) - high * norm.pdf(high)) / (2 * mass)
        scale = jnp.log(jnp.sqrt(2 * jnp.pi * jnp.e) * self.std * mass)
        return jnp.sum(scale + edges, axis=-1)

    def sample(self, key: jax.Array) -> jax.Array:
        """Returns a sample [..., A], differentiable in mean and std.

        The gradient is the implicit one, dx = - dF(x) / f(x), which stays finite in the
        tails where differentiating the inverse CDF would divide by zero.
        """
        low, _ = self._standard_bounds()
        mass = self._mass()
        uniform = jax.random.uniform(key, self.mean.shape, self.mean.dtype)
        quantile = _normal_cdf(low) + uniform * mass
        quantile = jnp.clip(quantile, _UNIFORM_MARGIN, 1 - _UNIFORM_MARGIN)
        standard = jax.lax.stop_gradient(norm.ppf(quantile))
        value = jax.lax.stop_gradient(
            jnp.clip(self.mean + self.std * standard, -1.0, 1.0)
        )
        cdf = (_normal_cdf((value - self.mean) / self.std) - _normal_cdf(low)) / mass
        density = jax.lax.stop_gradient(norm.pdf(standard) / (self.std * mass))
        return value - (cdf - jax.lax.stop_gradient(cdf)) / density


def sample_one_hot(key: jax.Array, logits: jax.Array) -> jax.Array:
    """Returns one-hot samples [..., S, K], with the gradient of the probabilities.

    The straight-through estimator of DreamerV2: forward a sample, backward softmax.
    """
    probs = jax.nn.softmax(logits, axis=-1)
    index = jax.random.categorical(key, logits, axis=-1)
    sample = jax.nn.one_hot(index, logits.shape[-1], dtype=logits.dtype)
    return sample + probs - jax.lax.stop_gradient(probs)


def categorical_kl(left_logits: jax.Array, right_logits: jax.Array) -> jax.Array:
    """Returns KL(left || right) [...] in nats, summed over groups of [..., S, K]."""
    chex.assert_equal_shape([left_logits, right_logits])
    left = distrax.Categorical(logits=left_logits)
    right = distrax.Categorical(logits=right_logits)
    return jnp.sum(left.kl_divergence(right), axis=-1)


def balanced_kl(
    posterior_logits: jax.Array,
    prior_logits: jax.Array,
    balance: float,
    free_nats: float,
) -> tuple[jax.Array, jax.Array]:
    """KL balancing of DreamerV2: the prior learns faster than the posterior.

    Args:
      posterior_logits: [T, B, S, K].
      prior_logits: [T, B, S, K].
      balance: share of the gradient that goes to the prior.
      free_nats: the mean KL below which there is no gradient.

    Returns:
      The scalar loss and the KL [T, B].
    """
    stop = jax.lax.stop_gradient
    toward_prior = categorical_kl(stop(posterior_logits), prior_logits)
    toward_posterior = categorical_kl(posterior_logits, stop(prior_logits))
    loss = balance * jnp.maximum(jnp.mean(toward_prior), free_nats)
    loss += (1 - balance) * jnp.maximum(jnp.mean(toward_posterior), free_nats)
    return loss, toward_prior
