"""Where gymnasium-robotics is imported, what it needs to run on any MuJoCo, and faster.

From MuJoCo 3.12 on, `mjtJoint.mjJNT_HINGE == np.int32(3)` is False, and
gymnasium-robotics up to 1.4.2 asserts on exactly that comparison when it looks a joint
up. The mend here is applied only where the comparison fails.
"""

# MuJoCo's names come from compiled modules, which pyright cannot read.
# pyright: reportAttributeAccessIssue=false

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import mujoco
import numpy as np

# The package prints a notice about another of its environments to stderr on import; in
# every worker process it would only hide our own messages.
with contextlib.redirect_stderr(io.StringIO()):
    from gymnasium_robotics.envs.franka_kitchen import franka_env
    from gymnasium_robotics.envs.franka_kitchen.kitchen_env import (
        KitchenEnv as RoboticsKitchenEnv,
    )
    from gymnasium_robotics.utils import mujoco_utils

_ROBOT_JOINTS = 9

KITCHEN_XML = (
    Path(mujoco_utils.__file__).parents[1]
    / "envs/assets/kitchen_franka/kitchen_assets/kitchen_env_model.xml"
)


def joint_type_equals_integer(joint_type: Any = mujoco.mjtJoint) -> bool:
    """Returns whether MuJoCo's joint enum compares equal to the model's integers."""
    return bool(joint_type.mjJNT_HINGE == np.int32(int(joint_type.mjJNT_HINGE)))


def patch_joint_lookup(
    utils: ModuleType | Any = mujoco_utils, joint_type: Any = mujoco.mjtJoint
) -> bool:
    """Replaces gymnasium-robotics' joint look-ups where they would fail.

    MuJoCo's own named access knows the width of every joint, so no enum is compared.

    Args:
      utils: the module (or a stand-in) that holds `get_joint_qpos` and its siblings.
      joint_type: MuJoCo's joint enum (or a stand-in).

    Returns:
      Whether the look-ups were replaced.
    """
    if joint_type_equals_integer(joint_type):
        return False

    def get_joint_qpos(model: Any, data: Any, name: str) -> np.ndarray:
        del model
        return data.joint(name).qpos.copy()

    def get_joint_qvel(model: Any, data: Any, name: str) -> np.ndarray:
        del model
        return data.joint(name).qvel.copy()

    def set_joint_qpos(model: Any, data: Any, name: str, value: Any) -> None:
        del model
        data.joint(name).qpos[:] = value

    def set_joint_qvel(model: Any, data: Any, name: str, value: Any) -> None:
        del model
        data.joint(name).qvel[:] = value

    for function in (get_joint_qpos, get_joint_qvel, set_joint_qpos, set_joint_qvel):
        setattr(utils, function.__name__, function)
    return True


def robot_state(
    model: Any, data: Any, joint_names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the robot's joint positions and velocities, float64 [9] each.

    What gymnasium-robotics gathers joint by joint and name by name at every step, which
    takes a twentieth of the time of physics and frame; the robot's joints come first.
    """
    del model, joint_names
    return data.qpos[:_ROBOT_JOINTS].copy(), data.qvel[:_ROBOT_JOINTS].copy()


def make_simulator(robot_noise_ratio: float, object_noise_ratio: float) -> Any:
    """Returns gymnasium-robotics' kitchen, used for its physics alone.

    It never renders, never removes a finished object and never terminates. The noise is
    part of the dynamics: its controller aims from the last *noisy* joint positions.
    """
    patch_joint_lookup()
    franka_env.robot_get_obs = robot_state
    return RoboticsKitchenEnv(
        terminate_on_tasks_completed=False,
        remove_task_when_completed=False,
        robot_noise_ratio=robot_noise_ratio,
        object_noise_ratio=object_noise_ratio,
    )
