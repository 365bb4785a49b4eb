"""MOTO: offline-to-online model-based reinforcement learning (Alg. 1).

An ensemble world model is fitted to offline and online data together; actor and critics
are trained by value expansion on rollouts imagined from its posterior states, with a
penalty on the ensemble's disagreement, and the actor is regularised toward the
successful part of the data. Both phases do the same update; only the data grow.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from moto_jax.agents import losses
from moto_jax.agents.base import (
    Learnable,
    accept_if_finite,
    average_acting,
    copy_params,
    gradient_step,
    init_learnable,
    named_keys,
    read_section,
)
from moto_jax.agents.model_based import (
    make_optimizers,
    make_policies,
)
from moto_jax.agents.moto_losses import (
    Hyperparameters,
    Networks,
    actor_loss,
    critic_loss,
    critic_targets,
    model_loss,
)
from moto_jax.networks.heads import Actor, CriticEnsemble
from moto_jax.types import Agent, Batch, Metrics, Params
from moto_jax.value_targets import CRITIC_REDUCTIONS
from moto_jax.world_model import (
    DISAGREEMENTS,
    WorldModel,
    make_world_model,
    some_rows,
)


@struct.dataclass
class MotoState:
    """Everything that an update changes.

    Attributes:
      key: the run's one key; each update folds its step into it.
      step: int, updates done.
      model: world model.
      actor: policy.
      critic: C critics.
      target_critic: their parameters, copied every so many updates.
      acting: world model and actor parameters that the policies act with, a running
        average of the learnt ones.
      return_range: running range of imagined returns.
      skipped: int, updates in a row that were thrown away for not being finite.
    """

    key: jax.Array
    step: jax.Array
    model: Learnable
    actor: Learnable
    critic: Learnable
    target_critic: Params
    acting: dict[str, Params]
    return_range: jax.Array
    skipped: jax.Array


class Optimizers(NamedTuple):
    """One optimiser a learnable."""

    model: optax.GradientTransformation
    actor: optax.GradientTransformation
    critic: optax.GradientTransformation


# The functions that the config chooses by name.
_CHOICES: dict[str, dict[str, Any]] = {
    "disagreement": DISAGREEMENTS,
    "target_reduction": CRITIC_REDUCTIONS,
    "value_divisor": {
        "one": lambda return_range: 1.0,
        "return_range": lambda return_range: jnp.maximum(1.0, return_range),
    },
    "row_weights": {
        "uniform": lambda horizon, discount: 1.0,
        "cumulative_discount": losses.cumulative_discounts,
    },
}


def make_moto(
    config: Any,
    *,
    action_size: int,
    image_size: int,
    make_model: Callable[..., WorldModel] = make_world_model,
) -> Agent:
    """Builds MOTO from a run's configuration.

    Args:
      config: the run's ConfigDict; sections `world_model`, `actor`, `critic`,
        `optimizer`, `moto`.
      action_size: A.
      image_size: pixels.
      make_model: makes the world model, with `make_world_model`'s arguments.

    Raises:
      ValueError: for an image size or a choice that does not exist, or numbers of the
        critics that cannot be.
    """
    dtype = jnp.dtype(config.compute_dtype)
    hyper = read_section(config, "moto", Hyperparameters, _CHOICES)
    layers, rates = _own_critics(hyper)
    networks = Networks(
        make_model(
            action_size=action_size,
            image_size=image_size,
            dtype=dtype,
            **config.world_model,
        ),
        Actor(action_size, dtype=dtype, **config.actor),
        CriticEnsemble(dtype=dtype, **{**config.critic, **layers}),
    )
    optimizers = Optimizers(*make_optimizers(config, *Optimizers._fields, **rates))
    update = make_update(networks, optimizers, hyper, config.acting_average)
    return Agent(
        init=lambda key: init_state(key, networks, optimizers, action_size),
        updates={"offline": update, "online": update},
        policies=make_policies(
            networks.model,
            networks.policy,
            action_size,
            config.training.collect_noise_std,
        ),
        acting_params=lambda state: state.acting,
        model=networks.model,
        batch_shape=(config.replay.sequence_length, config.replay.batch_size),
    )


def _own_critics(hyper: Hyperparameters) -> tuple[dict[str, int], dict[str, float]]:
    """Returns the critics' layers and rate where they are not those of every agent."""
    layers, rate = hyper.critic_layers, hyper.critic_learning_rate
    if layers < -1:
        raise ValueError(
            f"config.moto.critic_layers is {layers}: use a number of hidden layers, or "
            "-1 for that of config.critic"
        )
    if not 0 <= rate < math.inf:
        raise ValueError(
            f"config.moto.critic_learning_rate is {rate}: use a positive number, or 0 "
            "for that of config.optimizer"
        )
    return {"layers": layers} if layers >= 0 else {}, {"critic": rate} if rate else {}


def init_state(
    key: jax.Array, networks: Networks, optimizers: Optimizers, action_size: int
) -> MotoState:
    """Returns the state before the first update."""
    key, model_key, actor_key, critic_key = jax.random.split(key, 4)
    model_params = networks.model.init(model_key)
    feature = networks.model.initial((1,)).feature
    action = jnp.zeros((1, action_size))
    actor_params = networks.actor.init(actor_key, feature)["params"]
    critic_params = networks.critic.init(critic_key, feature, action)["params"]

    return MotoState(
        key=key,
        step=jnp.zeros((), jnp.int32),
        model=init_learnable(model_params, optimizers.model),
        actor=init_learnable(actor_params, optimizers.actor),
        critic=init_learnable(critic_params, optimizers.critic),
        target_critic=copy_params(critic_params),
        acting=copy_params({"model": model_params, "actor": actor_params}),
        return_range=jnp.zeros(()),
        skipped=jnp.zeros((), jnp.int32),
    )


def make_update(
    networks: Networks,
    optimizers: Optimizers,
    hyper: Hyperparameters,
    acting_average: float,
) -> Callable[[MotoState, Batch], tuple[MotoState, Metrics]]:
    """Returns one pass of Alg. 1's loop as a pure function."""

    def bind(loss: Callable[..., Any]) -> Callable[..., Any]:
        return lambda params, *args: loss(params, networks, hyper, *args)

    def update(state: MotoState, batch: Batch) -> tuple[MotoState, Metrics]:
        """One gradient step of everything that learns (Alg. 1)."""
        keys = named_keys(state.key, state.step, "model", "dream", "target", "starts")
        starts = some_rows(keys["starts"], len(batch.reward), hyper.starts_share)
        model, (posterior, model_metrics), model_norm = gradient_step(
            bind(model_loss),
            optimizers.model,
            state.model,
            state.actor.params,
            batch,
            keys["model"],
        )
        actor, (dream, mixture, actor_metrics), actor_norm = gradient_step(
            bind(actor_loss),
            optimizers.actor,
            state.actor,
            model.params,
            state.critic.params,
            posterior,
            batch,
            starts,
            state.return_range,
            keys["dream"],
        )
        targets = bind(critic_targets)(
            state.target_critic, model.params, dream, batch, starts, keys["target"]
        )
        critic, critic_metrics, critic_norm = gradient_step(
            bind(critic_loss),
            optimizers.critic,
            state.critic,
            dream,
            posterior.feature,
            batch,
            starts,
            *targets,
        )
        low, high = jnp.percentile(mixture, jnp.array([5.0, 95.0]))
        metrics = {
            **model_metrics,
            **actor_metrics,
            **critic_metrics,
            "actor/return_range": high - low,
            "model/gradient_norm": model_norm,
            "actor/gradient_norm": actor_norm,
            "critic/gradient_norm": critic_norm,
        }
        new = advance_state(
            state,
            hyper,
            acting_average,
            model=model,
            actor=actor,
            critic=critic,
            spread=high - low,
        )
        return accept_if_finite(state, new, metrics)

    return update


def advance_state(
    state: MotoState,
    hyper: Hyperparameters,
    acting_average: float,
    *,
    model: Learnable,
    actor: Learnable,
    critic: Learnable,
    spread: jax.Array,
) -> MotoState:
    """Returns the state after an update: step, target critics, averages."""
    step = state.step + 1
    return replace(
        state,
        step=step,
        model=model,
        actor=actor,
        critic=critic,
        target_critic=optax.periodic_update(
            critic.params, state.target_critic, step, hyper.target_period
        ),
        acting=average_acting(
            {"model": model.params, "actor": actor.params},
            state.acting,
            acting_average,
            step,
        ),
        return_range=optax.incremental_update(
            spread, state.return_range, 1.0 - hyper.return_range_decay
        ),
        skipped=jnp.zeros_like(state.skipped),
    )
