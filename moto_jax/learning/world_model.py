"""The world model as a record of pure functions, and its loss."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from moto_jax.learning.distributions import balanced_kl, sample_one_hot
from moto_jax.learning.networks.pixels import (
    colour_axes,
)
from moto_jax.learning.networks.rssm import LatentState
from moto_jax.learning.networks.world_networks import Sizes, make_networks
from moto_jax.learning.scans import controlled_scan
from moto_jax.types import Batch, Metrics, Params


class WorldModel(NamedTuple):
    """RSSM with an ensemble of priors (Eq. 1); every function is pure.

    Attributes:
      init: key -> params.
      initial: leading axes -> zero LatentState.
      embed: (params, image uint8 [..., height, width, 3]) -> embedding part of the
        posterior [..., hidden].
      observe: (params, embedding part, prev_action, is_first, latent, key) ->
        (LatentState, posterior logits [..., S, K]); one step, in which rows with
        `is_first` forget the past.
      imagine_step: (params, latent [N], action [N, A], member int [N], key) ->
        (LatentState [N], logits of all members [E, N, S, K]).
      prior_logits: (params, deter [..., D]) -> [E, ..., S, K].
      reward: (params, feature [..., F]) -> mean reward [...].
      decode: (params, feature [..., F]) -> mean image [..., height, width, 3], where
        -0.5 is black and 0.5 white.
      members: E.
      cast: params -> the same with kernels in the dtype of the computation, for loops,
        whose every step would cast them anew.
      image_coordinates: pixels [..., 3] -> coordinates [..., 3] in which the image's
        likelihood has unit variance; linear.
    """

    init: Callable[[jax.Array], Params]
    initial: Callable[[tuple[int, ...]], LatentState]
    embed: Callable[..., jax.Array]
    observe: Callable[..., tuple[LatentState, jax.Array]]
    imagine_step: Callable[..., tuple[LatentState, jax.Array]]
    prior_logits: Callable[[Params, jax.Array], jax.Array]
    reward: Callable[[Params, jax.Array], jax.Array]
    decode: Callable[[Params, jax.Array], jax.Array]
    members: int
    cast: Callable[[Params], Params] = lambda params: params
    image_coordinates: Callable[[jax.Array], jax.Array] = lambda image: image


def make_world_model(
    sizes: Sizes,
    *,
    action_size: int,
    image_size: int = 64,
    dtype: Any = jnp.float32,
    encoder: Callable[..., nn.Module] | None = None,
    decoder: Callable[..., nn.Module] | None = None,
) -> WorldModel:
    """Builds the world model's pure functions.

    Args:
      sizes: of the networks.
      action_size: A.
      image_size: side of the square images, pixels.
      dtype: of the computation; parameters and losses stay float32.
      encoder: (depth, dtype=) -> module from uint8 images to embeddings, if not the
        usual one.
      decoder: (depth, dtype=) -> module from features to mean images, likewise.

    Raises:
      ValueError: for an image size that the networks cannot take, or a colour scale
        that is not positive and finite.
    """
    networks = make_networks(sizes, image_size, dtype, encoder, decoder)

    def apply(name: str) -> Callable[..., Any]:
        def call(params: Params, *args: Any) -> Any:
            return networks.apply({"params": params}, *args, method=name)

        return call

    prior_logits = apply("prior_logits")

    def image_coordinates(image: jax.Array) -> jax.Array:
        scale = sizes.colour_scale
        return image if scale == 1.0 else image @ colour_axes(scale)

    def init(key: jax.Array) -> Params:
        image = jnp.zeros((1, image_size, image_size, 3), jnp.uint8)
        return networks.init(key, image, jnp.zeros((1, action_size)))["params"]

    def initial(leading: tuple[int, ...]) -> LatentState:
        return LatentState.zeros(leading, sizes.deter, sizes.groups, sizes.classes)

    def cast(params: Params) -> Params:
        # Scales and biases of normalisations are applied in float32.
        return jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf.astype(dtype) if path[-1].key == "kernel" else leaf,
            params,
        )

    return WorldModel(
        init=init,
        initial=initial,
        embed=apply("embed"),
        observe=partial(_observe, apply("advance"), apply("posterior_logits")),
        imagine_step=partial(_imagine_step, apply("advance"), prior_logits),
        prior_logits=prior_logits,
        reward=apply("reward"),
        decode=apply("decode"),
        members=sizes.members,
        cast=cast,
        image_coordinates=image_coordinates,
    )


def _observe(
    advance: Callable[..., jax.Array],
    posterior_logits: Callable[..., jax.Array],
    params: Params,
    part: jax.Array,
    prev_action: jax.Array,
    is_first: jax.Array,
    latent: LatentState,
    key: jax.Array,
) -> tuple[LatentState, jax.Array]:
    """See `WorldModel.observe`."""
    chex.assert_shape(is_first, latent.deter.shape[:-1])
    chex.assert_equal_shape_prefix(
        [latent.deter, latent.stoch, part, prev_action], is_first.ndim
    )
    keep = 1.0 - is_first.astype(jnp.float32)
    latent = LatentState(
        latent.deter * keep[..., None], latent.stoch * keep[..., None, None]
    )
    new_deter = advance(params, latent, prev_action * keep[..., None])
    logits = posterior_logits(params, new_deter, part)
    return LatentState(new_deter, sample_one_hot(key, logits)), logits


def _imagine_step(
    advance: Callable[..., jax.Array],
    prior_logits: Callable[..., jax.Array],
    params: Params,
    latent: LatentState,
    action: jax.Array,
    member: jax.Array,
    key: jax.Array,
) -> tuple[LatentState, jax.Array]:
    """See `WorldModel.imagine_step`."""
    new_deter = advance(params, latent, action)
    logits = prior_logits(params, new_deter)
    chosen = choose_member(logits, member)
    return LatentState(new_deter, sample_one_hot(key, chosen)), logits


def choose_member(logits: jax.Array, member: jax.Array) -> jax.Array:
    """Returns [..., S, K]: for every row the logits of its own member.

    Args:
      logits: [E, ..., S, K].
      member: int [...], in 0 .. E - 1.
    """
    chex.assert_shape(logits, (None, *member.shape, None, None))
    index = member[None, ..., None, None]
    return jnp.take_along_axis(logits, index, axis=0)[0]


def observe_sequence(
    model: WorldModel,
    params: Params,
    batch: Batch,
    latent: LatentState,
    keys: jax.Array,
) -> tuple[LatentState, jax.Array]:
    """Filters a batch: the posterior of every row, given all rows before it.

    Args:
      model: the world model.
      params: its parameters.
      batch: sequences [T, B, ...].
      latent: the state [B] before the first row; a sequence cut in two, with the last
        state passed on, gives what the whole gives.
      keys: [T] keys, one a row.

    Returns:
      The posterior states [T, B] and their logits [T, B, S, K].
    """
    length, size = batch.reward.shape
    chex.assert_shape(batch.is_first, (length, size))
    chex.assert_shape(batch.prev_action, (length, size, None))
    chex.assert_tree_shape_prefix(latent, (size,))
    params = model.cast(params)
    parts = model.embed(params, batch.image)
    chex.assert_tree_shape_prefix(parts, (length, size))

    def observe(latent: LatentState, inputs: Any):
        part, prev_action, is_first, key = inputs
        following, logits = model.observe(
            params, part, prev_action, is_first, latent, key
        )
        chex.assert_trees_all_equal_shapes(following, latent)
        chex.assert_equal_shape([logits, latent.stoch])
        return following, logits

    states, (_, logits), _ = controlled_scan(
        observe,
        lambda latent, observed, inputs: (observed[0], None),
        latent,
        (parts, batch.prev_action, batch.is_first, keys),
    )
    return jax.tree.map(lambda leaf: leaf[1:], states), logits


def world_model_loss(
    params: Params,
    model: WorldModel,
    batch: Batch,
    key: jax.Array,
    *,
    kl_scale: float = 1.0,
    kl_balance: float = 0.8,
    free_nats: float = 1.0,
    decoded_share: float = 1.0,
) -> tuple[jax.Array, tuple[LatentState, Metrics]]:
    """Negative evidence bound of the RSSM ensemble (Eq. 1), averaged over rows.

    Image and reward likelihoods are unit-variance Gaussians, up to their constants; the
    image's is of the model's `image_coordinates`, summed over pixels. Each row's KL is
    to one member's prior, drawn uniformly.

    Args:
      params: the world model's parameters.
      model: the world model.
      batch: sequences [T, B, ...].
      key: one key.
      kl_scale: weight of the KL.
      kl_balance: share of its gradient that goes to the prior.
      free_nats: mean KL below which it has no gradient.
      decoded_share: share of the T rows, drawn anew each time, whose images are
        predicted: an unbiased estimate of the loss for less arithmetic.

    Returns:
      The loss, and the posterior [T, B] with the metrics.
    """
    length, size = batch.reward.shape
    observe_key, member_key, decoded_key = jax.random.split(key, 3)
    posterior, posterior_logits = observe_sequence(
        model,
        params,
        batch,
        model.initial((size,)),
        jax.random.split(observe_key, length),
    )
    member = jax.random.randint(member_key, (length, size), 0, model.members)
    all_logits = model.prior_logits(params, posterior.deter)
    # A member that is not there would be NaN, and no error.
    chex.assert_shape(all_logits, (model.members, *posterior_logits.shape))
    prior_logits = choose_member(all_logits, member)
    kl_loss, kl = balanced_kl(posterior_logits, prior_logits, kl_balance, free_nats)

    feature = posterior.feature
    decoded = some_rows(decoded_key, length, decoded_share)
    image = jnp.asarray(batch.image)[decoded].astype(jnp.float32) / 255.0 - 0.5
    predicted_image = model.decode(params, feature[decoded])
    chex.assert_equal_shape([predicted_image, image])
    image_error = model.image_coordinates(predicted_image - image)
    chex.assert_equal_shape([image_error, image])
    image_loss = 0.5 * jnp.sum(jnp.square(image_error), axis=(-3, -2, -1))
    reward = model.reward(params, feature)
    chex.assert_equal_shape([reward, batch.reward])
    reward_loss = 0.5 * jnp.square(reward - batch.reward)

    loss = jnp.mean(image_loss) + jnp.mean(reward_loss) + kl_scale * kl_loss
    metrics = {
        "model/loss": loss,
        "model/image_loss": jnp.mean(image_loss),
        "model/reward_loss": jnp.mean(reward_loss),
        "model/kl": jnp.mean(kl),
    }
    return loss, (posterior, metrics)


def some_rows(key: jax.Array, length: int, share: float) -> jax.Array | slice:
    """Returns an index of the rows [T, ...] that a share of them is, in order.

    Rows are drawn without replacement, the same of every sequence: an axis B that is
    split over devices stays as it is. A share of 1 is all of them, and draws nothing.
    """
    count = max(1, round(share * length))
    if count >= length:
        return slice(None)
    return jnp.sort(jax.random.permutation(key, length)[:count])
