"""The paper's task `mixed` (D4RL's kitchen-partial): some demonstrations solve it.

python -m experiments.run --config=experiments/configs/mixed.py      # the paper's sizes
python -m experiments.run --config=experiments/configs/mixed.py:cpu  # two CPU cores
"""

from ml_collections import ConfigDict

from experiments.configs import base


def get_config(size: str = "full") -> ConfigDict:
    """Returns the configuration of `mixed` at a size."""
    config = base.get_config(size)
    config.task = "mixed"
    return config
