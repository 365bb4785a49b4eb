"""Where sequences that begin inside an episode start from: what the row before was.

A policy filters an episode from its first row on, a sequence of a batch begins anywhere
in it. From a state of zeros its first rows see an image and no history, which no policy
ever does after an episode's start. So the posterior of every row is kept from when the
row was last in a batch, and the next sequence that begins behind it starts there. Such
a state is as old as that batch (as in R2D2, Kapturowski et al., 2019).
"""

import jax
import jax.numpy as jnp
from flax import struct

from moto_jax.networks.rssm import LatentState
from moto_jax.types import Array


@struct.dataclass
class PosteriorMemory:
    """The last posterior of R rows, each at the slot of its number modulo R.

    Attributes:
      deter: float16 [R, D]; all are in (-1, 1).
      stoch: uint8 [R, S], the class of each group; there are at most 256.
      number: int32 [R], the row's number in the replay; -1 in an empty slot.
    """

    deter: jax.Array
    stoch: jax.Array
    number: jax.Array


def empty_memory(rows: int, like: LatentState) -> PosteriorMemory | None:
    """Returns a memory of nothing; none for 0 rows.

    Args:
      rows: R.
      like: a state [..., D], [..., S, K].
    """
    if not rows:
        return None
    return PosteriorMemory(
        deter=jnp.zeros((rows, like.deter.shape[-1]), jnp.float16),
        stoch=jnp.zeros((rows, like.stoch.shape[-2]), jnp.uint8),
        number=jnp.full((rows,), -1, jnp.int32),
    )


def recall(
    memory: PosteriorMemory | None, row: Array, zeros: LatentState
) -> LatentState:
    """Returns the states [B] before sequences' first rows; zeros where unknown.

    Args:
      memory: may be none.
      row: int32 [B], numbers of the first rows.
      zeros: LatentState [B].
    """
    if memory is None:
        return zeros
    before = jnp.asarray(row) - 1
    slot = before % memory.number.shape[0]
    known = (memory.number[slot] == before) & (before >= 0)
    deter = memory.deter[slot].astype(zeros.deter.dtype)
    stoch = jax.nn.one_hot(memory.stoch[slot], zeros.stoch.shape[-1])
    return LatentState(
        jnp.where(known[:, None], deter, zeros.deter),
        jnp.where(known[:, None, None], stoch, zeros.stoch),
    )


def remember(
    memory: PosteriorMemory | None, row: Array, posterior: LatentState
) -> PosteriorMemory | None:
    """Returns the memory with a batch's states, in place of earlier ones.

    Args:
      memory: may be none, and stays it.
      row: int32 [T, B].
      posterior: LatentState [T, B].
    """
    if memory is None:
        return None
    number = jnp.asarray(row).reshape(-1)
    size = memory.number.shape[0]
    slot = number % size
    # One writer a slot: scattered twice, a slot could mix two rows.
    order = jnp.arange(slot.shape[0])
    first = jnp.full((size,), slot.shape[0]).at[slot].min(order)
    slot = jnp.where(first[slot] == order, slot, size)
    stoch = jnp.argmax(posterior.stoch, axis=-1).astype(jnp.uint8)
    new = PosteriorMemory(
        deter=posterior.deter.reshape((len(number), -1)).astype(jnp.float16),
        stoch=stoch.reshape((len(number), -1)),
        number=number,
    )
    return jax.tree.map(
        lambda old, values: old.at[slot].set(values, mode="drop"), memory, new
    )
