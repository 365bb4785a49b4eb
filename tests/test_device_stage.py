import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moto_jax.acting.collection import Play
from moto_jax.acting.device_stage import DeviceStage
from moto_jax.types import Policy
from moto_jax.worlds.kitchen import tasks
from moto_jax.worlds.mini import minikitchen
from moto_jax.worlds.mini.environment import MiniKitchenEnv
from moto_jax.worlds.mini.minikitchen import MiniKitchen

KEY = jax.random.key(3)
STEPS = 6
KITCHEN = MiniKitchen(image_size=16, episode_steps=STEPS)


def act(params, carry, image, is_first, key):
    """Depends on all that a policy is given, and counts its steps."""
    count = jnp.where(is_first, 0.0, carry) + 1.0
    seen = jnp.mean(image.astype(jnp.float32), axis=(1, 2)) / 255
    noise = jax.random.normal(key, (len(image), 3))
    action = params["bias"][None] + jnp.sin(seen + count[:, None]) + 0.3 * noise
    return jnp.tanh(action), count


POLICY = Policy(initial=lambda count: jnp.zeros(count), act=act)
PARAMS = {"bias": np.array([[0.1, -0.2, 0.3], [1.0, 2.0, 3.0]], np.float32)}
KEYS = jax.random.split(KEY, 2)


@pytest.fixture(scope="module")
def play():
    player = DeviceStage(KITCHEN).player(POLICY)
    return lambda *plays: list(player(PARAMS, KEYS, [Play(*one) for one in plays]))


def test_an_episode_is_what_the_environment_and_the_policy_do_step_by_step(play):
    (episode,) = play((1, 7))
    env = MiniKitchenEnv(image_size=16, episode_steps=STEPS)
    image, info = env.reset(seed=7)
    carry, params = jnp.full(1, 99.0), {"bias": PARAMS["bias"][1]}
    key = jax.random.fold_in(KEYS[1], 7)
    for row in range(STEPS):
        np.testing.assert_array_equal(episode.image[row], image)
        np.testing.assert_allclose(episode.qpos[row], info["qpos"], atol=1e-6)
        first = np.array([row == 0])
        row_key = jax.random.fold_in(key, row)
        action, carry = act(params, carry, image[None], first, row_key)
        np.testing.assert_allclose(episode.action[row], action[0], atol=1e-6)
        # Its own, so that rounding does not add up.
        image, *_, info = env.step(episode.action[row])
    assert episode.num_rows == STEPS + 1
    np.testing.assert_array_equal(
        episode.objects_in_goal, tasks.objects_in_goal(episode.qpos)
    )


def test_an_episode_does_not_depend_on_what_is_played_beside_it(play):
    alone = play((0, 5))[0]
    together = play((1, 4), (0, 5), (0, 6))
    for field in ("image", "action", "qpos", "objects_in_goal"):
        np.testing.assert_array_equal(
            getattr(alone, field), getattr(together[1], field)
        )
        assert not np.array_equal(together[0].action, together[1].action)
        assert not np.array_equal(together[2].action, together[1].action)


def test_each_members_own_parameters_and_key_act(play):
    one, other = play((0, 5), (1, 5))
    # The same start, since it is the seed's.
    np.testing.assert_array_equal(one.image[0], other.image[0])
    assert np.abs(one.action[0] - other.action[0]).max() > 0.1


def test_a_seed_out_of_range_is_refused(play):
    with pytest.raises(ValueError, match="seed -1 is not in"):
        play((0, -1))


def test_an_action_that_is_not_finite_names_its_episode():
    player = DeviceStage(KITCHEN).player(POLICY)
    broken = {"bias": np.full((1, 3), np.nan, np.float32)}
    with pytest.raises(FloatingPointError, match="seed 11 is not finite"):
        list(player(broken, KEYS[:1], [Play(0, 11)]))


def test_there_is_nothing_to_close_and_no_process():
    assert DeviceStage(KITCHEN).process_ids == ()
    assert minikitchen.EPISODE_STEPS == MiniKitchen().episode_steps
