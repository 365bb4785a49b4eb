"""MOTO: offline-to-online model-based reinforcement learning (Alg. 1).

An ensemble world model is fitted to offline and online data together; actor and critics
are trained by value expansion on rollouts imagined from its posterior states, with a
penalty on the ensemble's disagreement, and the actor is regularised toward the
successful part of the data. Both phases do the same update; only the data grow.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from moto_jax.agents import losses
from moto_jax.agents.base import (
    Learnable,
    all_finite,
    gradient_step,
    init_learnable,
    keep_if,
    make_optimizer,
    named_keys,
)
from moto_jax.agents.moto_losses import (
    Hyperparameters,
    Networks,
    actor_loss,
    critic_loss,
    critic_targets,
    model_loss,
)
from moto_jax.distributions import TruncatedNormal
from moto_jax.imagination import open_loop
from moto_jax.networks.heads import Actor, CriticEnsemble
from moto_jax.networks.rssm import LatentState
from moto_jax.types import Agent, Batch, Metrics, Params, Policy
from moto_jax.value_targets import (
    CRITIC_REDUCTIONS,
)
from moto_jax.world_model import (
    DISAGREEMENTS,
    WorldModel,
    make_world_model,
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


@struct.dataclass
class PolicyCarry:
    """What a policy remembers of n environments.

    Attributes:
      latent: LatentState [n].
      action: float32 [n, A], the last action.
    """

    latent: LatentState
    action: jax.Array


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
      ValueError: for an image size or a choice that does not exist.
    """
    dtype = jnp.dtype(config.compute_dtype)
    networks = Networks(
        make_model(
            action_size=action_size,
            image_size=image_size,
            dtype=dtype,
            **config.world_model,
        ),
        Actor(action_size, dtype=dtype, **config.actor),
        CriticEnsemble(dtype=dtype, **config.critic),
    )
    shared = dict(config.optimizer)
    rates = shared.pop("learning_rates")
    optimizers = Optimizers(
        *(make_optimizer(rates[name], **shared) for name in Optimizers._fields)
    )
    update = make_update(networks, optimizers, make_hyperparameters(config.moto))
    policy = partial(make_policy, networks, action_size)
    return Agent(
        init=lambda key: init_state(key, networks, optimizers, action_size),
        updates={"offline": update, "online": update},
        policies={
            "mean": policy(lambda distribution, key: distribution.mode()),
            "sampled": policy(lambda distribution, key: distribution.sample(key)),
        },
        acting_params=lambda state: state.acting,
        open_loop=lambda params, batch, context, key: open_loop(
            networks.model, params["model"], batch, context, key
        ),
    )


def make_hyperparameters(section: Any) -> Hyperparameters:
    """Returns the hyper-parameters of `config.moto`, names replaced by functions.

    Raises:
      ValueError: for a name that no function has, or another set of keys.
    """
    values = dict(section)
    fields = set(Hyperparameters._fields)
    optional = set(Hyperparameters._field_defaults)
    wrong = sorted((values.keys() - fields) | (fields - optional - values.keys()))
    if wrong:
        raise ValueError(
            f"config.moto.{wrong[0]} is "
            f"{'unknown' if wrong[0] in values else 'missing'}: the configuration is "
            "of another version of this code"
        )
    for field, table in _CHOICES.items():
        if values[field] not in table:
            raise ValueError(
                f"unknown choice {values[field]!r} in config.moto.{field}: use one of "
                f"{', '.join(table)}"
            )
        values[field] = table[values[field]]
    return Hyperparameters(**values)


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

    # A donated state must not hold one buffer twice.
    def copy(params: Params) -> Params:
        return jax.tree.map(jnp.copy, params)

    return MotoState(
        key=key,
        step=jnp.zeros((), jnp.int32),
        model=init_learnable(model_params, optimizers.model),
        actor=init_learnable(actor_params, optimizers.actor),
        critic=init_learnable(critic_params, optimizers.critic),
        target_critic=copy(critic_params),
        acting={"model": copy(model_params), "actor": copy(actor_params)},
        return_range=jnp.zeros(()),
        skipped=jnp.zeros((), jnp.int32),
    )


def make_policy(
    networks: Networks,
    action_size: int,
    choose: Callable[[TruncatedNormal, jax.Array], jax.Array],
) -> Policy:
    """Returns a policy that filters images and acts by `choose` (distribution, key)."""
    model = networks.model

    def initial(count: int) -> PolicyCarry:
        return PolicyCarry(model.initial((count,)), jnp.zeros((count, action_size)))

    def act(params, carry, image, is_first, key):
        model_key, action_key = jax.random.split(key)
        part = model.embed(params["model"], image)
        latent, _ = model.observe(
            params["model"], part, carry.action, is_first, carry.latent, model_key
        )
        distribution = networks.policy(params["actor"])(latent.feature)
        action = choose(distribution, action_key)
        return action, PolicyCarry(latent, action)

    return Policy(initial, act)


def make_update(
    networks: Networks, optimizers: Optimizers, hyper: Hyperparameters
) -> Callable[[MotoState, Batch], tuple[MotoState, Metrics]]:
    """Returns one pass of Alg. 1's loop as a pure function."""

    def bind(loss: Callable[..., Any]) -> Callable[..., Any]:
        return lambda params, *args: loss(params, networks, hyper, *args)

    def update(state: MotoState, batch: Batch) -> tuple[MotoState, Metrics]:
        """One gradient step of everything that learns (Alg. 1)."""
        keys = named_keys(state.key, state.step, "model", "dream", "target")
        model, (posterior, model_metrics) = gradient_step(
            bind(model_loss),
            optimizers.model,
            state.model,
            state.actor.params,
            batch,
            keys["model"],
        )
        actor, (dream, mixture, actor_metrics) = gradient_step(
            bind(actor_loss),
            optimizers.actor,
            state.actor,
            model.params,
            state.critic.params,
            posterior,
            batch,
            state.return_range,
            keys["dream"],
        )
        targets = bind(critic_targets)(
            state.target_critic, model.params, dream, batch, keys["target"]
        )
        critic, critic_metrics = gradient_step(
            bind(critic_loss),
            optimizers.critic,
            state.critic,
            dream,
            posterior.feature,
            batch,
            *targets,
        )
        low, high = jnp.percentile(mixture, jnp.array([5.0, 95.0]))
        metrics = {
            **model_metrics,
            **actor_metrics,
            **critic_metrics,
            "actor/return_range": high - low,
        }
        new = advance_state(
            state, hyper, model=model, actor=actor, critic=critic, spread=high - low
        )
        return accept_if_finite(state, new, metrics)

    return update


def advance_state(
    state: MotoState,
    hyper: Hyperparameters,
    *,
    model: Learnable,
    actor: Learnable,
    critic: Learnable,
    spread: jax.Array,
) -> MotoState:
    """Returns the state after an update: step, target critics, averages."""
    step = state.step + 1
    # The average starts short, so that it forgets the untrained parameters.
    average = jnp.minimum(hyper.acting_average, step / (step + 10.0))
    return replace(
        state,
        step=step,
        model=model,
        actor=actor,
        critic=critic,
        target_critic=optax.periodic_update(
            critic.params, state.target_critic, step, hyper.target_period
        ),
        acting=optax.incremental_update(
            {"model": model.params, "actor": actor.params}, state.acting, 1.0 - average
        ),
        return_range=optax.incremental_update(
            spread, state.return_range, 1.0 - hyper.return_range_decay
        ),
        skipped=jnp.zeros_like(state.skipped),
    )


def accept_if_finite(
    old: MotoState, new: MotoState, metrics: Metrics
) -> tuple[MotoState, Metrics]:
    """Throws an update away, and counts it, unless all that it computed is finite."""
    learnt = [new.model.params, new.actor.params, new.critic.params]
    finite = all_finite([metrics, learnt])
    refused = replace(old, step=new.step, skipped=old.skipped + 1)
    # The key takes no part: it never changes, and `where` refuses typed keys.
    chosen = keep_if(finite, replace(new, key=None), replace(refused, key=None))
    return replace(chosen, key=old.key), {**metrics, "skipped_in_a_row": chosen.skipped}
