"""LOMPO: an ensemble model first, then an actor-critic on penalised latent rollouts.

Rafailov et al., "Offline Reinforcement Learning from Images with Latent Space Models"
(2021). The reward of an imagined transition is r - lambda * the standard deviation over
members of the log-density of the latent that was drawn (its Eq. 7 and authors' code).
Online it goes on as the MOTO paper describes: the model keeps learning while latents
that are already stored are not encoded again (see `latent_actor_critic`). As in its
authors' code the actor is paid by the least critic alone, without an entropy term
(`lompo.entropy_scale`): the policy's standard deviation falls to its floor, which is
the normal noise that it explores with. Differs from it: discrete latents as every
agent's here.
"""

from typing import Any, NamedTuple

from moto_jax.learning import actor_critic
from moto_jax.learning.disagreement import log_density_deviation
from moto_jax.learning.latent_actor_critic import Pessimism, make_latent_actor_critic
from moto_jax.learning.learners import read_section
from moto_jax.types import Agent


class Section(NamedTuple):
    """Numbers of `config.lompo`, which comments each."""

    penalty_scale: float
    entropy_scale: float


def make_lompo(config: Any, *, action_size: int, image_size: int) -> Agent:
    """Builds LOMPO from a run's configuration; section `lompo` beside the shared ones.

    Raises:
      ValueError: for an image size that the networks cannot take.
    """
    section = read_section(config, "lompo", Section)
    constants = read_section(config, "actor_critic", actor_critic.Constants)
    return make_latent_actor_critic(
        config,
        action_size=action_size,
        image_size=image_size,
        members=None,
        pessimism=Pessimism(
            uncertainty=log_density_deviation,
            penalty_scale=section.penalty_scale,
            regulariser=actor_critic.no_regulariser,
        ),
        constants=constants._replace(entropy_scale=section.entropy_scale),
    )
