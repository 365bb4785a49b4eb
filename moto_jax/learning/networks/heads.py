"""Multi-layer perceptrons and what stands on them: rewards, actors, critics."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from moto_jax.learning.distributions import TruncatedNormal


class MLP(nn.Module):
    """`layers` dense layers of `units` ELU, then a linear map: [..., F] -> [..., out].

    Computes in `dtype`, returns float32.
    """

    layers: int
    units: int
    out: int
    layer_norm: bool = False
    dtype: Any = jnp.float32
    out_scale: float = 1.0

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps [..., F] to [..., out]."""
        hidden = inputs
        for _ in range(self.layers):
            hidden = nn.Dense(self.units, dtype=self.dtype)(hidden)
            if self.layer_norm:
                hidden = nn.LayerNorm(dtype=self.dtype)(hidden)
            hidden = nn.elu(hidden)
        initializer = nn.initializers.variance_scaling(
            self.out_scale, "fan_in", "truncated_normal"
        )
        hidden = nn.Dense(self.out, dtype=self.dtype, kernel_init=initializer)(hidden)
        return hidden.astype(jnp.float32)


class Actor(nn.Module):
    """A policy on [-1, 1]^A: features [..., F] to a truncated normal [..., A].

    The mean is a tanh, the standard deviation 2 sigmoid(x / 2) + `min_std`, as in
    DreamerV2.
    """

    action_size: int
    layers: int
    units: int
    min_std: float = 0.1
    layer_norm: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, feature: jax.Array) -> TruncatedNormal:
        """Maps [..., F] to a distribution over [..., A]."""
        outputs = MLP(
            self.layers,
            self.units,
            2 * self.action_size,
            self.layer_norm,
            self.dtype,
            out_scale=0.1,
        )(feature)
        mean, raw_std = jnp.split(outputs, 2, axis=-1)
        std = 2 * jax.nn.sigmoid(raw_std / 2) + self.min_std
        return TruncatedNormal(jnp.tanh(mean), std)


class Projected(nn.Module):
    """A head behind its own narrow, normalised view of an embedding.

    As in DrQ: linear, LayerNorm, tanh, then `head`, whose further arguments are passed
    on.
    """

    units: int
    head: nn.Module
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, embedding: jax.Array, *args: jax.Array) -> Any:
        """Maps embeddings [..., F] to what the head returns."""
        hidden = nn.Dense(self.units, dtype=self.dtype)(embedding)
        hidden = nn.tanh(nn.LayerNorm(dtype=self.dtype)(hidden))
        return self.head(hidden.astype(jnp.float32), *args)


class CriticEnsemble(nn.Module):
    """C independent critics Q_i(s, a): [..., F], [..., A] -> [C, ...]."""

    critics: int
    layers: int
    units: int
    layer_norm: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, feature: jax.Array, action: jax.Array) -> jax.Array:
        """Returns [C, ...] values of the given state-action pairs."""
        members = nn.vmap(
            MLP,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=None,  # pyright: ignore[reportArgumentType]
            out_axes=0,
            axis_size=self.critics,
        )
        inputs = jnp.concatenate([feature, action], axis=-1)
        values = members(self.layers, self.units, 1, self.layer_norm, self.dtype)(
            inputs
        )
        return values[..., 0]
