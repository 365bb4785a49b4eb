"""What an environment's `step` is given, looked at before it moves anything."""

from typing import Any

import numpy as np


def checked_action(action: Any, size: int) -> np.ndarray:
    """Returns an action as float64 [A].

    Args:
      action: from whoever steps the environment.
      size: A.

    Raises:
      ValueError: for another shape, or a NaN or an infinity.
    """
    action = np.asarray(action, np.float64)
    if action.shape != (size,) or not np.isfinite(action).all():
        raise ValueError(f"action must be {size} finite numbers, got {action.tolist()}")
    return action
