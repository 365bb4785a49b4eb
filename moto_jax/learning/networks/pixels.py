"""Image encoder and decoder of the world model (DreamerV2's, kernels 4444 / 5566).

Images of 64 pixels have DreamerV2's four layers; those of 32 and 16 one and two fewer,
which leaves the same 2 x 2 places at the encoder's end.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from moto_jax.learning.networks.convolutions import DoublingConv, HalvingConv


class Kernels(NamedTuple):
    """Sides of the kernels, a layer each."""

    encoder: tuple[int, ...]
    decoder: tuple[int, ...]


# By the side of the square image, pixels.
KERNELS = {
    64: Kernels((4, 4, 4, 4), (5, 5, 6, 6)),
    32: Kernels((4, 4, 4), (5, 6, 6)),
    16: Kernels((4, 4), (6, 6)),
}


def check_image_size(image_size: int) -> None:
    """Raises ValueError unless encoder and decoder can take square images this size."""
    if image_size not in KERNELS:
        sizes = ", ".join(map(str, sorted(KERNELS)))
        raise ValueError(
            f"image size {image_size} does not fit the networks: set "
            f"config.env.image_size to one of {sizes}"
        )


def colour_axes(scale: float) -> np.ndarray:
    """Returns [3, 3], which maps red, green and blue to three other coordinates.

    They are brightness, red against green and yellow against blue, of unit length and
    at right angles, the last two then times `scale`. The kitchen is grey: of what
    changes in its pictures 0.3 % is red against green, and a burner's plate that turns
    red is nowhere else.

    Args:
      scale: positive; with 1 the square of an error is that in red, green and blue.
    """
    axes = np.array([[1.0, 1.0, 1.0], [1.0, -1.0, 0.0], [0.5, 0.5, -1.0]])
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    return (np.array([1.0, scale, scale])[:, None] * axes).T


def _merge_leading(inputs: jax.Array, trailing: int) -> jax.Array:
    """Returns [N, ...]: all axes before the last `trailing` ones as one.

    The last of them, a batch's sequences, goes to the front first: where it is sharded
    over devices, so is N, while merged behind another axis it would be gathered.
    """
    if inputs.ndim > trailing:
        inputs = jnp.moveaxis(inputs, -trailing - 1, 0)
    return inputs.reshape((-1, *inputs.shape[inputs.ndim - trailing :]))


def _split_leading(outputs: jax.Array, leading: tuple[int, ...]) -> jax.Array:
    """Returns the outputs for inputs that `_merge_leading` merged, [*leading, ...]."""
    trailing = outputs.shape[1:]
    if not leading:
        return outputs.reshape(trailing)
    outputs = outputs.reshape((leading[-1], *leading[:-1], *trailing))
    return jnp.moveaxis(outputs, 0, len(leading) - 1)


class Encoder(nn.Module):
    """Images uint8 [..., 64, 64, 3] to embeddings [..., 32 * depth].

    With DreamerV2's kernels; of smaller images half as many and a quarter. A
    `colour_scale` other than 1 sees them in `colour_axes`.
    """

    depth: int
    kernels: Sequence[int] = KERNELS[64].encoder
    dtype: Any = jnp.float32
    colour_scale: float = 1.0

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """Maps uint8 images to embeddings in `dtype`."""
        leading = image.shape[:-3]
        hidden = _merge_leading(image, 3).astype(self.dtype) / 255.0 - 0.5
        if self.colour_scale != 1.0:
            hidden = hidden @ jnp.asarray(colour_axes(self.colour_scale), self.dtype)
        for layer, kernel in enumerate(self.kernels):
            hidden = HalvingConv(2**layer * self.depth, kernel, self.dtype)(hidden)
            hidden = nn.elu(hidden)
        return _split_leading(hidden.reshape((hidden.shape[0], -1)), leading)


class Decoder(nn.Module):
    """Features [..., F] to mean images float32 [..., 64, 64, 3] around zero.

    A `colour_scale` other than 1 predicts them in `colour_axes`, and turns them back.
    """

    depth: int
    kernels: Sequence[int] = KERNELS[64].decoder
    dtype: Any = jnp.float32
    colour_scale: float = 1.0

    @nn.compact
    def __call__(self, feature: jax.Array) -> jax.Array:
        """Maps features to mean images, of which -0.5 is black and 0.5 white."""
        leading = feature.shape[:-1]
        units = 2 ** (len(self.kernels) + 1) * self.depth
        hidden = nn.Dense(units, dtype=self.dtype)(_merge_leading(feature, 1))
        hidden = hidden[:, None, None, :]
        for layer, kernel in enumerate(self.kernels):
            last = layer == len(self.kernels) - 1
            channels = 3 if last else 2 ** (len(self.kernels) - 2 - layer) * self.depth
            hidden = DoublingConv(channels, kernel, self.dtype)(hidden)
            hidden = hidden if last else nn.elu(hidden)
        image = hidden.astype(jnp.float32)
        if self.colour_scale != 1.0:
            image = image @ np.linalg.inv(colour_axes(self.colour_scale))
        return _split_leading(image, leading)
