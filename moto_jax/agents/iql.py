"""IQL from pixels: values by expectiles of the data's, policy by weighted likelihood.

Kostrikov et al., "Offline Reinforcement Learning with Implicit Q-Learning" (2021): V by
expectile regression (Eq. 5), Q by one-step targets (Eq. 6), the policy by
advantage-weighted likelihood (Eq. 7). No action outside the data is ever valued.
As in the public version for pixels, Q, V and the policy each train an encoder of their
own. Differs from it: the policy is a normal cut to the box of actions. Both phases do
the same update.
"""

from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from moto_jax.learning import actor_critic, losses, model_free
from moto_jax.learning.learners import (
    Learnable,
    copy_params,
    gradient_step,
    init_learnable,
    read_section,
)
from moto_jax.types import Agent, Array, Metrics, Params


class Section(NamedTuple):
    """Numbers of `config.iql`, which comments each."""

    expectile: float
    advantage_scale: float
    max_weight: float


@struct.dataclass
class Learners:
    """What learns.

    Attributes:
      actor: encoder and policy.
      critic: encoder and C critics.
      target_critic: their slow average.
      value: encoder and V(s).
    """

    actor: Learnable
    critic: Learnable
    target_critic: Params
    value: Learnable


def make_iql(config: Any, *, action_size: int, image_size: int) -> Agent:
    """Builds IQL from a run's configuration.

    Args:
      config: the run's ConfigDict; sections `model_free`, `actor_critic` (discount and
        target rate) and `iql`.
      action_size: A.
      image_size: pixels.

    Raises:
      ValueError: for an image size that the networks cannot take.
    """
    section = read_section(config, "iql", Section)
    constants = read_section(config, "actor_critic", actor_critic.Constants)
    optimizers = model_free.make_optimizers(config)

    def init_learners(params: dict[str, Params]) -> Learners:
        # They begin as equals.
        actor, critic, value = (
            {"encoder": copy_params(params["encoder"]), head: params[head]}
            for head in ("actor", "critic", "value")
        )
        return Learners(
            actor=init_learnable(actor, optimizers["actor"]),
            critic=init_learnable(critic, optimizers["critic"]),
            target_critic=copy_params(critic),
            value=init_learnable(value, optimizers["critic"]),
        )

    return model_free.make_model_free(
        config,
        action_size=action_size,
        image_size=image_size,
        init_learners=init_learners,
        step=partial(iql_step, optimizers, constants, section),
        acting_params=lambda learners: learners.actor.params,
    )


def iql_step(
    optimizers: dict[str, optax.GradientTransformation],
    constants: actor_critic.Constants,
    section: Section,
    networks: model_free.Networks,
    learners: Learners,
    transitions: actor_critic.Transitions,
    key: jax.Array,
) -> tuple[Learners, Metrics]:
    """One gradient step of critics (Eq. 6), value (Eq. 5) and policy (Eq. 7).

    Critics and value learn from each other as they were before the step.
    """
    actor_critic.check_transitions(transitions)
    critic, (_, critic_metrics), critic_norm = gradient_step(
        actor_critic.critic_loss,
        optimizers["critic"],
        learners.critic,
        functions=networks.functions,
        regulariser=actor_critic.no_regulariser,
        actor_params=learners.actor.params["actor"],
        transitions=transitions,
        target=critic_targets(learners, networks, constants.discount, transitions),
        key=key,
    )
    slow_feature = networks.encode(learners.target_critic, transitions.observation)
    data_value = networks.q_values(
        learners.target_critic, slow_feature, transitions.action
    )
    value, advantage, value_norm = gradient_step(
        value_loss,
        optimizers["critic"],
        learners.value,
        networks=networks,
        observation=transitions.observation,
        data_value=jnp.min(data_value, axis=0),
        expectile=section.expectile,
    )
    weights = losses.advantage_weights(
        advantage, section.advantage_scale, section.max_weight
    )
    actor, actor_metrics, actor_norm = gradient_step(
        actor_loss,
        optimizers["actor"],
        learners.actor,
        networks=networks,
        observation=transitions.observation,
        action=transitions.behaviour_action,
        weights=weights,
    )
    slow = optax.incremental_update(
        critic.params, learners.target_critic, constants.tau
    )
    metrics = {
        **critic_metrics,
        **actor_metrics,
        "actor/weight": jnp.mean(weights),
        "critic/advantage": jnp.mean(advantage),
        "critic/gradient_norm": critic_norm,
        "critic/value_gradient_norm": value_norm,
        "actor/gradient_norm": actor_norm,
    }
    return Learners(actor, critic, slow, value), metrics


def critic_targets(
    learners: Learners,
    networks: model_free.Networks,
    discount: float,
    transitions: actor_critic.Transitions,
) -> jax.Array:
    """Returns r + discount * V(s') [N], where the process goes on (Eq. 6)."""
    value = _state_value(networks, learners.value.params, transitions.following)
    chex.assert_equal_shape([value, transitions.reward, transitions.continues])
    return transitions.reward + discount * transitions.continues * value


def _state_value(
    networks: model_free.Networks, params: Params, observation: Array
) -> jax.Array:
    """Returns V [N] of observations, through an encoder of its own."""
    return networks.state_value(params["value"], networks.encode(params, observation))


def value_loss(
    params: Params,
    networks: model_free.Networks,
    observation: Array,
    data_value: jax.Array,
    expectile: float,
) -> tuple[jax.Array, jax.Array]:
    """Eq. 5 on Qbar(s, a) [N] of the data; returns the advantages [N] too."""
    value = _state_value(networks, params, observation)
    chex.assert_equal_shape([value, data_value])
    advantage = data_value - value
    return losses.expectile_loss(advantage, expectile), advantage


def actor_loss(
    params: Params,
    networks: model_free.Networks,
    observation: Array,
    action: jax.Array,
    weights: jax.Array | float,
) -> tuple[jax.Array, Metrics]:
    """Eq. 7: - mean of weights [N] * log pi(a | s)."""
    feature = networks.encode(params, observation)
    policy = networks.policy(params["actor"], feature)
    log_prob = policy.log_prob(action)
    chex.assert_shape(log_prob, feature.shape[:-1])
    loss = losses.likelihood_loss(log_prob, weights)
    return loss, {"actor/loss": loss, "actor/std": jnp.mean(policy.std)}
