"""CQL: SAC whose critics are pushed down off the data and up on it.

Kumar et al., "Conservative Q-Learning for Offline Reinforcement Learning" (2020),
CQL(H), Eq. 4, with the importance correction of its appendix F over actions drawn from
the policy and uniformly. Differs from its authors' code: no actions are drawn from the
policy at the next states; the weight is fixed (no Lagrange multiplier). With weight 0
it is SAC.
"""

from typing import Any

from moto_jax.agents.sac import make_sac
from moto_jax.learning.actor_critic import Conservatism, everywhere, make_conservative
from moto_jax.learning.learners import read_section
from moto_jax.types import Agent


def make_cql(config: Any, *, action_size: int, image_size: int) -> Agent:
    """Builds CQL from a run's configuration: SAC's sections and `cql`.

    Raises:
      ValueError: for an image size that the networks cannot take.
    """
    numbers = read_section(config, "cql", Conservatism)
    return make_sac(
        config,
        action_size=action_size,
        image_size=image_size,
        regulariser=make_conservative(numbers, everywhere),
    )
