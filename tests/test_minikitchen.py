import gymnasium.utils.env_checker
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moto_jax.worlds.kitchen import tasks
from moto_jax.worlds.mini import minikitchen
from moto_jax.worlds.mini.environment import MiniKitchenEnv
from moto_jax.worlds.mini.minikitchen import KETTLE, NOTHING, MiniKitchen
from tests.mini_states import KEY, NUMBER, at_handle, place

OPEN, CLOSE = -1.0, 1.0
# What an object is at its goal.
DONE = np.ones(len(tasks.OBJECTS), np.float32)


@pytest.fixture
def still_air(monkeypatch):
    """Motion without noise."""
    monkeypatch.setattr(minikitchen, "MOTION_NOISE", 0.0)


def play(state, *actions):
    for action in actions:
        state = minikitchen.step(state, jnp.array(action, jnp.float32), KEY)
    return state


def test_the_gripper_has_momentum_and_a_top_speed(still_air):
    state, speeds = place(), []
    for _ in range(4):
        state = play(state, (1, 0, OPEN))
        speeds.append(float(state.velocity[0]))
    np.testing.assert_allclose(speeds, [0.06, 0.09, 0.105, 0.1125], rtol=1e-5)
    np.testing.assert_allclose(state.position, [0.15 + sum(speeds), 0.9], rtol=1e-5)
    assert state.steps == 4
    # Left alone it loses half of its speed a step.
    after = play(state, (0, 0, OPEN))
    np.testing.assert_allclose(after.velocity[0], 0.5 * speeds[-1], rtol=1e-5)


@pytest.mark.parametrize(
    ("push", "corner"), [((-1, 1), (0.1, 0.9)), ((1, -1), (0.9, 0.1))]
)
def test_the_gripper_stays_in_the_picture_whole(push, corner, still_air):
    state = play(place(), *[(*push, OPEN)] * 20)
    np.testing.assert_allclose(state.position, corner, rtol=1e-5)
    np.testing.assert_array_equal(state.velocity, [0, 0])
    picture = np.asarray(minikitchen.render(state, 64))
    rows, columns = np.nonzero((picture == minikitchen._GRIPPER).all(axis=-1))
    # Palm and fingers are 0.18 wide and 0.15 high; pixels at their edges are mixed.
    assert np.ptp(columns) + 1 >= 0.18 * 64 - 2 and np.ptp(rows) + 1 >= 0.15 * 64 - 2


def test_actions_beyond_their_range_are_cut(still_air):
    wild, full = play(place(), (9, -9, 7)), play(place(), (1, -1, 1))
    np.testing.assert_array_equal(wild.position, full.position)
    np.testing.assert_array_equal(wild.grip, full.grip)


@pytest.mark.parametrize("name", tasks.OBJECTS)
def test_a_gripper_that_closes_at_a_handle_holds_it(name, still_air):
    assert play(at_handle(name), (0, 0, OPEN)).held == NOTHING
    closed = play(at_handle(name), (0, 0, CLOSE))
    assert closed.held == NUMBER[name] and closed.grip == 1
    # Any positive action closes, any other opens.
    assert play(closed, (0, 0, 0.01)).held == NUMBER[name]
    opened = play(closed, (0, 0, -0.01))
    assert opened.held == NOTHING and opened.grip == 0


def test_only_the_nearest_handle_within_reach_is_taken(still_air):
    switch = minikitchen.handles(place())[NUMBER["light switch"]]
    near, far = switch - jnp.array([0, 0.14]), switch - jnp.array([0, 0.16])
    close = (0, 0, CLOSE)
    assert play(place(position=near), close).held == NUMBER["light switch"]
    assert play(place(position=far), close).held == NOTHING
    # The top burner's handle is within reach as well, but not as near.
    knob = minikitchen.handles(place())[NUMBER["top burner"]]
    between = 0.55 * switch + 0.45 * knob
    assert jnp.linalg.norm(between - knob) < minikitchen.REACH
    assert play(place(position=between), close).held == NUMBER["light switch"]


def test_a_closed_gripper_takes_what_it_comes_to_and_keeps_it(still_air):
    switch = minikitchen.handles(place())[NUMBER["light switch"]]
    state = place(position=switch - jnp.array([0, 0.2]), grip=1.0)
    assert play(state, (0, 0, CLOSE)).held == NOTHING
    arrived = play(state, (0, 1, CLOSE), (0, 0, CLOSE))
    assert arrived.held == NUMBER["light switch"]
    kettle = place(kettle=switch, position=switch, held=KETTLE, grip=1.0)
    assert play(kettle, (0, 0, CLOSE)).held == KETTLE


def test_what_is_in_its_goal_is_led_on_but_not_taken_again(still_air):
    number = NUMBER["light switch"]
    nearly = np.eye(len(tasks.OBJECTS), dtype=np.float32)[number] * 0.56
    held = play(at_handle("light switch", share=nearly), (0, 0, CLOSE))
    assert not minikitchen.objects_in_goal(held)[number]
    reached = play(held, (0, -0.1, CLOSE))
    assert minikitchen.objects_in_goal(reached)[number]
    assert reached.held == number
    further = play(reached, (0, -0.1, CLOSE))
    assert further.share[number] > reached.share[number]
    again = play(reached, (0, 0, OPEN), (0, 0, CLOSE), (0, 0, CLOSE))
    assert again.held == NOTHING


def test_a_slider_goes_along_its_way_and_stays_where_it_is_left(still_air):
    held = play(at_handle("slide cabinet"), *[(0, 0, CLOSE)] * 2)
    number = NUMBER["slide cabinet"]
    # Its way has 0.14 a share to the right: one push of 0.06.
    led = play(held, (1, 0, CLOSE))
    np.testing.assert_allclose(led.share[number], 0.06 / 0.14, rtol=1e-5)
    np.testing.assert_allclose(led.position, minikitchen.handles(led)[number])
    # Pushed across, it does not move, nor does what holds it.
    across = play(held, (0, 1, CLOSE))
    np.testing.assert_allclose(across.share[number], 0.0, atol=1e-6)
    np.testing.assert_allclose(across.position, held.position, atol=1e-6)
    left = play(led, (0, 0, OPEN), (1, 1, OPEN), (1, 1, OPEN))
    np.testing.assert_allclose(left.share, led.share)
    assert np.abs(left.position - led.position).max() > 0.1
    # Nothing else moved.
    others = np.delete(np.asarray(led.share), number)
    np.testing.assert_array_equal(others, 0)


@pytest.mark.parametrize(
    ("name", "ease"), [("microwave", 0.8), ("bottom burner", 0.8), ("light switch", 1)]
)
def test_doors_and_knobs_take_a_part_of_the_motion(name, ease, still_air):
    held = play(at_handle(name), (0, 0, CLOSE))
    number = NUMBER[name]
    # A way's start and bend tell what a share moves at first: twice their difference.
    start, bend, _ = minikitchen._WAYS[name]
    tangent = 2 * (np.array(bend) - start)
    push = 0.5 * tangent / np.linalg.norm(tangent)
    led = play(held, (*push, CLOSE))
    expected = ease * 0.5 * 0.06 / np.linalg.norm(tangent)
    np.testing.assert_allclose(led.share[number], expected, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in tasks.OBJECTS if name != "kettle"])
def test_an_object_at_the_end_of_its_way_leaves_the_gripper(name, still_air):
    number = NUMBER[name]
    held = play(at_handle(name), (0, 0, CLOSE))
    for _ in range(20):
        push = np.sign(minikitchen._on_ways(held.share)[1][number])
        before, held = held, play(held, (*push, CLOSE))
        if held.held == NOTHING:
            break
    assert held.held == NOTHING and before.held == number
    assert 0.9 < before.share[number] <= 1.0
    # It stays there, whatever the gripper does.
    np.testing.assert_array_equal(held.share, before.share)
    after = play(held, *[(-1, 0, CLOSE)] * 3)
    np.testing.assert_array_equal(after.share[number], before.share[number])
    assert minikitchen.objects_in_goal(after)[number]


def test_a_gripper_that_went_past_the_slide_cabinet_still_opens_it(still_air):
    number = NUMBER["slide cabinet"]
    start = place(position=[0.9, 0.1])
    after = play(start, *[(0.7, -0.6, CLOSE)] * 5)
    assert minikitchen.objects_in_goal(after)[number]
    assert after.held == NOTHING
    # Closing is not enough: it must be led.
    assert not minikitchen.objects_in_goal(play(start, *[(0, 0, CLOSE)] * 5))[number]


def test_a_way_has_a_beginning_and_an_end(still_air):
    number = NUMBER["slide cabinet"]
    share = np.eye(len(tasks.OBJECTS), dtype=np.float32)[number]
    for start, push, end in ((0.85, 1, 1.0), (0.05, -1, 0.0)):
        held = at_handle("slide cabinet", share=start * share, held=number, grip=1.0)
        led = play(held, (push, 0, CLOSE))
        np.testing.assert_allclose(led.share[number], end)


def test_the_kettle_is_put_down_near_its_goal(still_air):
    for away, held in ((0.19, KETTLE), (0.17, NOTHING)):
        place_of = minikitchen.KETTLE_GOAL + np.array([away, 0.0], np.float32)
        state = place(kettle=place_of, position=place_of, held=KETTLE, grip=1.0)
        after = play(state, (1, 0, CLOSE))
        assert after.held == held
        moved = float(after.kettle[0] - place_of[0])
        np.testing.assert_allclose(moved, 0.06 if held == KETTLE else 0, atol=1e-6)


def test_what_is_in_its_place_does_not_hinder_taking_another(still_air):
    state = at_handle(
        "light switch", share=np.eye(7, dtype=np.float32)[NUMBER["microwave"]]
    )
    state = state._replace(held=jnp.int32(NUMBER["microwave"]), grip=jnp.ones(()))
    # First it is lost, then the next is taken.
    lost = play(state, (0, 0, CLOSE))
    assert lost.held == NOTHING
    assert play(lost, (0, 0, CLOSE)).held == NUMBER["light switch"]


def test_the_kettle_is_carried_anywhere(still_air):
    state = play(at_handle("kettle"), *[(0, 0, CLOSE)] * 2)
    carried = play(state, *[(1, 0, CLOSE)] * 3, *[(0, 0, OPEN)] * 2)
    assert float(carried.kettle[0] - state.kettle[0]) > 0.2
    np.testing.assert_allclose(carried.kettle[1], state.kettle[1], atol=1e-6)
    after = play(carried, (0, -1, OPEN), (0, -1, OPEN))
    np.testing.assert_array_equal(after.kettle, carried.kettle)
    assert carried.share[KETTLE] == 0


def test_states_map_to_the_real_kitchens_joints():
    start = np.asarray(minikitchen.joint_positions(place()))
    # The kettle of the real kitchen starts at (-0.269, 0.35).
    np.testing.assert_allclose(start[23:25], [-0.269, 0.35], atol=1e-5)
    np.testing.assert_array_equal(start[11:23], 0)
    assert not minikitchen.objects_in_goal(place()).any()
    done = place(share=DONE, kettle=minikitchen.KETTLE_GOAL)
    joints = np.asarray(minikitchen.joint_positions(done))
    for name, columns in tasks.QPOS_INDICES.items():
        np.testing.assert_allclose(joints[list(columns)], tasks.GOALS[name], atol=1e-6)
    assert minikitchen.objects_in_goal(done).all()


@pytest.mark.parametrize(
    ("name", "share"),
    # What is left of the way is 0.3 of the joint's unit.
    [("microwave", 1 - 0.3 / 0.75), ("hinge cabinet", 1 - 0.3 / 1.45)],
)
def test_goals_begin_where_the_kitchens_do(name, share):
    number = NUMBER[name]
    for offset, reached in ((-0.01, False), (0.01, True)):
        state = place(share=np.zeros(7, np.float32))
        state = state._replace(share=state.share.at[number].set(share + offset))
        assert minikitchen.objects_in_goal(state)[number] == reached


def test_reward_and_goals_are_the_kitchens_functions():
    keys = jax.random.split(KEY, 3)
    states = jax.vmap(lambda key: minikitchen.reset(key))(jax.random.split(KEY, 200))
    states = states._replace(
        share=jax.random.uniform(keys[0], (200, 7), maxval=1.5),
        kettle=jax.random.uniform(keys[1], (200, 2)),
    )
    in_goal = jax.vmap(minikitchen.objects_in_goal)(states)
    joints = np.asarray(jax.vmap(minikitchen.joint_positions)(states))
    np.testing.assert_array_equal(in_goal, tasks.objects_in_goal(joints))
    assert 0.2 < in_goal.mean() < 0.8
    for task in tasks.TASKS.values():
        reward = jax.jit(lambda seen, task=task: tasks.task_reward(seen, task))(in_goal)
        by_hand = sum(np.asarray(in_goal)[:, NUMBER[name]].astype(int) for name in task)
        np.testing.assert_array_equal(reward, by_hand)
        assert reward.dtype == np.float32


def test_the_picture_shows_where_things_are():
    picture = np.asarray(minikitchen.render(place(position=[0.5, 0.5]), 64)).astype(int)
    row, column = 0.43 * 64, 0.5 * 64
    np.testing.assert_array_equal(picture[int(row), int(column)], (250, 20, 160))
    kettle = np.asarray(minikitchen.KETTLE_START) + [0, 0.05]
    place_of = tuple((kettle[::-1] * 64).astype(int))
    np.testing.assert_array_equal(picture[place_of], (40, 90, 200))
    moved = place(position=[0.5, 0.5], kettle=[0.5, 0.9])
    moved = np.asarray(minikitchen.render(moved, 64)).astype(int)
    # Where it stood is the counter now.
    np.testing.assert_array_equal(moved[place_of], (158, 132, 104))


def picture_of(name, share):
    """[64, 64, 3], one object having gone a share of its way."""
    ways = np.eye(len(tasks.OBJECTS), dtype=np.float32)[NUMBER[name]] * share
    return np.asarray(minikitchen.render(place(share=ways), 64)), ways


_DARK, _RED, _GREEN = (20, 20, 24), (200, 60, 40), (70, 120, 90)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("name", "colour"),
    [
        *[(name, _DARK) for name in ("slide cabinet", "hinge cabinet", "microwave")],
        *[(name, _RED) for name in ("bottom burner", "top burner")],
        ("light switch", _GREEN),
    ],
)
def test_a_handle_is_drawn_where_it_is(name, colour, share):
    picture, ways = picture_of(name, share)
    x, y = np.asarray(minikitchen.handle_at(ways))[NUMBER[name]]
    np.testing.assert_array_equal(picture[int(64 * y), int(64 * x)], colour)


@pytest.mark.parametrize(
    ("name", "x", "y", "door"),
    [
        ("slide cabinet", 0.72, 0.12, _GREEN),
        ("hinge cabinet", 0.2, 0.12, _GREEN),
        ("microwave", 0.2, 0.45, (236, 228, 208)),
    ],
)
def test_an_open_door_shows_the_inside(name, x, y, door):
    for share, colour in ((0.0, door), (1.0, (46, 40, 40))):
        picture, _ = picture_of(name, share)
        np.testing.assert_array_equal(picture[int(64 * y), int(64 * x)], colour)


def test_the_lamp_is_lit_while_the_switch_is_in_its_goal():
    lamp = slice(7, 12), slice(25, 35)
    for share, colour in ((0.5, (110, 104, 90)), (0.6, (255, 236, 90))):
        state = place(share=np.full(7, share, np.float32))
        picture = np.asarray(minikitchen.render(state, 64))
        assert (picture[lamp] == colour).all()


def test_the_gripper_hides_what_is_under_it():
    def picture(share, position):
        share = np.zeros(7, np.float32) + np.eye(7, dtype=np.float32)[1] * share
        state = place(share=share, position=position, grip=1.0)
        return np.asarray(minikitchen.render(state, 64)).astype(int)

    knob = np.asarray(minikitchen.handles(place())[NUMBER["top burner"]])
    seen = np.abs(picture(0.15, [0.15, 0.9]) - picture(0.0, [0.15, 0.9])).sum()
    hidden = np.abs(picture(0.15, knob) - picture(0.0, knob)).sum()
    assert hidden < 0.5 * seen


def test_the_picture_shows_positions_alone():
    state = place()
    other = state._replace(velocity=jnp.ones(2), steps=jnp.int32(7))
    np.testing.assert_array_equal(minikitchen.render(state), minikitchen.render(other))


@pytest.mark.parametrize("size", [16, 32, 64])
def test_every_size_is_the_same_picture(size):
    fine = np.asarray(minikitchen.render(place(), 64)).astype(float)
    coarse = np.asarray(minikitchen.render(place(), size))
    assert coarse.shape == (size, size, 3) and coarse.dtype == np.uint8
    blocks = fine.reshape(size, 64 // size, size, 64 // size, 3).mean(axis=(1, 3))
    # Edges within a pixel mix colours in another order.
    assert np.abs(blocks - coarse).mean() < (6.0 if size == 16 else 3.0)


def roll(key):
    """Some steps of one environment, and what they show."""
    kitchen = MiniKitchen(image_size=16)

    def advance(state, key):
        action_key, step_key = jax.random.split(key)
        action = jax.random.uniform(action_key, (3,), minval=-1.0)
        state = kitchen.step(state, action, step_key)
        return state, (state, kitchen.render(state))

    return jax.lax.scan(advance, kitchen.reset(key), jax.random.split(key, 12))[1]


def assert_same(one, other):
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if left.dtype == np.uint8:
            # Rounded from values that may differ in their last bit.
            assert np.abs(np.asarray(left, int) - np.asarray(right, int)).max() <= 1
        else:
            np.testing.assert_allclose(left, right, atol=1e-6)


def test_many_at_once_are_each_as_if_alone():
    keys = jax.random.split(KEY, 5)
    together = jax.jit(jax.vmap(roll))(keys)
    one = jax.jit(roll)(keys[3])
    assert_same(jax.tree.map(lambda leaf: leaf[3], together), one)
    assert not np.array_equal(together[0].position[3], together[0].position[4])


def test_compiled_equals_not_compiled():
    compiled = jax.jit(roll)(KEY)
    with jax.disable_jit():
        assert_same(roll(KEY), compiled)


class TestGymnasium:
    def test_it_is_one(self):
        env = MiniKitchenEnv(image_size=16, episode_steps=5)
        gymnasium.utils.env_checker.check_env(env, skip_render_check=True)

    def test_it_shows_what_the_functions_do(self):
        env = MiniKitchenEnv("partial", image_size=16, episode_steps=3)
        image, info = env.reset(seed=4)
        reset_key, step_key = jax.random.split(jax.random.key(4))
        state = minikitchen.reset(reset_key)
        np.testing.assert_array_equal(image, minikitchen.render(state, 16))
        for number in range(3):
            action = np.array([0.5, -1.0, 1.0], np.float32)
            image, reward, terminated, truncated, info = env.step(action)
            key = jax.random.fold_in(step_key, number)
            state = minikitchen.step(state, action, key)
            assert_same([image], [minikitchen.render(state, 16)])
            np.testing.assert_allclose(
                info["qpos"], minikitchen.joint_positions(state), atol=1e-6
            )
            assert (reward, terminated, truncated) == (0.0, False, number == 2)

    def test_reward_and_success_are_the_tasks(self):
        env = MiniKitchenEnv("kettle", image_size=16)
        env.reset(seed=0)
        state = place(kettle=minikitchen.KETTLE_GOAL, share=DONE)
        env._state = state
        _, reward, *_, info = env.step(np.zeros(3))
        assert reward == 1.0 and info["success"]
        assert info["objects_done"] == tuple(sorted(tasks.OBJECTS))
        # Success is of the past too.
        env._state = place()
        _, reward, *_, info = env.step(np.zeros(3))
        assert reward == 0.0 and info["success"] and not info["objects_done"]

    @pytest.mark.parametrize(
        "action", [np.zeros(2), np.array([0, np.nan, 0]), np.full(3, np.inf)]
    )
    def test_a_wrong_action_is_refused(self, action):
        env = MiniKitchenEnv(image_size=16)
        with pytest.raises(RuntimeError, match="call reset"):
            env.step(action)
        env.reset(seed=0)
        with pytest.raises(ValueError, match="3 finite numbers"):
            env.step(action)

    def test_impossible_sizes_are_refused(self):
        with pytest.raises(ValueError, match="image_size 0"):
            MiniKitchenEnv(image_size=0)
        with pytest.raises(ValueError, match="toaster"):
            MiniKitchenEnv("toaster")
