"""The render profiles: what they show, how close they are, what they cost nothing."""

import numpy as np
import pytest

from moto_jax.worlds import graphics
from moto_jax.worlds.graphics import GraphicsError
from moto_jax.worlds.kitchen import renderer, tasks
from moto_jax.worlds.kitchen.environment import KitchenEnv

# The stove's left half, which the lamp lights: rows and columns of a 64-pixel image.
LAMP_SPOT = (slice(22, 36), slice(28, 44))
# The wall, the microwave and the robot's base, which it does not.
UNLIT = (slice(0, 64), slice(0, 20))

# Of the counter, beside the microwave and its door.
COUNTER = (slice(40, 48), slice(10, 18))


@pytest.fixture(scope="module")
def fast():
    with_context = renderer.KitchenRenderer("fast")
    yield with_context
    with_context.close()


@pytest.fixture(scope="module")
def shaded():
    with_context = renderer.KitchenRenderer("shaded")
    yield with_context
    with_context.close()


@pytest.fixture(scope="module")
def paper():
    with_context = renderer.KitchenRenderer("paper")
    yield with_context
    with_context.close()


def start_state() -> np.ndarray:
    env = KitchenEnv(render_frames=False, robot_noise_ratio=0.0)
    return env.reset(seed=0)[1]["qpos"]


def with_objects(qpos: np.ndarray, *done: str) -> np.ndarray:
    qpos = qpos.copy()
    for name in done:
        qpos[list(tasks.QPOS_INDICES[name])] = tasks.GOALS[name]
    return qpos


@pytest.fixture(scope="module")
def states() -> dict[str, np.ndarray]:
    start = start_state()
    moved_arm = with_objects(start, "microwave", "kettle", "hinge cabinet")
    moved_arm[:7] = (-0.9, -1.5, 1.6, -2.2, -0.6, 1.2, 2.2)
    return {
        "start": start,
        "lit": with_objects(start, "light switch"),
        "moved": moved_arm,
        "lit and moved": with_objects(moved_arm, "light switch", "slide cabinet"),
    }


@pytest.fixture(scope="module")
def paper_images(paper, states) -> dict[str, np.ndarray]:
    return {name: paper.render(qpos) for name, qpos in states.items()}


def difference(first: np.ndarray, second: np.ndarray) -> float:
    """The mean absolute error in grey levels."""
    return float(np.abs(first.astype(int) - second.astype(int)).mean())


@pytest.mark.kitchen
def test_papers_reset_frame_has_the_authors_mean_colour(paper_images):
    image = paper_images["start"]
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    # Of the first frames of ten episodes that the paper's authors recorded.
    np.testing.assert_allclose(image.mean((0, 1)), [98.1, 99.5, 101.5], atol=0.6)


@pytest.mark.kitchen
def test_fast_is_close_to_paper(fast, paper_images, states):
    errors = [difference(fast.render(states[k]), paper_images[k]) for k in states]
    assert np.mean(errors) <= 10
    assert max(errors) <= 12


@pytest.mark.kitchen
def test_shaded_is_nearer_to_a_larger_picture_than_the_others(
    fast, shaded, paper_images, states
):
    large = renderer.KitchenRenderer("paper", image_size=256)
    errors = []
    for name in ("start", "lit and moved"):
        expected = renderer.box_filter(large.render(states[name]), 4)
        images = (
            shaded.render(states[name]),
            fast.render(states[name]),
            paper_images[name],
        )
        errors.append([difference(image, expected) for image in images])
    large.close()
    ours, of_fast, of_paper = np.mean(errors, axis=0)
    assert ours <= of_fast / 2
    assert ours <= of_paper / 2


@pytest.mark.kitchen
def test_shaded_has_the_shadow_that_the_door_throws(fast, shaded, paper_images, states):
    expected = paper_images["start"][COUNTER].mean()
    assert fast.render(states["start"])[COUNTER].mean() > expected + 20
    found = shaded.render(states["start"])[COUNTER].mean()
    assert found == pytest.approx(expected, abs=3)


@pytest.mark.kitchen
def test_the_light_switch_lights_the_stove_in_all_profiles(
    fast, shaded, paper_images, states
):
    for dark, lit in [
        (fast.render(states["start"]), fast.render(states["lit"])),
        (shaded.render(states["start"]), shaded.render(states["lit"])),
        (paper_images["start"], paper_images["lit"]),
    ]:
        assert lit[LAMP_SPOT].mean() - dark[LAMP_SPOT].mean() > 50
        assert difference(lit[UNLIT], dark[UNLIT]) < 1


@pytest.mark.kitchen
def test_the_lamp_shines_on_the_kettle_as_in_paper(fast, paper_images, states):
    dark, lit = fast.render(states["moved"]), fast.render(states["lit and moved"])
    without_kettle = states["moved"].copy()
    without_kettle[25] = 0.3
    kettle = (fast.render(without_kettle) != dark).any(axis=-1)
    assert kettle.sum() > 20
    expected = paper_images["lit and moved"][kettle].mean()
    expected -= paper_images["moved"][kettle].mean()
    assert expected > 15
    assert lit[kettle].mean() - dark[kettle].mean() == pytest.approx(expected, abs=4)


@pytest.mark.kitchen
@pytest.mark.parametrize("name", tasks.OBJECTS)
def test_every_object_at_its_goal_is_seen(fast, states, name):
    start = fast.render(states["start"])
    image = fast.render(with_objects(states["start"], name))
    changed = np.abs(image.astype(int) - start).max(axis=-1) > 10
    assert changed.sum() >= 5


@pytest.mark.kitchen
def test_a_nearer_body_hides_a_farther_one(fast, states):
    # The kettle under the counter is out of sight; above the stove it hides the stove.
    below, above = states["start"].copy(), states["start"].copy()
    below[25], above[25] = 0.5, 1.8
    assert difference(fast.render(below), fast.render(above)) > 2
    farther_below = below.copy()
    farther_below[25] = 0.3
    np.testing.assert_array_equal(fast.render(below), fast.render(farther_below))


@pytest.mark.kitchen
def test_an_image_depends_on_the_joint_positions_alone(fast, paper, states):
    first = fast.render(states["lit"])
    kept = first.copy()
    fast.render(states["moved"])
    paper.render(states["start"])  # Makes another graphics context the current one.
    np.testing.assert_array_equal(fast.render(states["lit"]), kept)
    np.testing.assert_array_equal(first, kept)
    assert isinstance(fast.gl_renderer, str) and fast.gl_renderer


@pytest.mark.kitchen
@pytest.mark.parametrize("qpos", [np.zeros(29), np.zeros((1, 30)), np.full(30, np.nan)])
def test_impossible_positions_are_refused(fast, qpos):
    with pytest.raises(ValueError, match="30 finite joint positions"):
        fast.render(qpos)


@pytest.mark.kitchen
def test_closing_twice_is_harmless_and_leaves_others_working(fast, states):
    other = renderer.KitchenRenderer("paper", image_size=16)
    before = fast.render(states["start"])
    assert other.render(states["start"]).shape == (16, 16, 3)
    other.close()
    other.close()
    np.testing.assert_array_equal(fast.render(states["start"]), before)


def test_an_unknown_profile_is_named():
    with pytest.raises(ValueError, match="'glossy': use one of fast, shaded, paper"):
        renderer.KitchenRenderer("glossy")


def test_a_context_that_cannot_be_made_is_one_error(monkeypatch):
    monkeypatch.setattr(graphics, "choose_backend", lambda: "absent")
    with pytest.raises(GraphicsError, match="absent backend.*apt-get") as error:
        renderer.KitchenRenderer("paper")
    assert "\n" not in str(error.value)


def test_box_filter_averages_blocks_and_rounds():
    samples = np.zeros((2, 4, 3), np.uint8)
    samples[:, :2, 0] = [[255, 255], [255, 255]]
    samples[:, :2, 1] = [[0, 1], [1, 0]]  # Mean 0.5 rounds up.
    samples[:, 2:, 2] = [[10, 20], [30, 41]]  # Mean 25.25 rounds down.
    np.testing.assert_array_equal(
        renderer.box_filter(samples, 2), [[[255, 1, 0], [0, 0, 25]]]
    )
