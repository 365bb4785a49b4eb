"""The scripted demonstrator of the kitchen in miniature, as pure functions.

It goes to an object's handle, closes, leads it along its way past the goal's border,
opens, and goes on to the next; a grasp that missed is tried again.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from moto_jax.envs import minikitchen as mini
from moto_jax.envs.minikitchen import State

# Objects of the longest sequence; shorter ones are filled up with `NOTHING`.
MAX_OBJECTS = 7

# Of its way, after which an object is let go; how near, to the kettle's goal.
_ENOUGH, _NEAR_GOAL = 0.9, 0.05
# Within this of the handle the gripper closes, well within its reach: were it to wait
# until it is near and slow, a policy that copies it would wait there for ever, since a
# picture does not show how fast the gripper is.
_CLOSE_WITHIN = 0.08
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


def act(state: State, wanted: jax.Array, speed: jax.Array) -> tuple[jax.Array, Any]:
    """Returns the action [3] towards an object's goal, and whether that is done.

    Args:
      state: of the environment.
      wanted: int32 scalar, the object, or `NOTHING` to come to rest.
      speed: share of the top speed.
    """
    idle = wanted == mini.NOTHING
    index = jnp.minimum(wanted, mini.NOTHING - 1)
    is_kettle = index == mini.KETTLE
    goal = jnp.asarray(mini.KETTLE_GOAL)
    finished = jnp.where(
        is_kettle,
        jnp.linalg.norm(state.kettle - goal) < _NEAR_GOAL,
        state.share[index] > _ENOUGH,
    )
    holds = state.held == index
    ahead = mini.handle_at(jnp.minimum(state.share + _AHEAD, 1.1))[index]
    handle = mini.handles(state)[index]
    target = jnp.where(holds, jnp.where(is_kettle, goal, ahead), handle)
    target = jnp.where(finished | idle, state.position, target)
    way = target - state.position
    distance = jnp.linalg.norm(way)

    top = speed * _TOP_SPEED
    velocity = _GAIN * way
    velocity *= jnp.minimum(1.0, top / jnp.maximum(jnp.linalg.norm(velocity), 1e-6))
    push = (velocity - mini.DRAG * state.velocity) / mini.ACCELERATION

    arrived = (distance < _CLOSE_WITHIN) & (state.grip < 1.0)
    closes = (holds | arrived) & ~finished & ~idle
    action = jnp.append(push, jnp.where(closes, 1.0, -1.0))
    return action, finished & (state.grip <= 0.0)


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
        action, done = act(state, sequence[number], speed)
        action += action_noise * jax.random.normal(noise_key, (mini.NUM_ACTIONS,))
        action = jnp.clip(action, -1.0, 1.0)
        following = mini.step(state, action, step_key)
        number = jnp.where(done, number + 1, number)
        return (following, number), (following, action, sequence[number])

    start = mini.reset(start_key)
    carry = start, jnp.zeros((), jnp.int32)
    keys = jax.random.split(scan_key, steps)
    _, (states, action, wanted) = jax.lax.scan(advance, carry, keys)
    states = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), start, states)
    busy = jnp.sum(wanted != mini.NOTHING)
    rows = jnp.minimum(busy + 1 + tail_steps, steps) + 1
    return Demonstration(states, action, rows.astype(jnp.int32))
