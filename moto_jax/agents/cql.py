"""CQL: SAC whose critics are pushed down off the data and up on it.

Kumar et al., "Conservative Q-Learning for Offline Reinforcement Learning" (2020),
CQL(H), Eq. 4, with the importance correction of its appendix F over actions drawn from
the policy and uniformly. Differs from its authors' code: no actions are drawn from the
policy at the next states; the weight is fixed (no Lagrange multiplier). Its targets are
without the entropy (`cql.backup_entropy`), as its authors' for such tasks. With weight
0 and the entropy in the targets it is SAC.
"""

from collections.abc import Callable
from typing import Any

from moto_jax.agents.sac import make_sac
from moto_jax.learning import actor_critic
from moto_jax.learning.conservatism import (
    Conservatism,
    everywhere,
    make_conservative,
    unbounded,
)
from moto_jax.learning.learners import read_section
from moto_jax.types import Agent, Array


def make_cql(
    config: Any,
    *,
    action_size: int,
    image_size: int,
    lower_bound: Callable[[actor_critic.Transitions], Array] = unbounded,
    online_share: float | None = None,
) -> Agent:
    """Builds CQL from a run's configuration: SAC's sections and `cql`.

    Args:
      config: the run's ConfigDict.
      action_size: A.
      image_size: pixels.
      lower_bound: of the policy's values, see `make_conservative`.
      online_share: see `types.Agent`.

    Raises:
      ValueError: for an image size that the networks cannot take.
    """
    numbers = read_section(config, "cql", Conservatism)
    constants = read_section(config, "actor_critic", actor_critic.Constants)
    return make_sac(
        config,
        action_size=action_size,
        image_size=image_size,
        constants=constants._replace(backup_entropy=numbers.backup_entropy),
        regulariser=make_conservative(numbers, everywhere, lower_bound),
        online_share=online_share,
    )
