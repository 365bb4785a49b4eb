"""What the agents with a world model share: the model, its step, how they act."""

from collections.abc import Callable
from typing import Any, Protocol

import chex
import jax
import jax.numpy as jnp
import optax
from flax import struct

from moto_jax.learning.distributions import TruncatedNormal
from moto_jax.learning.learners import (
    Choice,
    Learnable,
    check_seen,
    gradient_step,
    make_choices,
    make_optimizer,
    read_section,
)
from moto_jax.learning.networks.heads import Actor
from moto_jax.learning.networks.rssm import LatentState
from moto_jax.learning.networks.world_networks import Sizes
from moto_jax.learning.world_model import (
    WorldModel,
    make_world_model,
    world_model_loss,
)
from moto_jax.types import Batch, Metrics, Params, Policy

FeaturePolicy = Callable[[Params], Callable[[jax.Array], TruncatedNormal]]


@struct.dataclass
class PolicyCarry:
    """What a policy remembers of n environments.

    Attributes:
      latent: LatentState [n].
      action: float32 [n, A], the last action.
    """

    latent: LatentState
    action: jax.Array


def make_policies(
    model: WorldModel, policy: FeaturePolicy, action_size: int, noise_std: float
) -> dict[str, Policy]:
    """Returns the policies that filter images and act on the posterior state.

    Args:
      model: the world model; acts with `params["model"]`.
      policy: actor parameters -> (features [..., F] -> actions' distribution); acts
        with `params["actor"]`.
      action_size: A.
      noise_std: see `learners.make_choices`, which names the policies.
    """

    def make_policy(choose: Choice) -> Policy:
        def initial(count: int) -> PolicyCarry:
            return PolicyCarry(model.initial((count,)), jnp.zeros((count, action_size)))

        def act(params, carry, image, is_first, key):
            count = image.shape[0]
            check_seen(image, is_first)
            chex.assert_shape(carry.action, (count, action_size))
            chex.assert_tree_shape_prefix(carry.latent, (count,))
            model_key, action_key = jax.random.split(key)
            part = model.embed(params["model"], image)
            chex.assert_shape(part, (count, None))
            latent, _ = model.observe(
                params["model"], part, carry.action, is_first, carry.latent, model_key
            )
            chex.assert_trees_all_equal_shapes(latent, carry.latent)
            action = choose(policy(params["actor"])(latent.feature), action_key)
            chex.assert_shape(action, (count, action_size))
            return action, PolicyCarry(latent, action)

        return Policy(initial, act)

    return {
        name: make_policy(choose) for name, choose in make_choices(noise_std).items()
    }


def make_model(
    config: Any, *, action_size: int, image_size: int, members: int | None = None
) -> WorldModel:
    """Returns the world model of `config.world_model`.

    Args:
      config: the run's.
      action_size: A.
      image_size: pixels.
      members: E, where it is not the configuration's.
    """
    sizes = read_section(config, "world_model", Sizes)
    if members is not None:
        sizes = sizes._replace(members=members)
    return make_world_model(
        sizes,
        action_size=action_size,
        image_size=image_size,
        dtype=jnp.dtype(config.compute_dtype),
    )


class ModelScales(Protocol):
    """A section with the weights of the world model's loss."""

    @property
    def kl_scale(self) -> float:
        """Weight of the KL."""
        ...

    @property
    def kl_balance(self) -> float:
        """Share of its gradient that goes to the prior."""
        ...

    @property
    def free_nats(self) -> float:
        """Mean KL below which it has no gradient."""
        ...


def fit_model(
    learnable: Learnable,
    model: WorldModel,
    optimizer: optax.GradientTransformation,
    scales: ModelScales,
    batch: Batch,
    key: jax.Array,
) -> tuple[Learnable, LatentState, Metrics]:
    """One gradient step of the world model alone; returns the posterior [T, B] too."""
    learnable, (posterior, metrics), norm = gradient_step(
        lambda params: world_model_loss(
            params,
            model,
            batch,
            key,
            kl_scale=scales.kl_scale,
            kl_balance=scales.kl_balance,
            free_nats=scales.free_nats,
        ),
        optimizer,
        learnable,
    )
    return learnable, posterior, {**metrics, "model/gradient_norm": norm}


def make_actor(config: Any, action_size: int) -> tuple[Actor, FeaturePolicy]:
    """Returns the actor of `config.actor` on features, and its policy's function."""
    dtype = jnp.dtype(config.compute_dtype)
    actor = Actor(action_size, dtype=dtype, **config.actor)

    def policy(params: Params) -> Callable[[jax.Array], TruncatedNormal]:
        return lambda feature: actor.apply({"params": params}, feature)  # pyright: ignore

    return actor, policy


def make_optimizers(config: Any, *names: str, **other_rates: float) -> list[Any]:
    """Returns the optimisers of some learnables, by `config.optimizer`.

    Args:
      config: the run's.
      *names: of the learnables.
      **other_rates: learning rates that take the place of the configuration's.
    """
    shared = dict(config.optimizer)
    rates = {**shared.pop("learning_rates"), **other_rates}
    return [make_optimizer(rates[name], **shared) for name in names]
