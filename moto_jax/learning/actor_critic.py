"""Soft actor-critic on whatever an observation is, with a regulariser as an option.

Haarnoja et al., "Soft Actor-Critic Algorithms and Applications" (2018). SAC, CQL,
RLPD and Cal-QL use it on stacks of frames, LOMPO and COMBO on latent states; they
differ in the functions that they hand over. The policy is a normal cut to the actions'
box instead of a tanh-transformed one: recorded actions reach the box's ends, where the
latter's density is not finite.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from moto_jax.learning import losses
from moto_jax.learning.distributions import TruncatedNormal
from moto_jax.learning.learners import (
    Learnable,
    copy_params,
    gradient_step,
    init_learnable,
)
from moto_jax.learning.value_targets import Reduction, minimum_over_critics
from moto_jax.types import Array, Metrics, Params


@struct.dataclass
class Transitions:
    """N transitions, recorded or imagined.

    Attributes:
      observation: what `Functions.encode` takes, [N, ...].
      action: float32 [N, A].
      reward: float32 [N].
      continues: float32 [N], 0 where the decision process ended, 1 at a time limit.
      following: the next observation.
      recorded: bool [N], whether it is of the data.
      is_behaviour: bool [N], whether the action belongs to the success-filtered set.
      behaviour_action: float32 [N, A], what cloning imitates in place of `action`.
      return_to_go: float32 [N], the discounted rewards from here to the episode's end,
        as recorded; -inf where it is not known.
    """

    observation: jax.Array
    action: jax.Array
    reward: jax.Array
    continues: jax.Array
    following: jax.Array
    recorded: jax.Array
    is_behaviour: jax.Array
    behaviour_action: jax.Array
    return_to_go: jax.Array


def check_transitions(transitions: Transitions) -> None:
    """Asserts that each field is [N, ...] and of the kind that `Transitions` says."""
    actions = [transitions.action, transitions.behaviour_action]
    numbers = [transitions.reward, transitions.continues, transitions.return_to_go]
    flags = [transitions.recorded, transitions.is_behaviour]
    chex.assert_rank([*numbers, *flags], 1)
    chex.assert_rank(actions, 2)
    chex.assert_tree_shape_prefix(transitions, transitions.reward.shape)
    chex.assert_equal_shape(actions)
    chex.assert_equal_shape([transitions.observation, transitions.following])
    chex.assert_type([*numbers, *actions], float)
    chex.assert_type(flags, bool)


class Functions(NamedTuple):
    """Actor and critics as functions of their parameters.

    Attributes:
      encode: (critic parameters, observation [N, ...]) -> feature [N, F]; the critic's
        loss shapes it, the actor takes it as it is.
      policy: (actor parameters, feature [N, F]) -> distribution of actions [N, A].
      q_values: (critic parameters, feature [..., F], action [..., A]) -> [C, ...].
      target_value: reduces the slow critics [C, N] to a target's value [N].
      actor_value: reduces the critics [C, N] to what the actor is paid [N].
    """

    encode: Callable[[Params, Array], jax.Array]
    policy: Callable[[Params, jax.Array], TruncatedNormal]
    q_values: Callable[[Params, jax.Array, Array], jax.Array]
    target_value: Reduction = minimum_over_critics
    actor_value: Reduction = minimum_over_critics


class Constants(NamedTuple):
    """Numbers of `config.actor_critic`, which comments each.

    The last is not of that section: 0 leaves the entropy out of actor and targets,
    whatever its temperature is.
    """

    discount: float
    tau: float
    initial_temperature: float
    target_entropy_per_action: float
    backup_entropy: bool
    entropy_scale: float = 1.0


class Optimizers(NamedTuple):
    """One optimiser a learnable."""

    actor: optax.GradientTransformation
    critic: optax.GradientTransformation
    temperature: optax.GradientTransformation


@struct.dataclass
class ActorCritic:
    """What learns.

    Attributes:
      actor: policy.
      critic: C critics, with the encoder where there is one.
      target_critic: their slow average.
      temperature: logarithm of the entropy's weight, a scalar.
    """

    actor: Learnable
    critic: Learnable
    target_critic: Params
    temperature: Learnable


class CriticRegulariser(Protocol):
    """A term of the critics' loss beside the regression; "none" is one too."""

    def __call__(
        self,
        q_values: Callable[[jax.Array], jax.Array],
        data_value: jax.Array,
        policy: TruncatedNormal,
        transitions: Transitions,
        key: jax.Array,
    ) -> tuple[jax.Array | float, Metrics]:
        """Returns a scalar and its metrics.

        Args:
          q_values: actions [M, N, A] at the transitions' states -> [C, M, N].
          data_value: [C, N], of the transitions' own actions.
          policy: the actor's distributions [N] at these states, held fixed.
          transitions: N of them.
          key: one key.
        """
        ...


def no_regulariser(q_values, data_value, policy, transitions, key):
    """The critics' loss is the regression alone (SAC, RLPD, IQL, LOMPO)."""
    del q_values, data_value, policy, transitions, key
    return 0.0, {}


def init_actor_critic(
    actor_params: Params,
    critic_params: Params,
    optimizers: Optimizers,
    initial_temperature: float,
) -> ActorCritic:
    """Returns learners that have learnt nothing yet."""
    temperature = jnp.log(jnp.float32(initial_temperature))
    return ActorCritic(
        actor=init_learnable(actor_params, optimizers.actor),
        critic=init_learnable(critic_params, optimizers.critic),
        target_critic=copy_params(critic_params),
        temperature=init_learnable(temperature, optimizers.temperature),
    )


def bellman_targets(
    actor_params: Params,
    critic_params: Params,
    target_params: Params,
    temperature: jax.Array,
    functions: Functions,
    constants: Constants,
    transitions: Transitions,
    key: jax.Array,
) -> jax.Array:
    """Returns r + discount * (min_i Qbar_i(s', a') - temperature * log pi(a' | s')).

    [N]. `functions.target_value` may be another than the least. With `backup_entropy`
    off the entropy is left out.
    """
    chex.assert_rank(temperature, 0)
    policy = functions.policy(
        actor_params, functions.encode(critic_params, transitions.following)
    )
    action = policy.sample(key)
    chex.assert_equal_shape([action, transitions.action])
    feature = functions.encode(target_params, transitions.following)
    values = _all_values(functions, target_params, feature, action)
    value = functions.target_value(values, jax.random.fold_in(key, 1))
    chex.assert_equal_shape([value, transitions.reward, transitions.continues])
    if constants.backup_entropy:
        log_prob = policy.log_prob(action)
        chex.assert_equal_shape([log_prob, value])
        value = value - temperature * log_prob
    return transitions.reward + constants.discount * transitions.continues * value


def _all_values(
    functions: Functions, params: Params, feature: jax.Array, action: jax.Array
) -> jax.Array:
    """Returns Q_i(s, a) [C, N] of features [N, F] and actions [N, A]."""
    values = functions.q_values(params, feature, action)
    chex.assert_shape(values, (None, *feature.shape[:-1]))
    return values


def critic_loss(
    params: Params,
    functions: Functions,
    regulariser: CriticRegulariser,
    actor_params: Params,
    transitions: Transitions,
    target: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, Metrics]]:
    """Regression on Bellman targets [N] plus the regulariser; returns features too."""
    feature = functions.encode(params, transitions.observation)
    chex.assert_shape(feature, (*transitions.reward.shape, None))
    value = functions.q_values(params, feature, transitions.action)
    chex.assert_equal_shape([target, transitions.reward])
    regression = losses.regression_loss(value, target)

    def q_values(action: jax.Array) -> jax.Array:
        count = action.shape[0]
        repeated = jnp.broadcast_to(feature, (count, *feature.shape))
        return functions.q_values(params, repeated, action)

    policy = functions.policy(actor_params, jax.lax.stop_gradient(feature))
    extra, metrics = regulariser(q_values, value, policy, transitions, key)
    chex.assert_rank(extra, 0)
    metrics = {
        "critic/loss": regression,
        "critic/value": jnp.mean(value),
        "critic/target": jnp.mean(target),
        **metrics,
    }
    return regression + extra, (jax.lax.stop_gradient(feature), metrics)


def actor_loss(
    params: Params,
    functions: Functions,
    critic_params: Params,
    temperature: jax.Array,
    feature: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, Metrics]]:
    """Mean of temperature * log pi(a | s) - min_i Q_i(s, a).

    `functions.actor_value` may be another than the least. Returns the policy's entropy,
    nats, too.
    """
    policy = functions.policy(params, feature)
    action = policy.sample(key)
    chex.assert_shape(action, (*feature.shape[:-1], None))
    values = _all_values(functions, critic_params, feature, action)
    value = functions.actor_value(values, jax.random.fold_in(key, 1))
    log_prob = policy.log_prob(action)
    chex.assert_equal_shape([log_prob, value])
    chex.assert_rank(temperature, 0)
    loss = jnp.mean(temperature * log_prob - value)
    entropy = -jnp.mean(log_prob)
    metrics = {
        "actor/loss": loss,
        "actor/entropy": entropy,
        "actor/std": jnp.mean(policy.std),
    }
    return loss, (entropy, metrics)


def actor_critic_step(
    learners: ActorCritic,
    functions: Functions,
    optimizers: Optimizers,
    constants: Constants,
    regulariser: CriticRegulariser,
    transitions: Transitions,
    key: jax.Array,
) -> tuple[ActorCritic, Metrics]:
    """One gradient step of critics, actor and temperature, and the target's share.

    The actor learns on the features that the critics' step computed, and does not
    shape them.
    """
    check_transitions(transitions)
    target_key, regulariser_key, actor_key = jax.random.split(key, 3)
    temperature = constants.entropy_scale * jnp.exp(learners.temperature.params)
    target = bellman_targets(
        learners.actor.params,
        learners.critic.params,
        learners.target_critic,
        temperature,
        functions=functions,
        constants=constants,
        transitions=transitions,
        key=target_key,
    )
    critic, (feature, critic_metrics), critic_norm = gradient_step(
        critic_loss,
        optimizers.critic,
        learners.critic,
        functions=functions,
        regulariser=regulariser,
        actor_params=learners.actor.params,
        transitions=transitions,
        target=target,
        key=regulariser_key,
    )
    actor, (entropy, actor_metrics), actor_norm = gradient_step(
        actor_loss,
        optimizers.actor,
        learners.actor,
        functions=functions,
        critic_params=critic.params,
        temperature=temperature,
        feature=feature,
        key=actor_key,
    )
    log_temperature, _, temperature_norm = gradient_step(
        lambda params, *rest: (losses.temperature_loss(params, *rest), None),
        optimizers.temperature,
        learners.temperature,
        entropy,
        constants.target_entropy_per_action * transitions.action.shape[-1],
    )
    metrics = {
        **critic_metrics,
        **actor_metrics,
        "actor/temperature": temperature,
        "critic/gradient_norm": critic_norm,
        "actor/gradient_norm": actor_norm,
        "actor/temperature_gradient_norm": temperature_norm,
    }
    slow = optax.incremental_update(
        critic.params, learners.target_critic, constants.tau
    )
    return ActorCritic(actor, critic, slow, log_temperature), metrics
