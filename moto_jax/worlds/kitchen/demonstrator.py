"""A scripted demonstrator for the seven kitchen objects.

It sees the simulator's state, which an agent does not, and gives valid actions only: it
moves the arm through joint keyframes solved beforehand (`keyframes.json`), a list for
each object, with noise and variety from a seed. NumPy only, for worker processes.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np

from moto_jax.worlds.kitchen import tasks

NUM_ARM_JOINTS = 7
NUM_FINGERS = 2

# An action of 1 moves the commanded joint by 2 rad/s over a control step of 0.08 s.
RADIANS_PER_STEP = 2.0 * 0.08
# Share of the remaining error commanded per step. More than 1, because the simulator's
# soft position servos cover only about half of what is commanded.
_GAIN = 1.5
# The servos' stiffness in Nm/rad: torque over stiffness is how far gravity makes a
# joint sag (3 cm at the hand), which is added to the command in advance.
_STIFFNESS = np.array([870.0] * 4 + [120.0] * 3)
_FINGER_CLOSED, _FINGER_OPEN = 0.0, 0.04
# A list that ends without its object in the goal is done again this many times.
MAX_RETRIES = 2


@dataclasses.dataclass(frozen=True)
class Keyframe:
    """One straight line in joint space, and when it is over.

    Attributes:
      label: what the hand does there.
      arm: the seven arm joints to reach, in rad. Where the hand pushes or pulls it lies
        beyond the contact, so that the servos' error becomes force.
      finger: position of both fingers in m, 0 closed to 0.04 open.
      tolerance: over when every joint is this near, in rad; 0 for never.
      max_steps: over after this many control steps at full speed.
      speed: share of full speed.
      stop: (index into the joint positions, threshold): over when that joint, which
        starts at 0, has passed the threshold.
    """

    label: str
    arm: tuple[float, ...]
    finger: float
    tolerance: float
    max_steps: int
    speed: float
    stop: tuple[int, float] | None


@functools.cache
def load_keyframes() -> Mapping[str, tuple[Keyframe, ...]]:
    """Returns the keyframes of each of the seven objects."""
    text = (
        resources.files("moto_jax.worlds.kitchen")
        .joinpath("keyframes.json")
        .read_text()
    )
    return {
        name: tuple(Keyframe(**frame) for frame in frames)
        for name, frames in json.loads(text).items()
    }


def demonstrable_order(objects: Sequence[str]) -> tuple[str, ...]:
    """Returns the objects, the slide cabinet moved before the hinge cabinet.

    The open hinge door hangs in front of the slide cabinet's handle, where this
    demonstrator cannot reach around it.
    """
    order = list(objects)
    if "slide cabinet" in order and "hinge cabinet" in order:
        hinge = order.index("hinge cabinet")
        if order.index("slide cabinet") > hinge:
            order.remove("slide cabinet")
            order.insert(hinge, "slide cabinet")
    return tuple(order)


class Demonstrator:
    """Does objects one after another in one episode; deterministic given its seed.

    Attributes:
      finished: whether all keyframes are over. It then holds its last pose.
      intended_action: float32 [9] in [-1, 1], the last action before its noise.
    """

    def __init__(
        self,
        objects: Sequence[str],
        seed: int,
        action_noise: float = 0.1,
        min_speed: float = 0.8,
        keyframe_jitter: float = 0.01,
    ):
        """Draws this episode's speed and keyframes.

        Args:
          objects: what to do, in this order.
          seed: of the variety and of the action noise.
          action_noise: standard deviation of the Gaussian noise on each action, added
            before the action is clipped to [-1, 1].
          min_speed: the episode's speed is drawn from [min_speed, 1].
          keyframe_jitter: each joint of each keyframe is moved by up to this, in rad.

        Raises:
          ValueError: for an unknown object, or a parameter out of its range.
        """
        if not 0.0 <= action_noise < 1.0:
            raise ValueError(
                f"config.data.action_noise (--action_noise) is {action_noise}: use 0 "
                "or more and less than 1"
            )
        if not 0.0 < min_speed <= 1.0:
            raise ValueError(f"min_speed {min_speed} is not in (0, 1]")
        if not 0.0 <= keyframe_jitter <= 0.1:
            raise ValueError(
                f"keyframe_jitter {keyframe_jitter} is not in [0, 0.1] rad"
            )
        self.objects = tasks.resolve_task(tuple(objects))
        self._seed = seed
        self._action_noise = action_noise
        self._min_speed = min_speed
        self._keyframe_jitter = keyframe_jitter
        self.reset()

    def reset(self) -> None:
        """Starts the same episode again: same variety, same noise."""
        variety, self._noise = np.random.default_rng(self._seed).spawn(2)
        self._speed = variety.uniform(self._min_speed, 1.0)
        self._plan = [
            [self._varied(keyframe, variety) for keyframe in load_keyframes()[name]]
            for name in self.objects
        ]
        self._object_index = 0
        self._keyframe_index = 0
        self._steps_in_keyframe = 0
        self._retries = 0
        self._held_arm: np.ndarray | None = None
        self.finished = False
        self.intended_action = np.zeros(NUM_ARM_JOINTS + NUM_FINGERS, np.float32)

    def act(self, info: Mapping[str, Any]) -> np.ndarray:
        """Returns the action, float32 [9] in [-1, 1], for the state in `info`.

        Args:
          info: of the environment's last `reset` or `step`; reads `qpos`, `arm_bias`
            and `objects_in_goal`.
        """
        if not self.finished and self._keyframe_is_over(info["qpos"]):
            self._advance(info)
        self._steps_in_keyframe += 1
        arm, fingers = self._command(info)
        action = np.concatenate([arm, fingers])
        self.intended_action = np.clip(action, -1.0, 1.0).astype(np.float32)
        action += self._noise.normal(0.0, 1.0, action.shape) * self._action_noise
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def _varied(self, keyframe: Keyframe, variety: np.random.Generator) -> Keyframe:
        jitter = variety.uniform(-1.0, 1.0, NUM_ARM_JOINTS) * self._keyframe_jitter
        # Lines that end by count alone (closing the fingers) take the same time at
        # any speed of the arm.
        slower = self._speed if keyframe.tolerance else 1.0
        return dataclasses.replace(
            keyframe,
            arm=tuple(np.array(keyframe.arm) + jitter),
            speed=keyframe.speed * self._speed,
            max_steps=int(np.ceil(keyframe.max_steps / slower)),
        )

    @property
    def _keyframe(self) -> Keyframe:
        return self._plan[self._object_index][self._keyframe_index]

    def _keyframe_is_over(self, qpos: np.ndarray) -> bool:
        keyframe = self._keyframe
        if self._steps_in_keyframe >= keyframe.max_steps:
            return True
        if keyframe.stop is not None:
            joint, threshold = keyframe.stop
            if qpos[joint] / threshold > 1.0:
                return True
        error = np.abs(np.array(keyframe.arm) - qpos[:NUM_ARM_JOINTS]).max()
        return bool(error < keyframe.tolerance)

    def _advance(self, info: Mapping[str, Any]) -> None:
        self._steps_in_keyframe = 0
        self._keyframe_index += 1
        if self._keyframe_index < len(self._plan[self._object_index]):
            return
        name = self.objects[self._object_index]
        done = info["objects_in_goal"][tasks.OBJECTS.index(name)]
        self._keyframe_index = 0
        if not done and self._retries < MAX_RETRIES:
            self._retries += 1
            return
        self._retries = 0
        if self._object_index + 1 < len(self.objects):
            self._object_index += 1
        else:
            self.finished = True
            self._held_arm = np.array(info["qpos"][:NUM_ARM_JOINTS])

    def _command(self, info: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the noise-free action: arm [7] and fingers [2]."""
        qpos = info["qpos"]
        if self._held_arm is not None:
            target, speed, finger = self._held_arm, self._speed, _FINGER_OPEN
        else:
            keyframe = self._keyframe
            target, speed = np.array(keyframe.arm), keyframe.speed
            finger = keyframe.finger
        error = target - qpos[:NUM_ARM_JOINTS]
        arm = (_GAIN * error + info["arm_bias"] / _STIFFNESS) / RADIANS_PER_STEP
        # One scale for all joints keeps the line straight.
        arm = arm / max(1.0, np.abs(arm).max()) * speed
        if finger == _FINGER_CLOSED:
            # All the force there is: a grip that eases off near its goal is lost to
            # the action noise.
            fingers = np.full(NUM_FINGERS, -1.0)
        elif finger == _FINGER_OPEN:
            fingers = np.full(NUM_FINGERS, 1.0)
        else:
            positions = qpos[NUM_ARM_JOINTS : NUM_ARM_JOINTS + NUM_FINGERS]
            fingers = np.clip(_GAIN * (finger - positions) / RADIANS_PER_STEP, -1, 1)
        return arm, fingers
