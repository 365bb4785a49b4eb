"""Behaviour cloning from pixels: the likelihood of the recorded actions, nothing else.

The Gaussian is cut to the box of actions, as every agent's here. All stored actions are
cloned (`config.bc.rows = "all"`), or those of the success-filtered set ("behaviour"),
which is MOTO's own cloning term (Eq. 9) alone. Online it goes on with what is stored,
its own episodes among it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import struct

from moto_jax.learning import losses, model_free
from moto_jax.learning.actor_critic import Transitions, check_transitions
from moto_jax.learning.learners import (
    Learnable,
    gradient_step,
    init_learnable,
    read_section,
)
from moto_jax.types import Agent, Metrics, Params


class Section(NamedTuple):
    """`config.bc`: rows maps transitions to the mask [N] of those that are cloned."""

    rows: Callable[[Transitions], jax.Array]


@struct.dataclass
class Learners:
    """What learns: `policy`, encoder and actor in one."""

    policy: Learnable


_ROWS = {
    "all": lambda transitions: transitions.recorded,
    "behaviour": lambda transitions: transitions.is_behaviour,
}


def make_bc(config: Any, *, action_size: int, image_size: int) -> Agent:
    """Builds behaviour cloning from a run's configuration.

    Args:
      config: the run's ConfigDict; sections `model_free` and `bc`.
      action_size: A.
      image_size: pixels.

    Raises:
      ValueError: for an image size or a choice that does not exist.
    """
    rows = read_section(config, "bc", Section, {"rows": _ROWS}).rows
    optimizer = model_free.make_optimizers(config)["actor"]

    def init_learners(params: dict[str, Params]) -> Learners:
        policy = {"encoder": params["encoder"], "actor": params["actor"]}
        return Learners(init_learnable(policy, optimizer))

    def step(
        networks: model_free.Networks,
        learners: Learners,
        transitions: Transitions,
        key: jax.Array,
    ) -> tuple[Learners, Metrics]:
        del key
        policy, metrics, norm = gradient_step(
            policy_loss,
            optimizer,
            learners.policy,
            networks=networks,
            rows=rows,
            transitions=transitions,
        )
        return Learners(policy), {**metrics, "actor/gradient_norm": norm}

    return model_free.make_model_free(
        config,
        action_size=action_size,
        image_size=image_size,
        init_learners=init_learners,
        step=step,
        acting_params=lambda learners: learners.policy.params,
    )


def policy_loss(
    params: Params,
    networks: model_free.Networks,
    rows: Callable[[Transitions], jax.Array],
    transitions: Transitions,
) -> tuple[jax.Array, Metrics]:
    """- mean log pi(a | s) over the cloned rows; the encoder learns too."""
    check_transitions(transitions)
    embedding = networks.encode(params, transitions.observation)
    policy = networks.policy(params["actor"], embedding)
    log_prob, mask = policy.log_prob(transitions.behaviour_action), rows(transitions)
    chex.assert_equal_shape([log_prob, mask, transitions.reward])
    loss = losses.likelihood_loss(log_prob, mask=mask)
    return loss, {"actor/behaviour_loss": loss, "actor/std": jnp.mean(policy.std)}
