"""CQL: SAC whose critics are pushed down off the data and up on it.

Kumar et al., "Conservative Q-Learning for Offline Reinforcement Learning" (2020),
CQL(H), Eq. 4, with the importance correction of its appendix F over actions drawn from
the policy and uniformly. Differs from its authors' code: no actions are drawn from the
policy at the next states; the weight is fixed (no Lagrange multiplier). With weight 0
it is SAC.
"""

from typing import Any, NamedTuple

from moto_jax.agents.actor_critic import everywhere, make_conservative
from moto_jax.agents.base import read_section
from moto_jax.agents.sac import make_sac
from moto_jax.types import Agent


class Section(NamedTuple):
    """Numbers of `config.cql`, which comments each."""

    weight: float
    policy_actions: int
    uniform_actions: int


def make_cql(config: Any, *, action_size: int, image_size: int) -> Agent:
    """Builds CQL from a run's configuration: SAC's sections and `cql`.

    Raises:
      ValueError: for an image size that the networks cannot take.
    """
    section = read_section(config, "cql", Section)
    return make_sac(
        config,
        action_size=action_size,
        image_size=image_size,
        regulariser=make_conservative(*section, pushed_down=everywhere),
    )
