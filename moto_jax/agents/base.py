"""What every agent's update is made of: learnables, gradient steps, named keys."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from moto_jax.types import Params


@struct.dataclass
class Learnable:
    """Parameters with the state of their optimiser."""

    params: Params
    opt_state: Any


def make_optimizer(
    learning_rate: float,
    *,
    epsilon: float,
    clip_norm: float,
    weight_decay: float,
    decay_steps: int = 0,
    final_share: float = 1.0,
) -> optax.GradientTransformation:
    """Returns AdamW behind a clip of the global gradient norm.

    Args:
      learning_rate: at the start.
      epsilon: Adam's.
      clip_norm: largest global norm of a gradient.
      weight_decay: decoupled, multiplied by the learning rate.
      decay_steps: updates of a cosine decay; 0 keeps the rate constant.
      final_share: share of the learning rate that is left after the decay.
    """
    schedule = (
        optax.cosine_decay_schedule(learning_rate, decay_steps, final_share)
        if decay_steps
        else learning_rate
    )
    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.adamw(schedule, eps=epsilon, weight_decay=weight_decay),
    )


def init_learnable(
    params: Params, optimizer: optax.GradientTransformation
) -> Learnable:
    """Returns fresh parameters with a fresh optimiser."""
    return Learnable(params, optimizer.init(params))


def gradient_step(
    loss: Callable[..., tuple[jax.Array, Any]],
    optimizer: optax.GradientTransformation,
    learnable: Learnable,
    *args: Any,
) -> tuple[Learnable, Any]:
    """Moves the parameters that are the loss's first argument, and nothing else.

    Args:
      loss: (params, *args) -> (scalar, aux).
      optimizer: of the learnable.
      learnable: what learns.
      *args: the rest of the loss's arguments, as plain values.

    Returns:
      The moved learnable and the loss's aux.
    """
    (_, aux), grads = jax.value_and_grad(loss, has_aux=True)(learnable.params, *args)
    updates, opt_state = optimizer.update(grads, learnable.opt_state, learnable.params)
    params = optax.apply_updates(learnable.params, updates)
    return Learnable(params, opt_state), aux


def named_keys(key: jax.Array, step: jax.Array, *names: str) -> dict[str, jax.Array]:
    """Returns one key a name for this step; no key is used twice."""
    keys = jax.random.split(jax.random.fold_in(key, step), len(names))
    return dict(zip(names, keys, strict=True))


def keep_if(accepted: jax.Array, new: Any, old: Any) -> Any:
    """Returns `new` where the scalar `accepted` is true, else `old`, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(accepted, a, b), new, old)


def all_finite(tree: Any) -> jax.Array:
    """Returns whether every number in the tree is finite (a bool scalar)."""
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(leaves))
