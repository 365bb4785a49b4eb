"""COMBO: one model, and critics pushed down on what it imagines, up on the data.

Yu et al., "COMBO: Conservative Offline Model-Based Policy Optimization" (2021), in the
latent space of the world model, on LOMPO's buffers and phases, without its penalty. The
term of Eq. 2 is CQL's gap, with actions drawn from the policy and uniformly at imagined
states, against the recorded actions; gradients reach both sides of it. Online as LOMPO:
stored latents are not encoded again.
"""

from typing import Any

from moto_jax.learning import actor_critic
from moto_jax.learning.conservatism import (
    Conservatism,
    make_conservative,
    where_imagined,
)
from moto_jax.learning.imagination import no_uncertainty
from moto_jax.learning.latent_actor_critic import Pessimism, make_latent_actor_critic
from moto_jax.learning.learners import read_section
from moto_jax.types import Agent


def make_combo(config: Any, *, action_size: int, image_size: int) -> Agent:
    """Builds COMBO from a run's configuration; section `combo` beside the shared ones.

    Raises:
      ValueError: for an image size that the networks cannot take.
    """
    numbers = read_section(config, "combo", Conservatism)
    constants = read_section(config, "actor_critic", actor_critic.Constants)
    return make_latent_actor_critic(
        config,
        action_size=action_size,
        image_size=image_size,
        members=1,
        pessimism=Pessimism(
            uncertainty=no_uncertainty,
            penalty_scale=0.0,
            regulariser=make_conservative(numbers, where_imagined),
        ),
        constants=constants._replace(backup_entropy=numbers.backup_entropy),
    )
