"""Stride-2 convolutions that are fast on a CPU and native on an accelerator.

XLA's CPU backend runs the gradients of strided and dilated convolutions on a slow path.
Written as space-to-depth (or depth-to-space), shifted slices and one matrix product,
the same mathematics runs several times faster. Parameter names, shapes and values are
those of `flax.linen.Conv` and `flax.linen.ConvTranspose` with `padding="VALID"` and
`strides=(2, 2)`, so that a checkpoint moves between platforms. The form is chosen when
the program is lowered for a platform.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

_LAYOUT = ("NHWC", "HWIO", "NHWC")

Convolution = Callable[[jax.Array, jax.Array], jax.Array]


def _by_platform(matrix_form: Convolution, native: Convolution) -> Convolution:
    """Returns a convolution whose value and gradient follow the platform's best form.

    The backward pass picks its form by itself: left to automatic differentiation, it
    would carry the residuals of both forms.
    """

    @jax.custom_vjp
    def convolution(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.platform_dependent(inputs, kernel, cpu=matrix_form, default=native)

    def backward_of(form: Convolution) -> Callable[..., Any]:
        return lambda inputs, kernel, grad: jax.vjp(form, inputs, kernel)[1](grad)

    def forward(inputs: jax.Array, kernel: jax.Array) -> Any:
        return convolution(inputs, kernel), (inputs, kernel)

    def backward(residuals: Any, grad: jax.Array) -> Any:
        return lax.platform_dependent(
            *residuals, grad, cpu=backward_of(matrix_form), default=backward_of(native)
        )

    convolution.defvjp(forward, backward)
    return convolution


def _native_down(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        inputs, kernel, (2, 2), "VALID", dimension_numbers=_LAYOUT
    )


def _native_up(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_transpose(
        inputs, kernel, (2, 2), "VALID", dimension_numbers=_LAYOUT
    )


def _shifted(inputs: jax.Array, taps: int, height: int, width: int) -> jax.Array:
    """Returns [N, height, width, taps * taps * C]: every window laid along channels."""
    slices = [
        inputs[:, row : row + height, column : column + width]
        for row in range(taps)
        for column in range(taps)
    ]
    return jnp.concatenate(slices, axis=-1)


def _matrix_down(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    """Space-to-depth, then a stride-1 convolution of half the kernel size."""
    batch, height, width, channels = inputs.shape
    size, _, _, features = kernel.shape
    out_height, out_width = (height - size) // 2 + 1, (width - size) // 2 + 1
    taps = (size + 1) // 2
    pad_height, pad_width = 2 * (out_height + taps - 1), 2 * (out_width + taps - 1)
    inputs = jnp.pad(
        inputs[:, :pad_height, :pad_width],
        (
            (0, 0),
            (0, max(0, pad_height - height)),
            (0, max(0, pad_width - width)),
            (0, 0),
        ),
    )
    blocks = inputs.reshape(batch, pad_height // 2, 2, pad_width // 2, 2, channels)
    blocks = blocks.transpose(0, 1, 3, 2, 4, 5)
    blocks = blocks.reshape(batch, pad_height // 2, pad_width // 2, 4 * channels)
    patches = _shifted(blocks, taps, out_height, out_width)
    kernel = jnp.pad(
        kernel, ((0, 2 * taps - size), (0, 2 * taps - size), (0, 0), (0, 0))
    )
    matrix = kernel.reshape(taps, 2, taps, 2, channels, features)
    matrix = matrix.transpose(0, 2, 1, 3, 4, 5).reshape(-1, features)
    return patches @ matrix


def _matrix_up(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    """A stride-1 convolution that yields four phases a pixel, then depth-to-space."""
    batch, height, width, channels = inputs.shape
    size, _, _, features = kernel.shape
    taps = (size + 1) // 2
    # The transposed convolution reads its kernel backwards: output row 2 i + a takes
    # kernel row size - 1 - a from input row i, and window tap 0 is the oldest row.
    kernel = jnp.pad(
        kernel[::-1, ::-1],
        ((0, 2 * taps - size), (0, 2 * taps - size), (0, 0), (0, 0)),
    )
    matrix = kernel.reshape(taps, 2, taps, 2, channels, features)[::-1, :, ::-1]
    matrix = matrix.transpose(0, 2, 4, 1, 3, 5).reshape(-1, 4 * features)
    margin = taps - 1
    inputs = jnp.pad(inputs, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    rows, columns = height + margin, width + margin
    phases = _shifted(inputs, taps, rows, columns) @ matrix
    phases = phases.reshape(batch, rows, columns, 2, 2, features)
    image = phases.transpose(0, 1, 3, 2, 4, 5)
    image = image.reshape(batch, 2 * rows, 2 * columns, features)
    return image[:, : 2 * (height - 1) + size, : 2 * (width - 1) + size]


convolve_down = _by_platform(_matrix_down, _native_down)
convolve_up = _by_platform(_matrix_up, _native_up)


class HalvingConv(nn.Module):
    """`nn.Conv(features, (k, k), (2, 2), "VALID")`: [N, H, W, C] -> [N, h, w, features].

    h = (H - k) // 2 + 1.
    """

    features: int
    kernel_size: int
    dtype: Any = jnp.float32
    convolution: Convolution = convolve_down

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Applies the convolution and adds the bias."""
        shape = (self.kernel_size, self.kernel_size, inputs.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        outputs = self.convolution(
            inputs.astype(self.dtype), kernel.astype(self.dtype)
        )
        return outputs + bias.astype(self.dtype)[None, None, None]


class DoublingConv(HalvingConv):
    """`nn.ConvTranspose(features, (k, k), (2, 2), "VALID")`, h = 2 (H - 1) + k."""

    convolution: Convolution = convolve_up
