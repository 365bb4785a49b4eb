"""MOTO's three losses and the critics' targets, over named networks and constants."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from moto_jax.learning import losses
from moto_jax.learning.distributions import TruncatedNormal
from moto_jax.learning.imagination import Imagined, imagine
from moto_jax.learning.networks.heads import Actor, CriticEnsemble
from moto_jax.learning.networks.rssm import LatentState
from moto_jax.learning.value_targets import (
    Reduction,
    lambda_mixture,
    lambda_returns,
    minimum_over_critics,
    one_step_targets,
)
from moto_jax.learning.world_model import WorldModel, world_model_loss
from moto_jax.types import Array, Batch, Metrics, Params

# An index of the rows [T, ...] that rollouts start from, T' of them.
Rows = jax.Array | slice


class Networks(NamedTuple):
    """The three function approximators."""

    model: WorldModel
    actor: Actor
    critic: CriticEnsemble

    def policy(self, params: Params) -> Callable[[jax.Array], TruncatedNormal]:
        """Returns features [..., F] -> action distribution [..., A]."""
        return partial(self.actor.apply, {"params": params})  # pyright: ignore

    def q_values(self, params: Params, feature: Array, action: Array) -> jax.Array:
        """Returns Q_i [C, ...] of features [..., F] and actions [..., A]."""
        chex.assert_equal_shape_prefix([feature, action], feature.ndim - 1)
        value: Any = self.critic.apply({"params": params}, feature, action)
        chex.assert_shape(value, (None, *feature.shape[:-1]))
        return value


class Hyperparameters(NamedTuple):
    """What the update needs besides networks; the config comments each.

    The functions: `disagreement` maps logits [E, N, S, K] to u [N]; `target_reduction`
    maps target critics [C, ...] to [...]; `value_divisor` maps the running range of
    returns to what the value term is divided by; `row_weights` maps (H, discount) to
    the weights of imagined rows.
    """

    horizon: int
    discount: float
    lambda_: float
    alpha: float
    beta: float
    value_scale: float
    entropy_scale: float
    behaviour_model_scale: float
    kl_scale: float
    kl_balance: float
    free_nats: float
    target_period: int
    return_range_decay: float
    disagreement: Callable[[jax.Array], jax.Array]
    target_reduction: Reduction
    value_divisor: Callable[[jax.Array], jax.Array | float]
    row_weights: Callable[[int, float], jax.Array | float]
    # Checkpoints from before these choices lack them; so they change no number.
    rematerialise: bool = False
    starts_share: float = 1.0
    decoded_share: float = 1.0
    critic_layers: int = -1
    critic_learning_rate: float = 0.0
    value_final_share: float = 1.0
    value_decay_begin: int = 0
    value_decay_steps: int = 0


class Recorded(NamedTuple):
    """What was recorded, and what the model makes of it.

    Attributes:
      batch: sequences [T, B, ...].
      posterior: states [T, B] of its rows.
      starts: an index of the T' rows that rollouts start from.
    """

    batch: Batch
    posterior: LatentState
    starts: Rows


class Losses(NamedTuple):
    """The functions below, over networks and numbers.

    Attributes:
      model: (params, *, actor, batch, key) -> (loss, (posterior, metrics)).
      actor: (params, *, model, critic, recorded, return_range, value_share, key) ->
        (loss, (dream, mixture, metrics)).
      critic_targets: (target params, *, model, dream, recorded, key) -> targets.
      critic: (params, *, dream, recorded, targets) -> (loss, metrics).
    """

    model: Callable[..., tuple[jax.Array, tuple[LatentState, Metrics]]]
    actor: Callable[..., tuple[jax.Array, tuple[Imagined, jax.Array, Metrics]]]
    critic_targets: Callable[..., tuple[jax.Array, jax.Array]]
    critic: Callable[..., tuple[jax.Array, Metrics]]


def make_losses(networks: Networks, hyper: Hyperparameters) -> Losses:
    """Returns the losses of these networks with these numbers."""
    return Losses(
        model=partial(model_loss, networks, hyper),
        actor=partial(actor_loss, networks, hyper),
        critic_targets=partial(critic_targets, networks, hyper),
        critic=partial(critic_loss, networks, hyper),
    )


def model_loss(
    networks: Networks,
    hyper: Hyperparameters,
    params: Params,
    *,
    actor: Params,
    batch: Batch,
    key: jax.Array,
) -> tuple[jax.Array, tuple[LatentState, Metrics]]:
    """Eq. 1, plus the behaviour term's gradient into the representation.

    The paper does not say whether Eq. 9 shapes the representation; here it does with
    weight `behaviour_model_scale`, the actor held fixed.
    """
    loss, (posterior, metrics) = world_model_loss(
        params,
        networks.model,
        batch,
        key,
        kl_scale=hyper.kl_scale,
        kl_balance=hyper.kl_balance,
        free_nats=hyper.free_nats,
        decoded_share=hyper.decoded_share,
    )
    cloning = losses.behaviour_loss(
        networks.policy(actor),
        posterior.feature,
        batch.behaviour_action,
        batch.is_behaviour,
    )
    return loss + hyper.behaviour_model_scale * cloning, (posterior, metrics)


def penalised_reward(
    networks: Networks, hyper: Hyperparameters, model: Params, dream: Imagined
) -> jax.Array:
    """Returns r^{t+1} = r_theta(s^{t+1}) - alpha u(s^t, a^t), [H, T, B] (Eq. 3)."""
    reward = networks.model.reward(model, dream.feature[1:])
    chex.assert_equal_shape([reward, dream.uncertainty])
    return reward - hyper.alpha * dream.uncertainty


def actor_loss(
    networks: Networks,
    hyper: Hyperparameters,
    params: Params,
    *,
    model: Params,
    critic: Params,
    recorded: Recorded,
    return_range: jax.Array,
    value_share: jax.Array | float = 1.0,
    key: jax.Array,
) -> tuple[jax.Array, tuple[Imagined, jax.Array, Metrics]]:
    """Eq. 10: value expansion in the model (Eq. 5) plus the behaviour prior (Eq. 9).

    The gradient reaches the actor through its sampled actions, the dynamics, the reward
    and the penalty. The value term weighs `value_share` of `value_scale`. Returns also
    the rollout from the T' rows of `starts` and its lambda-mixture [H + 1, T', B].
    """
    batch, posterior, starts = recorded
    policy = networks.policy(params)
    dream = imagine(
        networks.model,
        model,
        lambda feature, key: policy(feature).sample(key),
        uncertainty=lambda logits, following: hyper.disagreement(logits),
        starts=jax.tree.map(lambda leaf: leaf[starts], posterior),
        horizon=hyper.horizon,
        key=key,
        rematerialise=hyper.rematerialise,
    )
    reward = penalised_reward(networks, hyper, model, dream)
    value = minimum_over_critics(
        networks.q_values(critic, dream.feature, dream.action), key
    )
    returns = lambda_returns(reward, value, hyper.discount, hyper.lambda_)
    mixture = lambda_mixture(returns, value, hyper.lambda_)
    weights = hyper.row_weights(hyper.horizon, hyper.discount)
    value_loss = losses.model_value_loss(mixture, weights)
    divisor = hyper.value_divisor(return_range)
    chex.assert_rank([return_range, divisor, value_share], 0)
    value_loss = value_loss / divisor
    cloning = losses.behaviour_loss(
        policy, posterior.feature, batch.behaviour_action, batch.is_behaviour
    )
    imagined = policy(jax.lax.stop_gradient(dream.feature[:-1]))
    entropy = imagined.entropy()
    chex.assert_equal_shape([entropy, dream.uncertainty])
    entropy = jnp.mean(entropy)
    loss = (
        hyper.value_scale * value_share * value_loss
        + hyper.beta * cloning
        - hyper.entropy_scale * entropy
    )
    metrics = {
        "actor/loss": loss,
        "actor/behaviour_loss": cloning,
        "actor/entropy": entropy,
        "actor/std": jnp.mean(imagined.std),
        "dream/penalised_reward": jnp.mean(reward),
        "dream/uncertainty": jnp.mean(dream.uncertainty),
        "dream/value": jnp.mean(value),
    }
    return loss, (dream, mixture, metrics)


def critic_targets(
    networks: Networks,
    hyper: Hyperparameters,
    params: Params,
    *,
    model: Params,
    dream: Imagined,
    recorded: Recorded,
    key: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Returns imagined rows' Gbar^t [H, T', B] and recorded rows' targets [T', B].

    The rollout that starts at row j + 1 gives row j's target (Eq. 7), which stands
    where the rollout does; its recorded reward carries no penalty.
    """
    batch, _, starts = recorded
    value = hyper.target_reduction(
        networks.q_values(params, dream.feature, dream.action), key
    )
    reward = penalised_reward(networks, hyper, model, dream)
    returns = lambda_returns(reward, value, hyper.discount, hyper.lambda_)
    start = lambda_mixture(returns[0], value[0], hyper.lambda_)
    continues = 1.0 - jnp.asarray(batch.is_terminal)[starts].astype(jnp.float32)
    one_step = one_step_targets(
        jnp.asarray(batch.reward)[starts], hyper.discount * continues, start
    )
    return returns[:-1], one_step


def critic_loss(
    networks: Networks,
    hyper: Hyperparameters,
    params: Params,
    *,
    dream: Imagined,
    recorded: Recorded,
    targets: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, Metrics]:
    """Eq. 8: regression on imagined rows (Eq. 6) and on recorded rows (Eq. 7).

    The recorded rows are those before `starts`, whose rollouts their targets are of.
    """
    batch, posterior, starts = recorded
    chex.assert_tree_shape_prefix(posterior, batch.reward.shape)
    imagined_target, recorded_target = targets
    before = jnp.roll(posterior.feature, 1, axis=0)
    has_before = (~jnp.asarray(batch.is_first)).at[0].set(False)
    imagined_loss = losses.imagined_critic_loss(
        networks.q_values(params, dream.feature[:-1], dream.action[:-1]),
        imagined_target,
        hyper.row_weights(hyper.horizon, hyper.discount),
    )
    recorded_loss = losses.recorded_critic_loss(
        networks.q_values(
            params, before[starts], jnp.asarray(batch.prev_action)[starts]
        ),
        recorded_target,
        has_before[starts],
    )
    metrics = {
        "critic/imagined_loss": imagined_loss,
        "critic/recorded_loss": recorded_loss,
        "critic/target": jnp.mean(imagined_target),
    }
    return imagined_loss + recorded_loss, metrics
