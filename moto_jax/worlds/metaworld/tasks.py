"""The ten tasks, and what is the same for all of them; imports nothing of MetaWorld.

The settings are those of the published paper's MetaWorld experiments, as the public
baselines of its authors have them.
"""

import importlib.util

TASKS = (
    "assembly",
    "bin-picking",
    "box-close",
    "coffee-push",
    "disassemble",
    "door-open",
    "drawer-open",
    "hammer",
    "plate-slide",
    "window-open",
)

# The hand's displacement in x, y and z, and how hard the gripper closes.
NUM_ACTIONS = 4
# Simulator steps of 0.0125 s a decision, and decisions an episode.
ACTION_REPEAT = 2
EPISODE_STEPS = 200
# MuJoCo's default look without shadows and multisampling, which on a CPU would take
# fifteen times as long.
RENDER_PROFILE = "metaworld"

PACKAGE = "metaworld==3.1.1"


def check_task(task: str) -> None:
    """Raises ValueError for a task that is not one of the ten."""
    if task not in TASKS:
        raise ValueError(
            f"config.task is {task!r}: MetaWorld's tasks here are {', '.join(TASKS)}"
        )


def require_package() -> None:
    """Raises ValueError where MetaWorld is not installed."""
    if importlib.util.find_spec("metaworld") is None:
        raise ValueError(
            "config.env.name is 'metaworld', but the package of the extra `metaworld` "
            f"is not installed: run `pip install --no-deps {PACKAGE}` (--no-deps, "
            "because it asks for another MuJoCo than the kitchen's, and runs with it)"
        )
