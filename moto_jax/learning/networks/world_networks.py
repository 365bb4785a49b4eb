"""The world model's networks: encoder, decoder, RSSM and reward head in one tree."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from moto_jax.learning.networks.heads import MLP
from moto_jax.learning.networks.pixels import (
    KERNELS,
    Decoder,
    Encoder,
    check_image_size,
)
from moto_jax.learning.networks.rssm import RSSM, LatentState


class Sizes(NamedTuple):
    """`config.world_model`: the networks' sizes.

    Attributes:
      deter: D.
      hidden: width of the RSSM's dense layers.
      groups: S.
      classes: K.
      members: E, the number of prior heads.
      depth: channels of the encoder's first layer.
      colour_scale: weight of colour beside brightness, in what is seen and in the
        errors of what is predicted; see `pixels.colour_axes`. 1, the paper's, leaves
        red, green and blue as they are.
      reward_layers: hidden layers of the reward head; with none it is linear.
      reward_units: their width.
      layer_norm: whether the reward head normalises its layers.
    """

    deter: int = 400
    hidden: int = 400
    groups: int = 32
    classes: int = 32
    members: int = 7
    depth: int = 48
    colour_scale: float = 1.0
    reward_layers: int = 4
    reward_units: int = 400
    layer_norm: bool = False


class _Networks(nn.Module):
    """All parameters of the world model in one tree."""

    rssm_sizes: tuple[int, int, int, int, int]
    depth: int
    reward_sizes: tuple[int, int, int]
    layer_norm: bool
    dtype: Any
    encoder_class: Callable[..., nn.Module]
    decoder_class: Callable[..., nn.Module]

    def setup(self) -> None:
        self.encoder = self.encoder_class(self.depth, dtype=self.dtype)
        self.decoder = self.decoder_class(self.depth, dtype=self.dtype)
        self.rssm = RSSM(*self.rssm_sizes, dtype=self.dtype)
        self.reward_head = MLP(
            *self.reward_sizes, layer_norm=self.layer_norm, dtype=self.dtype
        )

    def embed(self, image: jax.Array) -> jax.Array:
        return self.rssm.embedding_part(self.encoder(image))

    def advance(self, latent: LatentState, action: jax.Array) -> jax.Array:
        return self.rssm.advance(latent, action)

    def posterior_logits(self, deter: jax.Array, part: jax.Array) -> jax.Array:
        return self.rssm.posterior_logits(deter, part)

    def prior_logits(self, deter: jax.Array) -> jax.Array:
        return self.rssm.prior_logits(deter)

    def reward(self, feature: jax.Array) -> jax.Array:
        return self.reward_head(feature)[..., 0]

    def decode(self, feature: jax.Array) -> jax.Array:
        return self.decoder(feature)

    def __call__(self, image: jax.Array, action: jax.Array) -> jax.Array:
        deter, _, groups, classes, _ = self.rssm_sizes
        latent = LatentState.zeros(action.shape[:-1], deter, groups, classes)
        self.rssm(latent, action, self.encoder(image))
        self.decoder(latent.feature)
        return self.reward_head(latent.feature)


def make_networks(
    sizes: Sizes,
    image_size: int,
    dtype: Any,
    encoder: Callable[..., nn.Module] | None,
    decoder: Callable[..., nn.Module] | None,
) -> _Networks:
    """Returns the networks; arguments and errors are `make_world_model`'s."""
    check_image_size(image_size)
    if not 0 < sizes.colour_scale < jnp.inf:
        raise ValueError(
            f"colour_scale is {sizes.colour_scale}: set "
            "config.world_model.colour_scale to a positive number, 1 for red, green "
            "and blue as they are"
        )
    kernels, colours = KERNELS[image_size], {"colour_scale": sizes.colour_scale}
    return _Networks(
        rssm_sizes=(
            *(sizes.deter, sizes.hidden),
            *(sizes.groups, sizes.classes, sizes.members),
        ),
        depth=sizes.depth,
        reward_sizes=(sizes.reward_layers, sizes.reward_units, 1),
        layer_norm=sizes.layer_norm,
        dtype=dtype,
        encoder_class=encoder or partial(Encoder, kernels=kernels.encoder, **colours),
        decoder_class=decoder or partial(Decoder, kernels=kernels.decoder, **colours),
    )
