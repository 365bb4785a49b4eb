"""The paper's task `mixed` (D4RL's kitchen-partial): some demonstrations solve it.

The paper's sizes, then two CPU cores:

    python -m experiments.run --config=experiments/configs/mixed.py
    python -m experiments.run --config=experiments/configs/mixed.py:cpu
"""

from ml_collections import ConfigDict

from experiments.configs import base


def get_config(size: str = "full") -> ConfigDict:
    """Returns the configuration of `mixed` at a size."""
    config = base.get_config(size)
    config.task = "mixed"
    return config
