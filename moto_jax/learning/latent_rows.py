"""Rows kept as latent states: what LOMPO and COMBO learn their policy from.

A row is the state that the model gave it when it was written. Later models would give
it another; nothing here is encoded again.
"""

import chex
import jax
import jax.numpy as jnp
from flax import struct

from moto_jax.learning.actor_critic import Transitions
from moto_jax.learning.networks.rssm import LatentState
from moto_jax.types import Array


@struct.dataclass
class LatentRows:
    """A ring of R rows, each at the slot of its number modulo R.

    Alignment is that of `types.Batch`: the action and the reward that led to the row.

    Attributes:
      deter: float32 [R, D].
      stoch: uint8 [R, S], the class of each group; there are at most 256.
      prev_action: float32 [R, A].
      reward: float32 [R].
      is_first: bool [R].
      is_terminal: bool [R].
      number: int32 [R], consecutive within an episode or rollout; -1 in an empty slot.
    """

    deter: jax.Array
    stoch: jax.Array
    prev_action: jax.Array
    reward: jax.Array
    is_first: jax.Array
    is_terminal: jax.Array
    number: jax.Array

    @property
    def capacity(self) -> int:
        """R."""
        return self.number.shape[0]


def empty_rows(capacity: int, like: LatentState, action_size: int) -> LatentRows:
    """Returns a ring without rows.

    Args:
      capacity: R.
      like: a state [..., D], [..., S, K].
      action_size: A.
    """
    deter, groups = like.deter.shape[-1], like.stoch.shape[-2]
    return LatentRows(
        deter=jnp.zeros((capacity, deter)),
        stoch=jnp.zeros((capacity, groups), jnp.uint8),
        prev_action=jnp.zeros((capacity, action_size)),
        reward=jnp.zeros((capacity,)),
        is_first=jnp.zeros((capacity,), jnp.bool_),
        is_terminal=jnp.zeros((capacity,), jnp.bool_),
        number=jnp.full((capacity,), -1, jnp.int32),
    )


def write_rows(
    rows: LatentRows,
    number: Array,
    latent: LatentState,
    prev_action: Array,
    reward: Array,
    is_first: Array,
    is_terminal: Array,
    wanted: Array | bool = True,
) -> LatentRows:
    """Writes finite rows whose number is not there yet; those that are stay.

    Args:
      rows: the ring.
      number: int32 [n]; of equal ones the first is written.
      latent: [n, D], [n, S, K].
      prev_action: [n, A].
      reward: [n].
      is_first: bool [n].
      is_terminal: bool [n].
      wanted: bool [n], the others are not written.
    """
    count, groups = number.shape[0], rows.stoch.shape[-1]
    chex.assert_shape([number, reward, is_first, is_terminal], (count,))
    chex.assert_shape(latent.deter, (count, rows.deter.shape[-1]))
    chex.assert_shape(latent.stoch, (count, groups, None))
    chex.assert_shape(prev_action, (count, rows.prev_action.shape[-1]))
    # The ring would take what is of another kind, and cast it.
    chex.assert_type(number, int)
    chex.assert_type([is_first, is_terminal], bool)
    slot = number % rows.capacity
    order = jnp.arange(slot.shape[0])
    # One that is not finite would spoil every batch it is drawn into.
    finite = jnp.isfinite(jnp.sum(latent.deter, axis=-1) + jnp.asarray(reward))
    wanted = finite & wanted & (rows.number[slot] != number)
    # One writer a slot: scattered twice, a slot could mix the fields of two rows.
    none = jnp.full((rows.capacity,), count)
    first = none.at[slot].min(jnp.where(wanted, order, count))
    writes = wanted & (first[slot] == order)
    # Out of range is dropped.
    slot = jnp.where(writes, slot, rows.capacity)
    new = LatentRows(
        deter=latent.deter,
        stoch=jnp.argmax(latent.stoch, axis=-1).astype(jnp.uint8),
        prev_action=jnp.asarray(prev_action),
        reward=jnp.asarray(reward),
        is_first=jnp.asarray(is_first),
        is_terminal=jnp.asarray(is_terminal),
        number=jnp.asarray(number),
    )
    return jax.tree.map(
        lambda old, values: old.at[slot].set(values, mode="drop"), rows, new
    )


def have_context(is_first: Array) -> jax.Array:
    """Returns bool [T, B]: rows before which the model saw enough to know its state.

    That is half a sequence, or the episode from its beginning. A row is encoded but
    once, and a sequence may begin anywhere.
    """
    is_first = jnp.asarray(is_first)
    length = is_first.shape[0]
    late = jnp.arange(length)[:, None] >= (length - 1) // 2
    return late | (jnp.cumsum(is_first, axis=0) > 0)


def sample_transitions(
    rows: LatentRows, key: jax.Array, count: int, classes: int, recorded: bool
) -> Transitions:
    """Draws transitions uniformly, with replacement, from rows whose next is there too.

    Args:
      rows: the ring; holds at least one such row.
      key: one key.
      count: transitions.
      classes: K.
      recorded: what the transitions say of themselves.

    Returns:
      Transitions whose observations are features [count, D + S * K].
    """
    next_number = jnp.roll(rows.number, -1)
    follows = (rows.number >= 0) & (next_number == rows.number + 1)
    follows &= ~jnp.roll(rows.is_first, -1)
    before = jnp.cumsum(follows)
    drawn = jax.random.randint(key, (count,), 0, jnp.maximum(before[-1], 1))
    slot = jnp.searchsorted(before, drawn, side="right")
    following = (slot + 1) % rows.capacity

    def feature(slot: jax.Array) -> jax.Array:
        stoch = jax.nn.one_hot(rows.stoch[slot], classes)
        return LatentState(rows.deter[slot], stoch).feature

    action = rows.prev_action[following]
    return Transitions(
        observation=feature(slot),
        action=action,
        reward=rows.reward[following],
        continues=1.0 - rows.is_terminal[following].astype(jnp.float32),
        following=feature(following),
        recorded=jnp.full((count,), recorded),
        is_behaviour=jnp.zeros((count,), jnp.bool_),
        behaviour_action=action,
        return_to_go=jnp.full((count,), -jnp.inf),
    )
