"""MOTO: offline-to-online model-based reinforcement learning (Alg. 1).

An ensemble world model is fitted to offline and online data together; actor and critics
are trained by value expansion on rollouts imagined from its posterior states, with a
penalty on the ensemble's disagreement, and the actor is regularised toward the
successful part of the data. Both phases do the same update; only the data grow.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from moto_jax.agents.moto_losses import (
    Hyperparameters,
    Networks,
    Recorded,
    make_losses,
)
from moto_jax.learning.disagreement import DISAGREEMENTS
from moto_jax.learning.learners import (
    AgentState,
    Learnable,
    copy_params,
    gradient_step,
    init_learnable,
    init_state,
    make_update,
    named_keys,
    read_section,
)
from moto_jax.learning.losses import cumulative_discounts
from moto_jax.learning.model_based import make_optimizers, make_policies
from moto_jax.learning.networks.heads import Actor, CriticEnsemble
from moto_jax.learning.networks.world_networks import Sizes
from moto_jax.learning.value_targets import CRITIC_REDUCTIONS
from moto_jax.learning.world_model import WorldModel, make_world_model, some_rows
from moto_jax.types import Agent, Batch, Metrics, Params


@struct.dataclass
class Learners:
    """What learns, and what follows it.

    Attributes:
      model: world model.
      actor: policy.
      critic: C critics.
      target_critic: their parameters, copied every so many updates.
      return_range: running range of imagined returns.
    """

    model: Learnable
    actor: Learnable
    critic: Learnable
    target_critic: Params
    return_range: jax.Array


class Optimizers(NamedTuple):
    """One optimiser a learnable."""

    model: optax.GradientTransformation
    actor: optax.GradientTransformation
    critic: optax.GradientTransformation


# What is drawn in an update.
_KEYS = ("model", "dream", "target", "starts")

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
        "cumulative_discount": cumulative_discounts,
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
    _check_prior(hyper)
    layers, rates = _own_critics(hyper)
    networks = Networks(
        make_model(
            read_section(config, "world_model", Sizes),
            action_size=action_size,
            image_size=image_size,
            dtype=dtype,
        ),
        Actor(action_size, dtype=dtype, **config.actor),
        CriticEnsemble(dtype=dtype, **{**config.critic, **layers}),
    )
    optimizers = Optimizers(*make_optimizers(config, *Optimizers._fields, **rates))
    step = make_step(networks, optimizers, hyper)
    update = make_update(step, acting_params, config.acting_average)
    return Agent(
        init=lambda key: init_agent(key, networks, optimizers, action_size),
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


def acting_params(learners: Learners) -> Params:
    """Returns what the policies act with, before it is averaged."""
    return {"model": learners.model.params, "actor": learners.actor.params}


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


def _check_prior(hyper: Hyperparameters) -> None:
    if hyper.behaviour_model_scale and not hyper.beta:
        raise ValueError(
            "config.moto.beta is 0 but config.moto.behaviour_model_scale is "
            f"{hyper.behaviour_model_scale}: the world model would be bent to explain "
            "recorded actions by an actor that does not clone them; set both to 0"
        )


def _value_share(hyper: Hyperparameters) -> optax.Schedule:
    """Returns number of an update -> share of the value term's weight."""
    if not hyper.value_decay_steps:
        return lambda number: 1.0
    return optax.linear_schedule(
        1.0, hyper.value_final_share, hyper.value_decay_steps, hyper.value_decay_begin
    )


def init_agent(
    key: jax.Array, networks: Networks, optimizers: Optimizers, action_size: int
) -> AgentState:
    """Returns the state before the first update."""
    key, model_key, actor_key, critic_key = jax.random.split(key, 4)
    feature = networks.model.initial((1,)).feature
    action = jnp.zeros((1, action_size))
    model_params = networks.model.init(model_key)
    actor_params = networks.actor.init(actor_key, feature)["params"]
    critic_params = networks.critic.init(critic_key, feature, action)["params"]
    learners = Learners(
        model=init_learnable(model_params, optimizers.model),
        actor=init_learnable(actor_params, optimizers.actor),
        critic=init_learnable(critic_params, optimizers.critic),
        target_critic=copy_params(critic_params),
        return_range=jnp.zeros(()),
    )
    return init_state(key, learners, acting_params)


def _running_average(average: jax.Array, value: jax.Array, decay: float) -> jax.Array:
    return jnp.asarray(optax.incremental_update(value, average, 1.0 - decay))


def make_step(
    networks: Networks, optimizers: Optimizers, hyper: Hyperparameters
) -> Callable[..., tuple[Learners, Metrics]]:
    """Returns one pass of Alg. 1's loop over the learners."""
    losses = make_losses(networks, hyper)
    value_share = _value_share(hyper)

    def step(
        learners: Learners, batch: Batch, key: jax.Array, number: jax.Array
    ) -> tuple[Learners, Metrics]:
        """One gradient step of model, actor and critics, on rows of both data sets."""
        keys = named_keys(key, number, *_KEYS)
        # The model (Eq. 1), and with it the posterior states of the batch.
        model, (posterior, model_metrics), model_norm = gradient_step(
            losses.model,
            optimizers.model,
            learners.model,
            actor=learners.actor.params,
            batch=batch,
            key=keys["model"],
        )
        starts = some_rows(keys["starts"], len(batch.reward), hyper.starts_share)
        recorded = Recorded(batch, posterior, starts)
        # The actor (Eq. 10). The box of Alg. 1 imagines rollouts in a line of its own;
        # here that happens inside the actor's loss, whose gradient goes through them.
        actor, (dream, mixture, actor_metrics), actor_norm = gradient_step(
            losses.actor,
            optimizers.actor,
            learners.actor,
            model=model.params,
            critic=learners.critic.params,
            recorded=recorded,
            return_range=learners.return_range,
            value_share=value_share(number),
            key=keys["dream"],
        )
        # The critics (Eq. 8), on those rollouts (Eq. 6) and on recorded rows (Eq. 7).
        targets = losses.critic_targets(
            learners.target_critic,
            model=model.params,
            dream=dream,
            recorded=recorded,
            key=keys["target"],
        )
        critic, critic_metrics, critic_norm = gradient_step(
            losses.critic,
            optimizers.critic,
            learners.critic,
            dream=dream,
            recorded=recorded,
            targets=targets,
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
        new = Learners(
            model=model,
            actor=actor,
            critic=critic,
            target_critic=optax.periodic_update(
                critic.params, learners.target_critic, number + 1, hyper.target_period
            ),
            return_range=_running_average(
                learners.return_range, high - low, hyper.return_range_decay
            ),
        )
        return new, metrics

    return step
