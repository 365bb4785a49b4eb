"""SAC from pixels: soft actor-critic on stacks of frames, offline data or not.

Haarnoja et al., "Soft Actor-Critic Algorithms and Applications" (2018), with the
encoder and random shifts of DrQ (Yarats et al., 2021). Twin critics, learned
temperature, slow targets. Differs from DrQ: the policy is a normal cut to the box (see
`actor_critic`), one shift an observation instead of two averaged ones, ELU. Time limits
and ends of demonstrations bootstrap. Both phases do the same update.
"""

from collections.abc import Mapping
from typing import Any

import jax

from moto_jax.learning import actor_critic, model_free
from moto_jax.learning.learners import read_section
from moto_jax.learning.value_targets import Reduction
from moto_jax.types import Agent, Metrics, Params


def make_sac(
    config: Any,
    *,
    action_size: int,
    image_size: int,
    section: model_free.Section | None = None,
    constants: actor_critic.Constants | None = None,
    regulariser: actor_critic.CriticRegulariser = actor_critic.no_regulariser,
    reductions: Mapping[str, Reduction] | None = None,
    online_share: float | None = None,
) -> Agent:
    """Builds SAC from a run's configuration.

    Args:
      config: the run's ConfigDict; sections `model_free` and `actor_critic`.
      action_size: A.
      image_size: pixels.
      section: what takes the place of `config.model_free`.
      constants: what takes the place of `config.actor_critic`.
      regulariser: added to the critics' loss.
      reductions: "target_value" and "actor_value" of `actor_critic.Functions`, where
        they are not the least critic.
      online_share: see `types.Agent`.

    Raises:
      ValueError: for an image size that the networks cannot take.
    """
    if constants is None:
        constants = read_section(config, "actor_critic", actor_critic.Constants)
    optimizers = actor_critic.Optimizers(**model_free.make_optimizers(config))

    def init_learners(params: dict[str, Params]) -> actor_critic.ActorCritic:
        return actor_critic.init_actor_critic(
            params["actor"],
            {"encoder": params["encoder"], "critic": params["critic"]},
            optimizers,
            constants.initial_temperature,
        )

    def step(
        networks: model_free.Networks,
        learners: actor_critic.ActorCritic,
        transitions: actor_critic.Transitions,
        key: jax.Array,
    ) -> tuple[actor_critic.ActorCritic, Metrics]:
        return actor_critic.actor_critic_step(
            learners,
            functions=networks.functions._replace(**(reductions or {})),
            optimizers=optimizers,
            constants=constants,
            regulariser=regulariser,
            transitions=transitions,
            key=key,
        )

    return model_free.make_model_free(
        config,
        action_size=action_size,
        image_size=image_size,
        init_learners=init_learners,
        step=step,
        section=section,
        online_share=online_share,
    )
