"""Colours beside brightness: what the networks see, draw and are told of an error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moto_jax.learning.networks.pixels import Decoder, Encoder, colour_axes
from moto_jax.learning.networks.world_networks import Sizes
from moto_jax.learning.world_model import make_world_model, world_model_loss
from tests import fakes


def test_the_axes_by_hand():
    seen = np.array([[1, 1, 1], [1, -1, 0], [1, 1, -2], [0, 0, 0]]) @ colour_axes(4.0)
    expected = [
        [np.sqrt(3), 0, 0],
        [0, 4 * np.sqrt(2), 0],
        [0, 0, 4 * np.sqrt(6)],
        [0, 0, 0],
    ]
    np.testing.assert_allclose(seen, expected, atol=1e-12)


def test_with_a_scale_of_one_errors_are_those_of_red_green_and_blue():
    axes = colour_axes(1.0)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)


def convolutions(params):
    """Returns the names of the layers with kernels of pixels, first to last."""
    return sorted(name for name in params if "Conv" in name)


def test_an_encoder_that_sees_other_axes_can_say_the_same():
    image = np.asarray(fakes.random_batch(2, 3, action_size=2, image_size=64).image)
    plain, scaled = Encoder(2), Encoder(2, colour_scale=5.0)
    params = plain.init(jax.random.key(0), image)["params"]
    first = convolutions(params)[0]
    kernel = np.linalg.inv(colour_axes(5.0)) @ params[first]["kernel"]
    moved = {**params, first: {**params[first], "kernel": kernel}}
    expected = plain.apply({"params": params}, image)
    np.testing.assert_allclose(
        scaled.apply({"params": moved}, image), expected, rtol=1e-4, atol=1e-5
    )
    assert np.abs(scaled.apply({"params": params}, image) - expected).max() > 0.01


def test_a_decoder_that_draws_in_other_axes_can_draw_the_same():
    feature = jax.random.normal(jax.random.key(1), (2, 3, 7))
    plain, scaled = Decoder(2), Decoder(2, colour_scale=5.0)
    params = plain.init(jax.random.key(0), feature)["params"]
    last = convolutions(params)[-1]
    in_axes = {name: leaf @ colour_axes(5.0) for name, leaf in params[last].items()}
    expected = plain.apply({"params": params}, feature)
    drawn = scaled.apply({"params": {**params, last: in_axes}}, feature)
    np.testing.assert_allclose(drawn, expected, rtol=1e-4, atol=1e-5)
    assert drawn.dtype == jnp.float32


def image_loss(scale, difference):
    """The image's loss of a model that draws what is there, but for a difference."""
    batch = fakes.random_batch(3, 2, action_size=fakes.ACTION_SIZE, image_size=2)
    batch = batch.replace(image=np.full_like(batch.image, 51))
    drawn = 51 / 255 - 0.5 + jnp.asarray(difference)
    model = fakes.linear_world_model()._replace(
        decode=lambda params, feature: jnp.broadcast_to(
            drawn, (*feature.shape[:-1], 2, 2, 3)
        ),
        image_coordinates=make_world_model(
            Sizes(colour_scale=scale), action_size=fakes.ACTION_SIZE
        ).image_coordinates,
    )
    params = fakes.linear_model_params()
    _, (_, metrics) = world_model_loss(params, model, batch, jax.random.key(1))
    return metrics["model/image_loss"]


def test_an_error_of_colour_weighs_more_and_one_of_brightness_as_before():
    # Four pixels, each with half the square of its distance.
    grey, red = [0.1, 0.1, 0.1], [0.2, -0.1, -0.1]
    assert image_loss(1.0, grey) == pytest.approx(4 * 0.5 * 0.03, rel=1e-4)
    assert image_loss(8.0, grey) == pytest.approx(4 * 0.5 * 0.03, rel=1e-4)
    assert image_loss(1.0, red) == pytest.approx(4 * 0.5 * 0.06, rel=1e-4)
    assert image_loss(8.0, red) == pytest.approx(4 * 0.5 * 0.06 * 64, rel=1e-4)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_not_positive_is_refused(scale):
    with pytest.raises(ValueError, match=r"config\.world_model\.colour_scale"):
        make_world_model(Sizes(colour_scale=scale), action_size=2)
