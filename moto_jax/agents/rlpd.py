"""RLPD from pixels: SAC whose batches are half demonstrations, on many critics.

Ball et al., "Efficient Online Reinforcement Learning with Offline Data" (2023): half of
each batch from the data, half from the agent's own episodes once there are any; layers
are normalised, so that values stay bounded where there are no data; an ensemble of
critics, of which a target is the least of a few drawn ones and the actor is paid the
mean. Differs from its authors' code: it learns from the demonstrations alone first, as
every system here does; as many gradient steps as the others; the actor's layers are
normalised as well.
"""

from typing import Any, NamedTuple

from moto_jax.agents.sac import make_sac
from moto_jax.learning import model_free
from moto_jax.learning.learners import read_section
from moto_jax.learning.value_targets import least_of_random_critics, mean_over_critics
from moto_jax.types import Agent

# Of each batch, from its own episodes: what the authors call symmetric sampling.
ONLINE_SHARE = 0.5


class Section(NamedTuple):
    """Numbers of `config.rlpd`, which comments each."""

    critics: int
    target_critics: int


def make_rlpd(config: Any, *, action_size: int, image_size: int) -> Agent:
    """Builds RLPD from a run's configuration: SAC's sections and `rlpd`.

    Raises:
      ValueError: for an image size that the networks cannot take, or more critics in a
        target than there are.
    """
    critics, target_critics = read_section(config, "rlpd", Section)
    if target_critics > critics:
        raise ValueError(
            f"config.rlpd.target_critics is {target_critics}: there are {critics} "
            "critics (config.rlpd.critics), use at most as many"
        )
    section = read_section(config, "model_free", model_free.Section)
    return make_sac(
        config,
        action_size=action_size,
        image_size=image_size,
        section=section._replace(critics=critics, layer_norm=True),
        reductions={
            "target_value": least_of_random_critics(target_critics),
            "actor_value": mean_over_critics,
        },
        online_share=ONLINE_SHARE,
    )
