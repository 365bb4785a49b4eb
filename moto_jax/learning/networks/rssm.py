"""Recurrent state-space model with one posterior and an ensemble of priors (Eq. 1).

Only the recurrence lives in the scan of whoever drives these modules: the posterior's
dense layer is split into an embedding part, computed for all rows at once, and a
recurrent part; the priors are computed where they are needed.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from moto_jax.learning.scans import keep


@struct.dataclass
class LatentState:
    """The model's state s = (h, z).

    Attributes:
      deter: float32 [..., D], the deterministic state h.
      stoch: float32 [..., S, K], the one-hot stochastic state z.
    """

    deter: jax.Array
    stoch: jax.Array

    @property
    def feature(self) -> jax.Array:
        """float32 [..., D + S * K]."""
        flat = self.stoch.reshape((*self.stoch.shape[:-2], -1))
        return jnp.concatenate([self.deter, flat], axis=-1)

    @staticmethod
    def zeros(
        leading: tuple[int, ...], deter: int, groups: int, classes: int
    ) -> "LatentState":
        """Returns the state before an episode's first row."""
        return LatentState(
            jnp.zeros((*leading, deter)), jnp.zeros((*leading, groups, classes))
        )


class LayerNormGRUCell(nn.Module):
    """DreamerV2's GRU: one normalised matrix product, update gate biased to keep."""

    units: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, state: jax.Array, inputs: jax.Array) -> jax.Array:
        """Maps a state [..., D] and inputs [..., F] to the next state [..., D]."""
        gates = nn.Dense(3 * self.units, use_bias=False, dtype=self.dtype)(
            jnp.concatenate([state.astype(self.dtype), inputs], axis=-1)
        )
        gates = keep(gates)
        gates = nn.LayerNorm(dtype=self.dtype)(gates)
        reset, candidate, update = jnp.split(gates.astype(jnp.float32), 3, axis=-1)
        candidate = jnp.tanh(jax.nn.sigmoid(reset) * candidate)
        update = jax.nn.sigmoid(update - 1)
        return update * candidate + (1 - update) * state


class LogitsHead(nn.Module):
    """Two dense layers from the deterministic state to logits [..., S, K]."""

    hidden: int
    groups: int
    classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, deter: jax.Array, embedding_part: jax.Array | None = None
    ) -> jax.Array:
        """Maps [..., D] to logits; `embedding_part` [..., hidden] joins before ELU."""
        hidden = keep(nn.Dense(self.hidden, dtype=self.dtype)(deter))
        if embedding_part is not None:
            hidden = hidden + embedding_part
        hidden = nn.elu(hidden)
        logits = nn.Dense(self.groups * self.classes, dtype=self.dtype)(hidden)
        shape = (*logits.shape[:-1], self.groups, self.classes)
        return keep(logits.astype(jnp.float32).reshape(shape))


class RSSM(nn.Module):
    """The recurrent part of the world model; E prior heads share one GRU.

    Attributes:
      deter: D.
      hidden: width of every dense layer.
      groups: S.
      classes: K.
      members: E.
    """

    deter: int
    hidden: int
    groups: int
    classes: int
    members: int
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Makes the layers."""
        sizes = (self.hidden, self.groups, self.classes, self.dtype)
        self.transition_input = nn.Dense(self.hidden, dtype=self.dtype)
        self.cell = LayerNormGRUCell(self.deter, self.dtype)
        self.embedding_input = nn.Dense(self.hidden, use_bias=False, dtype=self.dtype)
        self.posterior_head = LogitsHead(*sizes)
        self.prior_heads = nn.vmap(
            LogitsHead,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=None,  # pyright: ignore[reportArgumentType]
            out_axes=0,
            axis_size=self.members,
        )(*sizes)

    def advance(self, latent: LatentState, action: jax.Array) -> jax.Array:
        """Returns h' [..., D] = GRU(h, z, action [..., A])."""
        flat = latent.stoch.reshape((*latent.stoch.shape[:-2], -1))
        inputs = jnp.concatenate([flat, action], axis=-1)
        inputs = nn.elu(keep(self.transition_input(inputs)))
        return self.cell(latent.deter, inputs)

    def embedding_part(self, embedding: jax.Array) -> jax.Array:
        """Returns the embedding's share [..., hidden] of the posterior's first sum."""
        return self.embedding_input(embedding)

    def posterior_logits(self, deter: jax.Array, part: jax.Array) -> jax.Array:
        """Returns logits [..., S, K] of q(z | h, e), from `embedding_part`'s output."""
        return self.posterior_head(deter, part)

    def prior_logits(self, deter: jax.Array) -> jax.Array:
        """Returns logits [E, ..., S, K] of p_i(z | h) for every member."""
        return self.prior_heads(deter)

    def __call__(self, latent: LatentState, action: jax.Array, embedding: jax.Array):
        """Touches every parameter once; used to initialise."""
        deter = self.advance(latent, action)
        part = self.embedding_part(embedding)
        return self.posterior_logits(deter, part), self.prior_logits(deter)
