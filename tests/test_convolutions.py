"""The fast convolutions are flax's strided ones in value, gradient and parameters.

On a CPU this tests the space-to-depth forms, on an accelerator the native ones.
"""

import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moto_jax.learning.networks import convolutions
from moto_jax.learning.networks.convolutions import DoublingConv, HalvingConv

FEATURES = 4
# (side, kernel): even and odd both ways, as in the encoder and the decoder; a decoder
# begins with a single pixel.
CASES = [("halving", 7, 4), ("halving", 6, 4), ("halving", 6, 3)]
CASES += [("doubling", 1, 5), ("doubling", 3, 5), ("doubling", 2, 4)]


def layers(direction: str, kernel: int, **options):
    """Our layer and flax's for the same sizes."""
    ours, flax_layer = {
        "halving": (HalvingConv, nn.Conv),
        "doubling": (DoublingConv, nn.ConvTranspose),
    }[direction]
    theirs = flax_layer(FEATURES, (kernel, kernel), (2, 2), "VALID", **options)
    return ours(FEATURES, kernel, **options), theirs


def random_inputs(side: int, images: int = 2) -> jax.Array:
    return jax.random.normal(jax.random.key(1), (images, side, side, 3))


def random_params(layer, inputs):
    """Parameters with a bias that is not zero."""
    params = layer.init(jax.random.key(0), inputs)["params"]
    return {**params, "bias": jnp.arange(FEATURES, dtype=jnp.float32)}


def value_and_gradients(layer, params, inputs):
    """Outputs and the gradients of a sum in which every output weighs differently."""

    def loss(params, inputs):
        outputs = layer.apply({"params": params}, inputs)
        weights = jnp.sin(jnp.arange(outputs.size)).reshape(outputs.shape)
        return jnp.sum(outputs.astype(jnp.float32) * weights), outputs

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    return gradient(params, inputs)


@pytest.mark.parametrize(("direction", "side", "kernel"), CASES)
def test_value_gradient_and_parameters_equal_flax(direction, side, kernel):
    ours, theirs = layers(direction, kernel)
    inputs = random_inputs(side)
    params = random_params(theirs, inputs)
    chex.assert_trees_all_equal_shapes_and_dtypes(
        ours.init(jax.random.key(0), inputs)["params"], params
    )
    gradients, outputs = value_and_gradients(ours, params, inputs)
    expected_gradients, expected = value_and_gradients(theirs, params, inputs)
    assert outputs.shape == expected.shape
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(gradients, expected_gradients, rtol=1e-4, atol=1e-4)


# Bytes that hold the windows of one image, of two or three, and of all six.
@pytest.mark.parametrize("cache_bytes", [1, 4_000, 10**6])
@pytest.mark.parametrize("direction", ["halving", "doubling"])
def test_a_gradient_does_not_depend_on_how_many_images_fit_the_cache(
    monkeypatch, direction, cache_bytes
):
    monkeypatch.setattr(convolutions, "_CACHE_BYTES", cache_bytes)
    ours, theirs = layers(direction, 4)
    inputs = random_inputs(6, images=6)
    params = random_params(theirs, inputs)
    gradients, _ = value_and_gradients(ours, params, inputs)
    expected, _ = value_and_gradients(theirs, params, inputs)
    chex.assert_trees_all_close(gradients, expected, rtol=1e-4, atol=1e-4)


def test_as_many_images_at_once_as_fit_and_divide_all(monkeypatch):
    monkeypatch.setattr(convolutions, "_CACHE_BYTES", 100)
    counts = [(12, 20, 4), (12, 8, 12), (7, 20, 1), (12, 101, 1), (1, 8, 1)]
    for images, window_bytes, at_once in counts:
        assert convolutions._images_at_once(images, window_bytes) == at_once


@pytest.mark.parametrize("direction", ["halving", "doubling"])
def test_bfloat16_computes_in_bfloat16_and_learns_in_float32(direction):
    ours, theirs = layers(direction, 3, dtype=jnp.bfloat16)
    inputs = random_inputs(3)
    params = random_params(theirs, inputs)
    gradients, outputs = value_and_gradients(ours, params, inputs)
    expected_gradients, expected = value_and_gradients(theirs, params, inputs)
    assert outputs.dtype == expected.dtype == jnp.bfloat16
    chex.assert_trees_all_equal_dtypes(gradients[0], params)
    np.testing.assert_allclose(
        np.float32(outputs), np.float32(expected), rtol=0.02, atol=0.05
    )
    chex.assert_trees_all_close(gradients, expected_gradients, rtol=0.05, atol=0.1)


@pytest.mark.parametrize("direction", ["halving", "doubling"])
def test_vmap_over_parameters_equals_one_at_a_time(direction):
    layer, _ = layers(direction, 3)
    inputs = random_inputs(3)
    first = random_params(layer, inputs)
    second = jax.tree.map(lambda x: 1 - x, first)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), first, second)

    def gradient(params):
        return value_and_gradients(layer, params, inputs)

    together = jax.jit(jax.vmap(gradient))(both)
    one_by_one = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), gradient(first), gradient(second)
    )
    chex.assert_trees_all_close(together, one_by_one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("direction", "side", "kernel"), CASES)
def test_an_accelerator_gets_the_native_convolutions(direction, side, kernel):
    ours, theirs = layers(direction, kernel)
    inputs = random_inputs(side)
    params = random_params(theirs, inputs)

    def convolutions(layer, platform):
        """The strides and dilations of the value's and the gradient's convolutions."""
        gradient = jax.jit(
            lambda params, inputs: jax.vjp(
                lambda *args: layer.apply({"params": args[0]}, args[1]), params, inputs
            )[1](layer.apply({"params": params}, inputs))
        )
        traced = gradient.trace(params, inputs)
        program = traced.lower(lowering_platforms=(platform,)).as_text()
        return sorted(re.findall(r"window = {.*?}", program))

    assert convolutions(ours, "cuda") == convolutions(theirs, "cuda")
    assert convolutions(ours, "cpu") != convolutions(theirs, "cpu")
