"""DreamerV2: a world model, a state-value critic and an actor learnt inside it.

Hafner et al., "Mastering Atari with Discrete World Models" (2021), with continuous
actions: the actor follows the gradient of the lambda-returns through the dynamics, with
an entropy bonus; rows of a rollout weigh what is left of the discount. No disagreement,
no behaviour cloning, no critic on recorded rows: what the model has not seen, it
believes. One prior head, whatever `config.world_model.members` says. Both phases do the
same update. Differs from its authors' code: no head for the discount (nothing ends in
the kitchen), and the actor is a normal cut to the box as theirs is, but with the
implicit gradient.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from moto_jax.learning import losses, model_based
from moto_jax.learning.imagination import Imagined, imagine, no_uncertainty
from moto_jax.learning.learners import (
    Learnable,
    copy_params,
    gradient_step,
    init_learnable,
    init_state,
    make_update,
    named_keys,
    read_section,
)
from moto_jax.learning.networks.heads import MLP
from moto_jax.learning.networks.rssm import LatentState
from moto_jax.learning.value_targets import lambda_returns
from moto_jax.learning.world_model import WorldModel
from moto_jax.types import Agent, Batch, Metrics, Params


class Section(NamedTuple):
    """Numbers of `config.dreamer_v2`, which comments each."""

    horizon: int
    discount: float
    lambda_: float
    entropy_scale: float
    kl_scale: float
    kl_balance: float
    free_nats: float
    target_period: int


class Networks(NamedTuple):
    """The function approximators.

    Attributes:
      model: the world model.
      policy: actor parameters -> (features [..., F] -> distribution of actions).
      value: (parameters, feature [..., F]) -> v(s) [...].
    """

    model: WorldModel
    policy: model_based.FeaturePolicy
    value: Callable[[Params, jax.Array], jax.Array]


class Optimizers(NamedTuple):
    """One optimiser a learnable."""

    model: optax.GradientTransformation
    actor: optax.GradientTransformation
    critic: optax.GradientTransformation


@struct.dataclass
class Learners:
    """What learns.

    Attributes:
      model: world model.
      actor: policy.
      critic: v(s).
      target_critic: its parameters, copied every so many updates.
    """

    model: Learnable
    actor: Learnable
    critic: Learnable
    target_critic: Params


def make_dreamer_v2(config: Any, *, action_size: int, image_size: int) -> Agent:
    """Builds DreamerV2 from a run's configuration.

    Args:
      config: the run's ConfigDict; sections `world_model`, `actor`, `critic` (sizes),
        `optimizer`, `dreamer_v2`.
      action_size: A.
      image_size: pixels.

    Raises:
      ValueError: for an image size that the networks cannot take.
    """
    sizes = {"action_size": action_size, "image_size": image_size}
    model = model_based.make_model(config, members=1, **sizes)
    actor, policy = model_based.make_actor(config, action_size)
    critic_sizes = {
        key: config.critic[key] for key in ("layers", "units", "layer_norm")
    }
    critic = MLP(out=1, dtype=jnp.dtype(config.compute_dtype), **critic_sizes)

    def value(params: Params, feature: jax.Array) -> jax.Array:
        return critic.apply({"params": params}, feature)[..., 0]  # pyright: ignore

    networks = Networks(model, policy, value)
    optimizers = Optimizers(*model_based.make_optimizers(config, *Optimizers._fields))

    def acting_params(learners: Learners) -> Params:
        return {"model": learners.model.params, "actor": learners.actor.params}

    def init(key: jax.Array) -> Any:
        key, model_key, actor_key, critic_key = jax.random.split(key, 4)
        feature = model.initial((1,)).feature
        critic_params = critic.init(critic_key, feature)["params"]
        learners = Learners(
            model=init_learnable(model.init(model_key), optimizers.model),
            actor=init_learnable(
                actor.init(actor_key, feature)["params"], optimizers.actor
            ),
            critic=init_learnable(critic_params, optimizers.critic),
            target_critic=copy_params(critic_params),
        )
        return init_state(key, learners, acting_params)

    step = make_step(networks, optimizers, read_section(config, "dreamer_v2", Section))
    update = make_update(step, acting_params, config.acting_average)
    return Agent(
        init=init,
        updates={"offline": update, "online": update},
        policies=model_based.make_policies(
            model, policy, action_size, config.training.collect_noise_std
        ),
        acting_params=lambda state: state.acting,
        batch_shape=(config.replay.sequence_length, config.replay.batch_size),
        model=model,
    )


def make_step(networks: Networks, optimizers: Optimizers, section: Section) -> Any:
    """Returns one gradient step of model, actor and critic."""

    def step(
        learners: Learners, batch: Batch, key: jax.Array, number: jax.Array
    ) -> tuple[Learners, Metrics]:
        keys = named_keys(key, number, "model", "dream")
        model, posterior, model_metrics = model_based.fit_model(
            learners.model,
            networks.model,
            optimizers.model,
            scales=section,
            batch=batch,
            key=keys["model"],
        )
        actor, (dream, returns, actor_metrics), actor_norm = gradient_step(
            partial(actor_loss, networks, section),
            optimizers.actor,
            learners.actor,
            model=model.params,
            target_critic=learners.target_critic,
            posterior=posterior,
            key=keys["dream"],
        )
        critic, critic_metrics, critic_norm = gradient_step(
            partial(critic_loss, networks, section),
            optimizers.critic,
            learners.critic,
            dream=dream,
            target=returns,
        )
        new = Learners(
            model=model,
            actor=actor,
            critic=critic,
            target_critic=optax.periodic_update(
                critic.params, learners.target_critic, number + 1, section.target_period
            ),
        )
        metrics = {
            **model_metrics,
            **actor_metrics,
            **critic_metrics,
            "actor/gradient_norm": actor_norm,
            "critic/gradient_norm": critic_norm,
        }
        return new, metrics

    return step


def actor_loss(
    networks: Networks,
    section: Section,
    params: Params,
    *,
    model: Params,
    target_critic: Params,
    posterior: LatentState,
    key: jax.Array,
) -> tuple[jax.Array, tuple[Imagined, jax.Array, Metrics]]:
    """- mean over t < H of the discounted lambda-returns G^t, less the entropy bonus.

    Values are the target critic's (its Eq. 4 to 6). Returns also the rollout and G^0 ..
    G^{H-1}, [H, T, B].
    """
    policy = networks.policy(params)
    dream = imagine(
        networks.model,
        model,
        lambda feature, key: policy(feature).sample(key),
        uncertainty=no_uncertainty,
        starts=posterior,
        horizon=section.horizon,
        key=key,
    )
    reward = networks.model.reward(model, dream.feature[1:])
    chex.assert_equal_shape([reward, dream.uncertainty])
    value = networks.value(target_critic, dream.feature)
    returns = lambda_returns(reward, value, section.discount, section.lambda_)
    weights = losses.cumulative_discounts(section.horizon, section.discount)
    imagined = policy(jax.lax.stop_gradient(dream.feature[:-1]))
    # [H, T, B] before it is weighed and reduced.
    entropy = imagined.entropy()
    chex.assert_equal_shape([entropy, reward])
    bonus = section.entropy_scale * losses.model_value_loss(
        jnp.concatenate([entropy, entropy[-1:]]), weights
    )
    loss = losses.model_value_loss(returns, weights) + bonus
    metrics = {
        "actor/loss": loss,
        "actor/entropy": jnp.mean(entropy),
        "actor/std": jnp.mean(imagined.std),
        "dream/reward": jnp.mean(reward),
        "dream/value": jnp.mean(value),
    }
    return loss, (dream, returns[:-1], metrics)


def critic_loss(
    networks: Networks,
    section: Section,
    params: Params,
    *,
    dream: Imagined,
    target: jax.Array,
) -> tuple[jax.Array, Metrics]:
    """Regression of v(s^t) on G^t [H, T, B], as heavy as in the actor's loss."""
    loss = losses.imagined_critic_loss(
        networks.value(params, jax.lax.stop_gradient(dream.feature[:-1]))[None],
        target,
        losses.cumulative_discounts(section.horizon, section.discount),
    )
    return loss, {"critic/imagined_loss": loss, "critic/target": jnp.mean(target)}
