"""The kitchen's seven objects, the paper's two tasks, and what counts as done.

NumPy only: environment workers import this module and must stay free of jax.
Axis `K` is the seven objects in the order of `OBJECTS`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

OBJECTS: tuple[str, ...] = (
    "bottom burner",
    "top burner",
    "light switch",
    "slide cabinet",
    "hinge cabinet",
    "microwave",
    "kettle",
)

# The columns of the simulator's 30 joint positions that belong to each object.
QPOS_INDICES: dict[str, tuple[int, ...]] = {
    "bottom burner": (11, 12),
    "top burner": (15, 16),
    "light switch": (17, 18),
    "slide cabinet": (19,),
    "hinge cabinet": (20, 21),
    "microwave": (22,),
    "kettle": (23, 24, 25, 26, 27, 28, 29),
}

GOALS: dict[str, tuple[float, ...]] = {
    "bottom burner": (-0.88, -0.01),
    "top burner": (-0.92, -0.01),
    "light switch": (-0.69, -0.05),
    "slide cabinet": (0.37,),
    "hinge cabinet": (0.0, 1.45),
    "microwave": (-0.75,),
    "kettle": (-0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06),
}

# All goals side by side, and whose each is [goals, K]: asked at every step.
_GOAL_COLUMNS = np.concatenate([list(QPOS_INDICES[name]) for name in OBJECTS])
_GOAL_POSITIONS = np.concatenate([GOALS[name] for name in OBJECTS])
_GOAL_OWNERS = np.repeat(np.eye(len(OBJECTS)), [len(GOALS[n]) for n in OBJECTS], axis=0)

# L2 distance in joint units; for the kettle it mixes metres and quaternion entries,
# as the benchmark itself does.
GOAL_DISTANCE = 0.3

# Control steps of 0.08 s.
EPISODE_STEPS = 280

# Joint velocities of seven arm joints and two fingers.
NUM_ACTIONS = 9

# The paper's names, in the order demonstrations do the objects. They are the reverse
# of D4RL's and Minari's: `mixed` is kitchen-partial there, `partial` kitchen-mixed.
TASKS: dict[str, tuple[str, ...]] = {
    "mixed": ("microwave", "kettle", "light switch", "slide cabinet"),
    "partial": ("microwave", "kettle", "bottom burner", "light switch"),
}

D4RL_NAMES: dict[str, str] = {"mixed": "kitchen-partial", "partial": "kitchen-mixed"}


def resolve_task(task: str | Sequence[str]) -> tuple[str, ...]:
    """Returns the objects of a task given by name, or by its objects in order.

    Raises:
      ValueError: for an unknown name or object, a repeated object, or no object.
    """
    if isinstance(task, str):
        if task in TASKS:
            return TASKS[task]
        objects = tuple(name.strip() for name in task.split(","))
    else:
        objects = tuple(task)
    unknown = [name for name in objects if name not in OBJECTS]
    if unknown or not objects:
        named = ", ".join(map(repr, unknown)) or "(none)"
        raise ValueError(
            f"unknown kitchen object or task {named}: use one of the tasks "
            f"{', '.join(TASKS)}, or a list of objects out of {', '.join(OBJECTS)}"
        )
    if len(set(objects)) != len(objects):
        raise ValueError(f"task {objects} names an object twice: name each once")
    return objects


def object_columns(task: Sequence[str]) -> np.ndarray:
    """Returns the columns of the `K` axis that belong to the task's objects."""
    return np.array([OBJECTS.index(name) for name in task])


def objects_in_goal(qpos: Any) -> Any:
    """Returns bool [..., K]: which objects are within 0.3 of their goal now.

    Args:
      qpos: [..., 30] joint positions of robot (9) and objects (21), NumPy's or jax's.
    """
    offset = qpos[..., _GOAL_COLUMNS] - _GOAL_POSITIONS
    return (offset**2 @ _GOAL_OWNERS) ** 0.5 < GOAL_DISTANCE


def task_reward(in_goal: Any, task: Sequence[str]) -> Any:
    """Returns float32 [...]: how many of the task's objects are in their goal now.

    Objects are not removed once done, so the reward depends on the state alone.

    Args:
      in_goal: bool [..., K], NumPy's or jax's.
      task: the task's objects.
    """
    return in_goal[..., object_columns(task)].sum(axis=-1).astype(np.float32)
