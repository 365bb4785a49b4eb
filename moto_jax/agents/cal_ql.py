"""Cal-QL: CQL whose pushed-down values are bounded below by what the data got.

Nakamoto et al., "Cal-QL: Calibrated Offline RL Pre-Training for Efficient Online
Fine-Tuning" (2023): at each state the values of the policy's actions are not pushed
below the return that the recorded episode got from there, so that the first online
episodes are not preferred only because they are not pushed down. As in its
authors' code the bound is of the policy's actions, not of the uniform ones, and half of
each batch is of online episodes once there are any. Differs from it as CQL does here
(see `cql`). The return ends with the episode, also where a time limit or a
demonstration's end does: it is a lower bound of what the behaviour is worth.
"""

from typing import Any

from moto_jax.agents.cql import make_cql
from moto_jax.learning.conservatism import recorded_returns
from moto_jax.types import Agent

# Of each batch, from its own episodes.
ONLINE_SHARE = 0.5


def make_cal_ql(config: Any, *, action_size: int, image_size: int) -> Agent:
    """Builds Cal-QL from a run's configuration: CQL's sections.

    Raises:
      ValueError: for an image size that the networks cannot take.
    """
    return make_cql(
        config,
        action_size=action_size,
        image_size=image_size,
        lower_bound=recorded_returns,
        online_share=ONLINE_SHARE,
    )
