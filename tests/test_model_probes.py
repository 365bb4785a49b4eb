import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moto_jax.data.episodes import Episode
from moto_jax.learning.disagreement import logit_disagreement
from moto_jax.learning.model_based import PolicyCarry
from moto_jax.study import model_probes
from moto_jax.types import Policy
from moto_jax.worlds.kitchen import tasks
from moto_jax.worlds.kitchen.labels import make_label
from tests import fake_kitchen, fakes, reference

LENGTH, SIZE, HORIZON = 6, 3, 2
LABEL = make_label(("microwave", "kettle"))


def label_of(*columns):
    return make_label([tasks.OBJECTS[column] for column in columns])


def params_without_chance():
    """Reward from h alone, and all members move h alike."""
    params = fakes.linear_model_params()
    params["reward"][fakes.DETER :] = 0.0
    params["shift"][:] = 0.0
    return params


def batch_of(first=()):
    batch = fakes.random_batch(
        LENGTH, SIZE, action_size=fakes.ACTION_SIZE, image_size=2
    )
    is_first = np.zeros((LENGTH, SIZE), bool)
    for row, column in first:
        is_first[row, column] = True
    return batch.replace(is_first=is_first)


def filtered_deter(params, batch):
    """h of every row, [T, B, D]: the fake's posterior leaves h to the actions."""
    deter, rows = np.zeros((SIZE, fakes.DETER)), []
    for action, first in zip(batch.prev_action, batch.is_first, strict=True):
        keep = 1.0 - first[:, None]
        deter = fakes.linear_step(params, deter * keep, action * keep)
        rows.append(deter)
    return np.stack(rows)


def test_predicted_rewards_are_those_of_each_rows_posterior():
    params, batch = params_without_chance(), batch_of([(0, 0), (3, 1)])
    found = model_probes.predicted_rewards(
        fakes.linear_world_model(), params, batch, jax.random.key(0)
    )
    wanted = filtered_deter(params, batch) @ params["reward"][: fakes.DETER]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_predicted_rewards_know_what_is_seen():
    """The stochastic state comes from the image."""
    params, batch = fakes.linear_model_params(), batch_of()
    params["posterior"] *= 1e3
    found = model_probes.predicted_rewards(
        fakes.linear_world_model(), params, batch, jax.random.key(0)
    )
    look = (batch.image / 255.0).mean(axis=(2, 3)) @ params["look"]
    deter = filtered_deter(params, batch)
    logits = ((deter + look) @ params["posterior"]).reshape(LENGTH, SIZE, 2, -1)
    stoch = np.eye(fakes.MEMBERS)[logits.argmax(axis=-1)].reshape(LENGTH, SIZE, -1)
    wanted = np.concatenate([deter, stoch], axis=-1) @ params["reward"]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_imagined_rewards_follow_the_policy():
    params = params_without_chance()
    action = np.array([0.5, -1.0], np.float32)

    def policy(feature, key):
        # More with every step: twice what h was, in every row.
        return jnp.broadcast_to(action, (len(feature), 2)) + feature[:, :2]

    image = batch_of().image[0]
    found = model_probes.imagined_rewards(
        fakes.linear_world_model(), params, policy, image, 4, jax.random.key(0)
    )
    deter, wanted = np.zeros(fakes.DETER), []
    for _ in range(5):
        wanted.append(deter @ params["reward"][: fakes.DETER])
        deter = fakes.linear_step(params, deter, action + deter)
    assert found.shape == (5, SIZE)
    for column in range(SIZE):
        np.testing.assert_allclose(found[:, column], wanted, rtol=1e-4, atol=1e-5)


def test_imagined_rewards_begin_with_what_is_seen():
    params, image = fakes.linear_model_params(), batch_of().image[0]
    params["posterior"] *= 1e3
    found = model_probes.imagined_rewards(
        fakes.linear_world_model(),
        params,
        lambda feature, key: feature[:, :2],
        image,
        1,
        jax.random.key(0),
    )
    look = (image / 255.0).mean(axis=(1, 2)) @ params["look"]
    logits = (look @ params["posterior"]).reshape(SIZE, 2, -1)
    stoch = np.eye(fakes.MEMBERS)[logits.argmax(axis=-1)].reshape(SIZE, -1)
    wanted = stoch @ params["reward"][fakes.DETER :]
    np.testing.assert_allclose(found[0], wanted, rtol=1e-4, atol=1e-4)


def open_loop(params, batch, horizon=HORIZON):
    return model_probes.open_loop_rollouts(
        fakes.linear_world_model(),
        params,
        batch,
        horizon,
        logit_disagreement,
        jax.random.key(0),
    )


def test_uncertainty_is_the_mean_over_the_recorded_actions():
    params, batch = params_without_chance(), batch_of()
    found = open_loop(params, batch).uncertainty.mean(axis=0)
    deters = filtered_deter(params, batch)
    assert found.shape == (LENGTH - HORIZON, SIZE)
    for row in range(LENGTH - HORIZON):
        deter, uncertain = deters[row], []
        for ahead in range(1, HORIZON + 1):
            deter = fakes.linear_step(params, deter, batch.prev_action[row + ahead])
            logits = fakes.linear_prior_logits(params, deter)
            uncertain.append(reference.disagreement(logits, normalise=False))
        np.testing.assert_allclose(
            found[row], np.mean(uncertain, axis=0), rtol=1e-3, atol=1e-5
        )


def test_open_loop_rewards_are_of_the_rows_that_the_actions_lead_to():
    params, batch = params_without_chance(), batch_of()
    found = open_loop(params, batch)
    # Nothing is seen of h, so that it is what filtering makes of the same actions.
    rewards = filtered_deter(params, batch) @ params["reward"][: fakes.DETER]
    assert found.reward.shape == (HORIZON, LENGTH - HORIZON, SIZE)
    for ahead in range(HORIZON):
        wanted = rewards[1 + ahead : 1 + ahead + LENGTH - HORIZON]
        np.testing.assert_allclose(found.reward[ahead], wanted, rtol=1e-3, atol=1e-5)


def test_members_that_agree_are_certain():
    params = params_without_chance()
    params["prior"][:] = params["prior"][:1]
    uncertain = open_loop(params, batch_of()).uncertainty
    np.testing.assert_allclose(uncertain, 0.0, atol=1e-6)


def test_a_horizon_must_fit():
    with pytest.raises(ValueError, match="6 rows hold no 6 actions"):
        open_loop(params_without_chance(), batch_of(), LENGTH)


def episodes_of(*lengths):
    return [fake_kitchen.demonstrations(1, length=length)[0][1] for length in lengths]


def test_shorter_episodes_stand_still_at_the_end():
    long, short = episodes_of(5, 3)
    batch = model_probes.padded_batch([long, short], LABEL, rows=6)
    assert batch.image.shape == (6, 2, 8, 8, 3)
    np.testing.assert_array_equal(batch.image[:, 0], long.image)
    np.testing.assert_array_equal(batch.prev_action[1:, 0], long.action)
    np.testing.assert_array_equal(batch.image[:4, 1], short.image)
    np.testing.assert_array_equal(batch.image[4:, 1], short.image[[-1, -1]])
    np.testing.assert_array_equal(batch.prev_action[1:4, 1], short.action)
    assert not batch.prev_action[4:, 1].any()
    assert batch.is_first.nonzero()[0].tolist() == [0, 0]
    in_goal = short.objects_in_goal[:, [5, 6]].sum(axis=1)
    np.testing.assert_array_equal(batch.reward[1:4, 1], in_goal[1:])
    np.testing.assert_array_equal(batch.reward[4:, 1], in_goal[[-1, -1]])
    with pytest.raises(ValueError, match="6 rows that begins at 0 does not fit 5"):
        model_probes.padded_batch([long], LABEL, rows=5)
    with pytest.raises(ValueError, match="no episode"):
        model_probes.padded_batch([], LABEL, rows=5)


def test_what_lies_before_an_episode_is_forgotten():
    long, short = episodes_of(5, 3)
    batch = model_probes.padded_batch([long, short], LABEL, rows=8, starts=[1, 3])
    np.testing.assert_array_equal(batch.image[3:7, 1], short.image)
    np.testing.assert_array_equal(batch.prev_action[4:7, 1], short.action)
    np.testing.assert_array_equal(batch.image[1:7, 0], long.image)
    assert batch.is_first[1, 0] and batch.is_first[3, 1]
    assert not batch.is_first[2:, 0].any() and not batch.is_first[4:, 1].any()
    with pytest.raises(ValueError, match="4 rows that begins at 5 does not fit 8"):
        model_probes.padded_batch([short], LABEL, rows=8, starts=[5])


def test_windows_end_with_the_episode():
    windows = model_probes.whole_windows([6, 4, 2], rows=6, horizon=2)
    # From row j the last row asked for is j + 2.
    assert windows.T.tolist() == [[True] * 4, [True, True, False, False], [False] * 4]


def test_a_policy_that_is_followed_knows_what_was_executed_not_what_it_chose():
    def act(params, carry, image, is_first, key):
        # Ten times the last action it knows of, and the picture.
        known = jnp.where(is_first[:, None], 0.0, carry.action)
        action = params * known + image[:, 0, 0, :2]
        return action, PolicyCarry(carry.latent, action)

    def initial(count):
        return PolicyCarry(jnp.zeros(count), jnp.full((count, 2), 5.0))

    image = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones(3, np.uint8)
    executed = np.float32([[1, 2], [3, 4], [5, 6], [7, 8]])
    chosen = model_probes.actions_along(
        Policy(initial, act), 10.0, image, executed, jax.random.key(0)
    )
    np.testing.assert_allclose(chosen, [[0, 0], [11, 21], [32, 42], [53, 63]])


def recorded_episode(length, **fields):
    """Row j's picture is j; what was executed is not what was meant, row by row."""
    rows = np.arange(length + 1, dtype=np.uint8)[:, None, None, None]
    executed = np.float32(np.arange(2 * length).reshape(length, 2)) / 100
    recorded = {
        "image": np.broadcast_to(rows, (length + 1, 2, 2, 3)),
        "action": executed,
        "objects_in_goal": np.zeros((length + 1, 7), bool),
        "qpos": np.zeros((length + 1, 30), np.float32),
    }
    return Episode(**{**recorded, **fields})


def test_a_policy_that_does_what_was_meant_has_no_error():
    meant = {length: -recorded_episode(length).action for length in (6, 4)}
    seen = []

    def along(image, executed, key):
        seen.append(image.shape)
        # By the picture's number, and by what was executed there.
        length = 6 if image[5, 0, 0, 0] else 4
        chosen = meant[length][np.minimum(image[:, 0, 0, 0], length - 1)]
        np.testing.assert_array_equal(executed[:length], -meant[length])
        return chosen

    in_goal = np.zeros((7, 7), bool)
    in_goal[6, 3] = True
    episodes = [
        recorded_episode(
            length, intended_action=meant[length], objects_in_goal=in_goal[6 - length :]
        )
        for length in (6, 4)
    ]
    found = model_probes.squared_action_errors(along, episodes, label_of(3, 0), 100)
    assert found == [[0.0, None], [0.0, None]]
    # Compiled once.
    assert seen == [(6, 2, 2, 3)] * 2


def test_errors_are_of_the_actions_before_an_object_is_done():
    intended = np.float32([[1, 1], [2, 0], [3, 3], [0, 4], [9, 9]]) / 10
    # Of six rows: done at row 3, never, at row 1, and from the start.
    in_goal = np.zeros((6, 7), bool)
    in_goal[3:, 0] = in_goal[1, 2] = in_goal[:, 4] = True
    episode = recorded_episode(5, intended_action=intended, objects_in_goal=in_goal)

    def along(image, executed, key):
        return np.zeros_like(executed)

    ((first, never, third, at_once),) = model_probes.squared_action_errors(
        along, [episode], label_of(0, 1, 2, 4), 2
    )
    # Rows 1 and 2: (0.02 + 0.09) / 2; row 0 alone.
    np.testing.assert_allclose([first, third], [0.055, 0.01], rtol=1e-6)
    assert never is None and at_once is None


def test_what_was_executed_was_meant_where_nothing_else_is_known():
    in_goal = np.zeros((4, 7), bool)
    in_goal[3, 0] = True
    episode = recorded_episode(3, objects_in_goal=in_goal)
    ((error,),) = model_probes.squared_action_errors(
        lambda image, executed, key: executed + 0.5, [episode], label_of(0), 2
    )
    np.testing.assert_allclose(error, 0.25, rtol=1e-5)
