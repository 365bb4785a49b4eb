"""Stride-2 convolutions that are fast on a CPU and native on an accelerator.

XLA's CPU backend is fast at stride-1 convolutions and matrix products, and several
times slower at the gradients of strided and dilated ones; inside a loop, such as the
one over a run's seeds, more than ten times. So on a CPU both layers become a stride-1
convolution between space-to-depth and depth-to-space reshapes, whose gradient is two
matrix products, for as many images at a time as a core's cache has room for. Parameter
names, shapes and values are those of `flax.linen.Conv` and `flax.linen.ConvTranspose`
with `padding="VALID"` and `strides=(2, 2)`, so that a checkpoint moves between
platforms. The form is chosen when the program is lowered for a platform.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

_LAYOUT = ("NHWC", "HWIO", "NHWC")
# A core's second-level cache has half a megabyte to two.
_CACHE_BYTES = 2**20

Convolution = Callable[[jax.Array, jax.Array], jax.Array]


def _by_platform(dense_form: Convolution, native: Convolution) -> Convolution:
    """Returns a convolution whose value and gradient follow the platform's better form.

    The backward pass picks its form by itself: left to automatic differentiation, it
    would carry the residuals of both forms.
    """

    @jax.custom_vjp
    def convolution(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.platform_dependent(inputs, kernel, cpu=dense_form, default=native)

    def backward_of(form: Convolution) -> Callable[..., Any]:
        return lambda inputs, kernel, grad: jax.vjp(form, inputs, kernel)[1](grad)

    def forward(inputs: jax.Array, kernel: jax.Array) -> Any:
        return convolution(inputs, kernel), (inputs, kernel)

    def backward(residuals: Any, grad: jax.Array) -> Any:
        return lax.platform_dependent(
            *residuals, grad, cpu=backward_of(dense_form), default=backward_of(native)
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


@jax.custom_vjp
def _dense_convolution(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    """The stride-1 convolution without padding."""
    return lax.conv_general_dilated(
        inputs, kernel, (1, 1), "VALID", dimension_numbers=_LAYOUT
    )


def _dense_forward(inputs: jax.Array, kernel: jax.Array) -> Any:
    return _dense_convolution(inputs, kernel), (inputs, kernel)


def _windows(inputs: jax.Array, taps: int) -> jax.Array:
    """Returns [N, h, w, taps * taps * C]: what each place of a convolution sees."""
    height, width = inputs.shape[1] - taps + 1, inputs.shape[2] - taps + 1
    shifted = [
        inputs[:, i : i + height, j : j + width]
        for i in range(taps)
        for j in range(taps)
    ]
    return jnp.concatenate(shifted, axis=-1)


def _images_at_once(images: int, window_bytes: int) -> int:
    """Returns the most images, a divisor of all, whose windows fit the cache."""
    fitting = max(1, _CACHE_BYTES // window_bytes)
    return max(n for n in range(1, min(images, fitting) + 1) if images % n == 0)


def _dense_backward(residuals: Any, grad: jax.Array) -> Any:
    """Two matrix products for some images at a time.

    Over all images the windows, taps squared times the pictures, would go through
    memory; so they stay in the cache.
    """
    inputs, kernel = residuals
    taps = kernel.shape[0]
    matrix = kernel.reshape(-1, kernel.shape[-1])
    places = grad.shape[1] * grad.shape[2]
    at_once = _images_at_once(
        inputs.shape[0], places * matrix.shape[0] * inputs.dtype.itemsize
    )

    # What is taken at once is the first axis, so that images that are sharded over
    # devices stay where they are.
    inputs, grad = (x.reshape(at_once, -1, *x.shape[1:]) for x in (inputs, grad))

    def some_images(place: jax.Array, grads: Any) -> Any:
        kernel_grad, inputs_grad = grads
        windows, to_inputs = jax.vjp(
            lambda x: _windows(x, taps),
            lax.dynamic_index_in_dim(inputs, place, 1, False),
        )
        some_grad = lax.dynamic_index_in_dim(grad, place, 1, False)
        rows = some_grad.reshape(-1, some_grad.shape[-1])
        kernel_grad += jnp.matmul(
            rows.T,
            windows.reshape(-1, windows.shape[-1]),
            preferred_element_type=jnp.float32,
        )
        (some_inputs_grad,) = to_inputs((rows @ matrix.T).reshape(windows.shape))
        return kernel_grad, lax.dynamic_update_index_in_dim(
            inputs_grad, some_inputs_grad, place, 1
        )

    start = jnp.zeros(matrix.T.shape, jnp.float32), jnp.zeros_like(inputs)
    kernel_grad, inputs_grad = lax.fori_loop(0, inputs.shape[1], some_images, start)
    kernel_grad = kernel_grad.T.reshape(kernel.shape).astype(kernel.dtype)
    return inputs_grad.reshape(-1, *inputs.shape[2:]), kernel_grad


_dense_convolution.defvjp(_dense_forward, _dense_backward)


def _pad_to_even(kernel: jax.Array) -> jax.Array:
    odd = kernel.shape[0] % 2
    return jnp.pad(kernel, ((0, odd), (0, odd), (0, 0), (0, 0)))


def _dense_down(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    """Space-to-depth, then a stride-1 convolution of half the kernel size."""
    batch, height, width, channels = inputs.shape
    size, _, _, features = kernel.shape
    taps = (size + 1) // 2
    rows = (height - size) // 2 + taps
    columns = (width - size) // 2 + taps
    inputs = jnp.pad(
        inputs[:, : 2 * rows, : 2 * columns],
        (
            (0, 0),
            (0, max(0, 2 * rows - height)),
            (0, max(0, 2 * columns - width)),
            (0, 0),
        ),
    )
    blocks = inputs.reshape(batch, rows, 2, columns, 2, channels)
    blocks = blocks.transpose(0, 1, 3, 2, 4, 5)
    blocks = blocks.reshape(batch, rows, columns, 4 * channels)
    kernel = _pad_to_even(kernel).reshape(taps, 2, taps, 2, channels, features)
    kernel = kernel.transpose(0, 2, 1, 3, 4, 5)
    return _dense_convolution(
        blocks, kernel.reshape(taps, taps, 4 * channels, features)
    )


def _dense_up(inputs: jax.Array, kernel: jax.Array) -> jax.Array:
    """A stride-1 convolution that yields four phases a pixel, then depth-to-space."""
    batch, height, width, channels = inputs.shape
    size, _, _, features = kernel.shape
    # Output row 2 i + a takes kernel row size - 1 - a from input row i.
    kernel = kernel[::-1, ::-1]
    if height == width == 1:
        return jnp.einsum("nc,yxcf->nyxf", inputs[:, 0, 0], kernel)
    taps = (size + 1) // 2
    kernel = _pad_to_even(kernel).reshape(taps, 2, taps, 2, channels, features)
    # A window's first tap sees the earliest row, which is furthest from its output.
    kernel = kernel[::-1, :, ::-1].transpose(0, 2, 4, 1, 3, 5)
    kernel = kernel.reshape(taps, taps, channels, 4 * features)
    margin = (taps - 1, taps - 1)
    inputs = jnp.pad(inputs, ((0, 0), margin, margin, (0, 0)))
    phases = _dense_convolution(inputs, kernel)
    rows, columns = height + taps - 1, width + taps - 1
    image = phases.reshape(batch, rows, columns, 2, 2, features)
    image = image.transpose(0, 1, 3, 2, 4, 5)
    image = image.reshape(batch, 2 * rows, 2 * columns, features)
    return image[:, : 2 * (height - 1) + size, : 2 * (width - 1) + size]


convolve_down = _by_platform(_dense_down, _native_down)
convolve_up = _by_platform(_dense_up, _native_up)


class HalvingConv(nn.Module):
    """`nn.Conv(features, (k, k), (2, 2), "VALID")`, [N, H, W, C] to [N, h, w, f].

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
        outputs = self.convolution(inputs.astype(self.dtype), kernel.astype(self.dtype))
        return outputs + bias.astype(self.dtype)[None, None, None]


class DoublingConv(HalvingConv):
    """`nn.ConvTranspose(features, (k, k), (2, 2), "VALID")`, h = 2 (H - 1) + k."""

    convolution: Convolution = convolve_up
