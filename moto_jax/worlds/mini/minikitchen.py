"""The kitchen in miniature: its objects, tasks and rules in a flat, pure JAX world.

A point gripper with momentum moves over a picture of a kitchen. Every object has a
handle that must be reached, closed upon, and then led along the object's own way: two
doors, two knobs, a switch, a slider, and a kettle that is carried anywhere. At the end
of its way an object clicks into place. What is let go stays where it is; the gripper
hides what is under it; an observation is one image and nothing else.

`reset`, `step` and `render` are pure functions of one environment: `jax.vmap` makes
many of them. The state maps to the 30 joint positions of the real kitchen
(`joint_positions`), an object's share of its way being that share of its joints', so
goals, reward, success and the filter of cloned rows are the kitchen's own functions.

Lengths are shares of the picture, x to the right and y down; one step is one unit of
time. `K` is the seven objects in the order of `tasks.OBJECTS`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from moto_jax.worlds.kitchen import tasks

# Acceleration in x and in y, and whether the gripper closes (positive) or opens.
NUM_ACTIONS = 3
EPISODE_STEPS = 64
RENDER_PROFILE = "mini"

# Share of the velocity that is kept, and what a full action adds to it: at most 0.12.
DRAG, ACCELERATION = 0.5, 0.06
MOTION_NOISE = 0.003
# How far a closed gripper is from the handles that it takes.
REACH = 0.15
NOTHING = len(tasks.OBJECTS)
_START, _START_SPREAD = np.array([0.6, 0.86]), 0.04
# So far from the picture's edges, the gripper is seen whole.
_EDGE = 0.1

KETTLE = tasks.OBJECTS.index("kettle")
# Where each handle starts, a point that bends its way, and where it ends (the kettle's
# is free). The slide cabinet, where most demonstrations end, is within reach of its
# corner and opens to it: a gripper that has gone too far still does it.
_WAYS: dict[str, tuple[tuple[float, float], ...]] = {
    "bottom burner": ((0.52, 0.70), (0.58, 0.60), (0.66, 0.68)),
    "top burner": ((0.82, 0.70), (0.88, 0.60), (0.96, 0.68)),
    "light switch": ((0.69, 0.57), (0.69, 0.54), (0.69, 0.50)),
    "slide cabinet": ((0.78, 0.17), (0.85, 0.17), (0.92, 0.17)),
    "hinge cabinet": ((0.28, 0.17), (0.22, 0.27), (0.09, 0.28)),
    "microwave": ((0.26, 0.50), (0.22, 0.62), (0.08, 0.64)),
    "kettle": ((0.36, 0.82), (0.39, 0.63), (0.42, 0.44)),
}
# The share of the gripper's motion that each takes.
_EASE = np.array([0.8, 0.8, 1.0, 1.0, 0.8, 0.8, 1.0], np.float32)
_POINTS = np.array([_WAYS[name] for name in tasks.OBJECTS], np.float32)
KETTLE_START, KETTLE_GOAL = _POINTS[KETTLE, 0], _POINTS[KETTLE, 2]
# From where on an object is in its place: the share of its way, and how far the kettle
# is from its goal.
_IN_PLACE, _KETTLE_IN_PLACE = 0.9, 0.18


class State(NamedTuple):
    """One environment.

    Attributes:
      position: [2], of the gripper.
      velocity: [2], a step.
      grip: scalar, 1 where it is closed and 0 where it is open.
      held: int32 scalar, the object in it, or `NOTHING`.
      share: [K], of its way that each object has gone; the kettle's is unused.
      kettle: [2], where it is.
      steps: int32 scalar, since the reset.
    """

    position: jax.Array
    velocity: jax.Array
    grip: jax.Array
    held: jax.Array
    share: jax.Array
    kettle: jax.Array
    steps: jax.Array


def reset(key: jax.Array) -> State:
    """Returns the kitchen as every episode finds it, the gripper near its middle."""
    offset = jax.random.uniform(key, (2,), minval=-_START_SPREAD, maxval=_START_SPREAD)
    return State(
        position=jnp.asarray(_START, jnp.float32) + offset,
        velocity=jnp.zeros(2),
        grip=jnp.zeros(()),
        held=jnp.full((), NOTHING, jnp.int32),
        share=jnp.zeros(len(tasks.OBJECTS)),
        kettle=jnp.asarray(KETTLE_START),
        steps=jnp.zeros((), jnp.int32),
    )


def handles(state: State) -> jax.Array:
    """Returns [K, 2], where every handle is."""
    along, _ = _on_ways(state.share)
    return along.at[KETTLE].set(state.kettle)


def handle_at(share: jax.Array) -> jax.Array:
    """Returns [K, 2], where the handles are at shares [K] of their ways."""
    return _on_ways(share)[0]


def _on_ways(share: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns points [K, 2] on the bent ways, and how they move by share [K, 2]."""
    start, bend, end = jnp.moveaxis(jnp.asarray(_POINTS), 1, 0)
    share = share[:, None]
    first, second = bend - start, end - bend
    point = start + 2 * share * first + share**2 * (second - first)
    return point, 2 * (first + share * (second - first))


def step(state: State, action: jax.Array, key: jax.Array) -> State:
    """Moves for one step.

    The gripper is closed while its action is positive and open otherwise. While it is
    closed and empty it takes the nearest handle within `REACH`, but for those of
    objects in their goal. What it holds follows its motion along the object's way and
    keeps it there; the kettle follows anywhere. It loses what is in its place.

    Args:
      state: of one environment.
      action: [3], clipped to [-1, 1].
      key: of the noise on the motion.
    """
    action = jnp.clip(action, -1.0, 1.0)
    is_closed = action[2] > 0.0
    velocity = DRAG * state.velocity + ACCELERATION * action[:2]
    velocity += MOTION_NOISE * jax.random.normal(key, (2,))

    distance = jnp.linalg.norm(handles(state) - state.position[None], axis=-1)
    distance = jnp.where(objects_in_goal(state), jnp.inf, distance)
    nearest = jnp.argmin(distance).astype(jnp.int32)
    takes = (state.held == NOTHING) & (distance.min() < REACH)
    taken = jnp.where(takes, nearest, state.held)
    lost = jnp.append(in_place(state), True)[state.held]
    held = jnp.where(is_closed & (takes | ~lost), taken, NOTHING)

    # Led along the way of what is held, by the part of the motion that points there.
    is_held = jnp.arange(len(tasks.OBJECTS)) == held
    _, tangent = _on_ways(state.share)
    led = tangent @ velocity / jnp.sum(jnp.square(tangent), axis=-1)
    share = jnp.clip(state.share + jnp.where(is_held, _EASE * led, 0.0), 0.0, 1.0)
    share = share.at[KETTLE].set(0.0)

    free = jnp.clip(state.position + velocity, _EDGE, 1.0 - _EDGE)
    kettle = jnp.where(held == KETTLE, free, state.kettle)
    on_way = jnp.sum(jnp.where(is_held[:, None], handle_at(share), 0.0), axis=0)
    position = jnp.where((held == NOTHING) | (held == KETTLE), free, on_way)
    return State(
        position=position,
        velocity=position - state.position,
        grip=is_closed.astype(jnp.float32),
        held=held,
        share=share,
        kettle=kettle,
        steps=state.steps + 1,
    )


def in_place(state: State) -> jax.Array:
    """Returns bool [K], what has come to the end of its way."""
    away = jnp.linalg.norm(state.kettle - KETTLE_GOAL)
    return (state.share > _IN_PLACE).at[KETTLE].set(away < _KETTLE_IN_PLACE)


# An object's joints are at zero when its handle is at its start; the kettle's are its
# place, whose way from start to goal the real one goes along y.
_KETTLE_JOINTS = np.array(tasks.GOALS["kettle"], np.float32)
_REAL_KETTLE_WAY = np.array([-0.23 + 0.269, 0.75 - 0.35], np.float32)


def _turn_to_real() -> np.ndarray:
    """Returns the rotation and scale [2, 2] that takes the kettle's way to the real."""
    here, there = KETTLE_GOAL - KETTLE_START, _REAL_KETTLE_WAY
    ratio = complex(*there) / complex(*here)
    return np.array(
        [[ratio.real, -ratio.imag], [ratio.imag, ratio.real]], dtype=np.float32
    )


_TO_REAL = _turn_to_real()


def joint_positions(state: State) -> jax.Array:
    """Returns [30], the real kitchen's joint positions of a state.

    The nine of the robot hold the gripper's position, velocity and closure, then zeros.
    """
    robot = jnp.concatenate([state.position, state.velocity, state.grip[None]])
    qpos = jnp.zeros(30).at[: len(robot)].set(robot)
    for index, name in enumerate(tasks.OBJECTS):
        columns = np.array(tasks.QPOS_INDICES[name])
        if index == KETTLE:
            place = _KETTLE_JOINTS[:2] + _TO_REAL @ (state.kettle - KETTLE_GOAL)
            value = jnp.concatenate([place, _KETTLE_JOINTS[2:]])
        else:
            value = state.share[index] * np.array(tasks.GOALS[name], np.float32)
        qpos = qpos.at[columns].set(value)
    return qpos


# Boxes as left, right, top, bottom.
_WALL, _COUNTER, _FRAME = (214, 205, 186), (158, 132, 104), (120, 84, 56)
_INSIDE, _STEEL, _PALE = (46, 40, 40), (120, 126, 134), (236, 228, 208)
_STOVE, _PLATE, _HANDLE = (88, 90, 96), (50, 50, 54), (20, 20, 24)
_SCENERY: tuple[tuple[tuple[float, float, float, float], tuple[int, int, int]], ...] = (
    ((0.0, 1.0, 0.0, 0.36), _WALL),
    ((0.0, 1.0, 0.36, 1.0), _COUNTER),
    ((0.03, 0.31, 0.05, 0.29), _FRAME),
    ((0.05, 0.29, 0.07, 0.27), _INSIDE),
    ((0.62, 0.98, 0.05, 0.29), _FRAME),
    ((0.64, 0.96, 0.07, 0.27), _INSIDE),
    ((0.02, 0.30, 0.38, 0.62), _STEEL),
    ((0.04, 0.28, 0.41, 0.59), _INSIDE),
    ((0.34, 0.98, 0.36, 0.78), _STOVE),
    ((0.36, 0.48, 0.38, 0.50), _PLATE),
    ((0.53, 0.65, 0.38, 0.50), _PLATE),
    ((0.83, 0.95, 0.38, 0.50), _PLATE),
    ((0.51, 0.67, 0.60, 0.74), _PALE),
    ((0.81, 0.97, 0.60, 0.74), _PALE),
    ((0.655, 0.725, 0.37, 0.60), _PALE),
)
_GREEN, _RED, _BLUE = (70, 120, 90), (200, 60, 40), (40, 90, 200)
_LAMP_OFF, _LAMP_ON, _FLAME = (110, 104, 90), (255, 236, 90), (255, 110, 20)
_GRIPPER = (250, 20, 160)


def _paint(image: Any, box: Any, colour: Any, size: int) -> Any:
    """Lays a box over an image [size, size, 3]; its edges cover pixels by share."""
    left, right, top, bottom = box
    lower = np.arange(size, dtype=np.float32)
    along = jnp.clip(
        jnp.minimum(right * size, lower + 1) - jnp.maximum(left * size, lower), 0, 1
    )
    down = jnp.clip(
        jnp.minimum(bottom * size, lower + 1) - jnp.maximum(top * size, lower), 0, 1
    )
    cover = (down[:, None] * along[None, :])[..., None]
    colour = jnp.asarray(colour, jnp.float32)[None, None]
    return image + cover * (colour - image)


def render(state: State, size: int = 32) -> jax.Array:
    """Returns uint8 [size, size, 3], the picture of a state.

    The scenery does not depend on the state; compiled, it is painted once.
    """
    image: Any = jnp.zeros((size, size, 3))
    with jax.ensure_compile_time_eval():
        for box, colour in _SCENERY:
            image = _paint(image, box, colour, size)
    for box, colour in _moving_boxes(state):
        image = _paint(image, box, colour, size)
    return (image + 0.5).astype(jnp.uint8)


def _moving_boxes(state: State) -> list[tuple[Any, Any]]:
    """Returns what is painted over the scenery, from the back to the front."""
    place = dict(zip(tasks.OBJECTS, handles(state), strict=True))
    in_goal = objects_in_goal(state)
    lit = in_goal[tasks.OBJECTS.index("light switch")]
    slide = place["slide cabinet"][0]
    boxes = [
        ((0.05, place["hinge cabinet"][0] + 0.01, 0.07, 0.27), _GREEN),
        (_around(place["hinge cabinet"], 0.02, 0.035), _HANDLE),
        ((slide - 0.10, slide + 0.04, 0.07, 0.27), _GREEN),
        (_around(place["slide cabinet"], 0.02, 0.035), _HANDLE),
        ((0.04, place["microwave"][0] + 0.01, 0.41, 0.59), _PALE),
        (_around(place["microwave"], 0.02, 0.035), _HANDLE),
        ((0.38, 0.55, 0.10, 0.20), _mix(_LAMP_OFF, _LAMP_ON, lit)),
        (_around(place["light switch"], 0.045, 0.02), _GREEN),
    ]
    for name, left in (("bottom burner", 0.53), ("top burner", 0.83)):
        on = in_goal[tasks.OBJECTS.index(name)]
        flame = (left + 0.02, left + 0.10, 0.40, 0.48)
        boxes.append((flame, _mix(_PLATE, _FLAME, on)))
        boxes.append((_around(place[name], 0.025, 0.025), _RED))
    x, y = state.kettle
    boxes.append(((x - 0.07, x + 0.07, y, y + 0.10), _BLUE))
    boxes.append(((x - 0.035, x + 0.035, y - 0.03, y + 0.01), _HANDLE))
    # Two fingers, which meet when closed, under a palm.
    x, y = state.position
    gap = 0.065 - 0.035 * state.grip
    boxes.append(((x - gap - 0.025, x - gap + 0.025, y - 0.04, y + 0.05), _GRIPPER))
    boxes.append(((x + gap - 0.025, x + gap + 0.025, y - 0.04, y + 0.05), _GRIPPER))
    boxes.append(((x - 0.09, x + 0.09, y - 0.1, y - 0.04), _GRIPPER))
    return boxes


def _around(point: Any, half_width: float, half_height: float) -> Any:
    x, y = point
    return x - half_width, x + half_width, y - half_height, y + half_height


def _mix(off: Any, on: Any, share: Any) -> Any:
    return jnp.where(share, np.array(on, np.float32), np.array(off, np.float32))


def objects_in_goal(state: State) -> jax.Array:
    """Returns bool [K], by the real kitchen's rule on the state's joint positions."""
    return tasks.objects_in_goal(joint_positions(state))


class MiniKitchen(NamedTuple):
    """The functions above with an image's size and an episode's length.

    Attributes:
      image_size: pixels a side, 16, 32 or 64 for the networks.
      episode_steps: after which an episode is cut (truncated).
    """

    image_size: int = 32
    episode_steps: int = EPISODE_STEPS

    reset = staticmethod(reset)
    step = staticmethod(step)
    joint_positions = staticmethod(joint_positions)
    objects_in_goal = staticmethod(objects_in_goal)

    def render(self, state: State) -> jax.Array:
        """Returns uint8 [image_size, image_size, 3]."""
        return render(state, self.image_size)

    def look(self, state: State) -> dict[str, jax.Array]:
        """Returns a row of an episode."""
        return {
            "image": self.render(state),
            "objects_in_goal": objects_in_goal(state),
            "qpos": joint_positions(state),
        }
