"""The scripted demonstrator of the kitchen in miniature, as pure functions.

It goes to an object's handle, closes, leads it along its way until it is in its place,
and goes on to the next; a grasp that missed is tried again.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from moto_jax.worlds.mini import minikitchen as mini
from moto_jax.worlds.mini.minikitchen import State

# Objects of the longest sequence; shorter ones are filled up with `NOTHING`.
MAX_OBJECTS = 7

# The gripper closes on its way, within this of the wanted handle if no other is nearer
# that it could take. Were it to close at the handle, one row of each grasp would tell
# a policy that copies it to do so, and one that missed it would go on without.
_CLOSE_WITHIN = 0.3
# How far ahead on its way an object is pulled to, and the share of a distance that is
# covered in a step.
_AHEAD, _GAIN = 0.5, 0.5
_TOP_SPEED = mini.ACCELERATION / (1 - mini.DRAG)


class Demonstration(NamedTuple):
    """What a demonstrator recorded; row j's action was taken at its state.

    Attributes:
      states: `State` with [steps + 1, ...] leaves.
      action: [steps, 3].
      rows: int32 scalar, how many rows of `states` belong to the demonstration, which
        ends soon after its last object.
    """

    states: State
    action: jax.Array
    rows: jax.Array


def act(state: State, wanted: jax.Array, speed: float | jax.Array) -> jax.Array:
    """Returns the action [3] towards an object's goal, what else is held being let go.

    Args:
      state: of the environment.
      wanted: int32 scalar, the object, or `NOTHING` to come to rest.
      speed: share of the top speed.
    """
    idle = wanted == mini.NOTHING
    index = jnp.minimum(wanted, mini.NOTHING - 1)
    handles = mini.handles(state)
    holds = state.held == index
    ahead = mini.handle_at(state.share + _AHEAD)[index]
    ahead = jnp.where(index == mini.KETTLE, jnp.asarray(mini.KETTLE_GOAL), ahead)
    target = jnp.where(holds, ahead, handles[index])
    way = jnp.where(idle, 0.0, target - state.position)

    top = speed * _TOP_SPEED
    velocity = _GAIN * way
    velocity *= jnp.minimum(1.0, top / jnp.maximum(jnp.linalg.norm(velocity), 1e-6))
    push = (velocity - mini.DRAG * state.velocity) / mini.ACCELERATION

    apart = jnp.linalg.norm(handles - state.position[None], axis=-1)
    nearest = jnp.argmin(jnp.where(mini.objects_in_goal(state), jnp.inf, apart))
    arrives = (apart[index] < _CLOSE_WITHIN) & (nearest == index)
    closes = (holds | (arrives & (state.held == mini.NOTHING))) & ~idle
    return jnp.append(push, jnp.where(closes, 1.0, -1.0))


def demonstrate(
    key: jax.Array,
    sequence: jax.Array,
    *,
    steps: int,
    action_noise: float | jax.Array,
    min_speed: float | jax.Array = 0.8,
    tail_steps: int = 2,
) -> Demonstration:
    """Does objects in order.

    Args:
      key: of start, noise and speed.
      sequence: int32 [n] of objects, filled up with `NOTHING`.
      steps: of the episode.
      action_noise: standard deviation of the noise on the actions.
      min_speed: each demonstration goes at a share of the top speed, drawn from here
        to 1.
      tail_steps: that the demonstration goes on for after its last object.
    """
    start_key, speed_key, scan_key = jax.random.split(key, 3)
    speed = jax.random.uniform(speed_key, minval=min_speed, maxval=1.0)
    sequence = jnp.append(sequence, mini.NOTHING)

    def advance(carry: Any, key: jax.Array):
        state, number = carry
        noise_key, step_key = jax.random.split(key)
        done = jnp.append(mini.in_place(state), False)[sequence[number]]
        number += done
        action = act(state, sequence[number], speed)
        action += action_noise * jax.random.normal(noise_key, (mini.NUM_ACTIONS,))
        action = jnp.clip(action, -1.0, 1.0)
        following = mini.step(state, action, step_key)
        return (following, number), (following, action, sequence[number])

    start = mini.reset(start_key)
    carry = start, jnp.zeros((), jnp.int32)
    keys = jax.random.split(scan_key, steps)
    _, (states, action, wanted) = jax.lax.scan(advance, carry, keys)
    states = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, states)
    busy = jnp.sum(wanted != mini.NOTHING)
    rows = jnp.minimum(busy + 1 + tail_steps, steps) + 1
    return Demonstration(states, action, rows.astype(jnp.int32))
