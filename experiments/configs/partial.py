"""The paper's task `partial` (D4RL's kitchen-mixed): no demonstration solves it.

The paper's sizes, then two CPU cores:

    python -m experiments.run --config=experiments/configs/partial.py
    python -m experiments.run --config=experiments/configs/partial.py:cpu
"""

from ml_collections import ConfigDict

from experiments.configs import base


def get_config(size: str = "full") -> ConfigDict:
    """Returns the configuration of `partial` at a size."""
    config = base.get_config(size)
    config.task = "partial"
    config.data.complete_share = -1.0
    return config
