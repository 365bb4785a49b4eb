"""The straightforward world model that the package's is timed against.

`flax.linen`'s own convolutions, and everything that a row needs computed inside the
scan over rows. Parameters and mathematics are the package's, only the layers' names
differ, so both train alike.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from moto_jax.learning.networks.pixels import KERNELS
from moto_jax.learning.networks.world_networks import Sizes
from moto_jax.learning.world_model import WorldModel, make_world_model


class PlainEncoder(nn.Module):
    """`pixels.Encoder` on `nn.Conv`."""

    depth: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Maps uint8 [..., 64, 64, 3] to embeddings [..., 32 * depth]."""
        hidden = image.astype(self.dtype) / 255.0 - 0.5
        for layer, kernel in enumerate(KERNELS[64].encoder):
            features = 2**layer * self.depth
            hidden = nn.Conv(
                features, (kernel, kernel), (2, 2), "VALID", dtype=self.dtype
            )(hidden)
            hidden = nn.elu(hidden)
        return hidden.reshape((*image.shape[:-3], -1))


class PlainDecoder(nn.Module):
    """`pixels.Decoder` on `nn.ConvTranspose`."""

    depth: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, feature: jax.Array) -> jax.Array:
        """Maps [..., F] to mean images [..., 64, 64, 3]."""
        hidden = nn.Dense(32 * self.depth, dtype=self.dtype)(feature)
        hidden = hidden[..., None, None, :]
        channels = (4 * self.depth, 2 * self.depth, self.depth, 3)
        for features, kernel in zip(channels, KERNELS[64].decoder, strict=True):
            hidden = nn.ConvTranspose(
                features, (kernel, kernel), (2, 2), "VALID", dtype=self.dtype
            )(hidden)
            hidden = hidden if features == 3 else nn.elu(hidden)
        return hidden.astype(jnp.float32)


def make_plain_model(sizes: Sizes, **others: Any) -> WorldModel:
    """Returns `make_world_model`'s record on flax's convolutions."""
    return make_world_model(sizes, **others, encoder=PlainEncoder, decoder=PlainDecoder)


def make_straightforward_model(sizes: Sizes, **others: Any) -> WorldModel:
    """Returns the plain model with a row's networks inside the scan over rows."""
    model = make_plain_model(sizes, **others)

    def observe(params, image, *args):
        return model.observe(params, model.embed(params, image), *args)

    def scanned(function):
        # Over the first axis, which is time wherever the losses call these.
        return lambda params, rows: jax.lax.map(lambda row: function(params, row), rows)

    def prior_logits(params, deter):
        return jnp.moveaxis(scanned(model.prior_logits)(params, deter), 0, 1)

    return model._replace(
        embed=lambda params, image: image,
        observe=observe,
        prior_logits=prior_logits,
        reward=scanned(model.reward),
        decode=scanned(model.decode),
    )
