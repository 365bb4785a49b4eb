"""Rollouts in latent space: with a policy, or with recorded actions."""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import struct

from moto_jax.learning.networks.rssm import LatentState
from moto_jax.learning.scans import controlled_scan
from moto_jax.learning.world_model import WorldModel, observe_sequence
from moto_jax.types import Batch, Params

FeaturePolicy = Callable[[jax.Array, jax.Array], jax.Array]


@struct.dataclass
class Imagined:
    """A rollout of H steps from N starts; N is one axis, or several such as T, B.

    Attributes:
      feature: [H + 1, N, F], of s^0 .. s^H.
      action: [H + 1, N, A], a^0 .. a^H, the last taken at s^H but not followed.
      uncertainty: [H, N], u(s^t, a^t) of the transition that leaves row t.
    """

    feature: jax.Array
    action: jax.Array
    uncertainty: jax.Array


def no_uncertainty(logits: jax.Array, following: jax.Array) -> jax.Array:
    """The uncertainty of a model that is believed: [E, ..., S, K] -> zeros [...]."""
    del logits
    return jnp.zeros(following.shape[:-2])


def imagine(
    model: WorldModel,
    params: Params,
    policy: FeaturePolicy,
    uncertainty: Callable[[jax.Array, jax.Array], jax.Array],
    starts: LatentState,
    horizon: int,
    key: jax.Array,
    *,
    rematerialise: bool = False,
) -> Imagined:
    """Rolls the policy out inside the model, a member drawn per row and step.

    Differentiable through actions, dynamics and uncertainty; the policy's input is
    stop-gradiented, so each action's own choice is what is blamed.

    Args:
      model: the world model.
      params: its parameters.
      policy: (feature [N, F], key) -> action [N, A].
      uncertainty: (logits of all members [E, ..., S, K], stochastic states [..., S, K]
        that were drawn) -> [...], for any leading axes.
      starts: states [N], where N stands for any leading axes. Those of a batch stay
        apart, [T, B]: merged into one, a sharded B would be gathered.
      horizon: H.
      key: one key.
      rematerialise: whether the gradient computes each step again instead of keeping
        its matrix products and logits: less memory, more time, the same numbers.
    """
    params = model.cast(params)
    leading = starts.deter.shape[:-1]
    chex.assert_shape(starts.stoch, (*leading, None, None))
    scan_key, member_key, last_key = jax.random.split(key, 3)
    members = jax.random.randint(member_key, (horizon, *leading), 0, model.members)

    def act(latent: LatentState, inputs: Any) -> jax.Array:
        action = policy(jax.lax.stop_gradient(latent.feature), inputs[1])
        chex.assert_shape(action, (*leading, None))
        return action

    def follow(latent: LatentState, action: jax.Array, inputs: Any):
        member, _, key = inputs
        following, logits = model.imagine_step(params, latent, action, member, key)
        chex.assert_trees_all_equal_shapes(following, latent)
        chex.assert_shape(logits, (model.members, *latent.stoch.shape))
        if rematerialise:
            return following, uncertainty(logits, following.stoch)
        return following, logits

    keys = jax.vmap(jax.random.split)(jax.random.split(scan_key, horizon))
    states, action, ys = controlled_scan(
        act,
        follow,
        starts,
        (members, keys[:, 0], keys[:, 1]),
        rematerialise=rematerialise,
    )
    if not rematerialise:
        # Of all steps at once, which takes the logits of all members of all of them.
        ys = uncertainty(jnp.moveaxis(ys, 1, 0), states.stoch[1:])
    chex.assert_shape(ys, (horizon, *leading))
    last = jax.tree.map(lambda leaf: leaf[-1], states)
    last_action = act(last, (members[-1], last_key))
    return Imagined(
        feature=states.feature,
        action=jnp.concatenate([action, last_action[None]]),
        uncertainty=ys,
    )


def open_loop(
    model: WorldModel, params: Params, batch: Batch, context: int, key: jax.Array
) -> jax.Array:
    """Predicts images with recorded actions after `context` rows have been seen.

    Args:
      model: the world model.
      params: its parameters.
      batch: sequences [T, B, ...] without an episode's start after row `context`.
      context: rows that condition the prediction.
      key: one key.

    Returns:
      uint8 [T, B, height, width, 3]: reconstructions of the first `context` rows, then
      predictions.
    """
    length, size = batch.reward.shape
    observe_key, member_key, predict_key = jax.random.split(key, 3)
    seen = jax.tree.map(lambda field: field[:context], batch)
    posterior, _ = observe_sequence(
        model,
        params,
        seen,
        model.initial((size,)),
        jax.random.split(observe_key, context),
    )
    ahead = length - context
    members = jax.random.randint(member_key, (ahead, size), 0, model.members)

    def step(latent: LatentState, inputs: Any):
        action, member, key = inputs
        latent, _ = model.imagine_step(params, latent, action, member, key)
        return latent, latent.feature

    last = jax.tree.map(lambda field: field[-1], posterior)
    inputs = (
        batch.prev_action[context:],
        members,
        jax.random.split(predict_key, ahead),
    )
    _, predicted = jax.lax.scan(step, last, inputs)
    feature = jnp.concatenate([posterior.feature, predicted], axis=0)
    image = model.decode(params, feature)
    chex.assert_equal_shape([image, batch.image])
    return jnp.clip((image + 0.5) * 255.0, 0, 255).astype(jnp.uint8)
