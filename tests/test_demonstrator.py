"""The scripted demonstrator: what it says, and that it does what it is asked."""

import numpy as np
import pytest

from moto_jax.data.rows import first_rows
from moto_jax.worlds.kitchen import tasks
from moto_jax.worlds.kitchen.demonstrator import (
    MAX_RETRIES,
    Demonstrator,
    demonstrable_order,
    load_keyframes,
)
from moto_jax.worlds.kitchen.environment import KitchenEnv
from tests.programs import assert_refused, run_program


@pytest.fixture(scope="module")
def physics():
    """The kitchen without frames: no graphics needed."""
    env = KitchenEnv(render_frames=False)
    yield env
    env.close()


def still_info(objects_in_goal=None, qpos=None) -> dict:
    """A state in which nothing moves and nothing weighs."""
    return {
        "qpos": np.zeros(30) if qpos is None else qpos,
        "arm_bias": np.zeros(7),
        "objects_in_goal": np.zeros(7, bool)
        if objects_in_goal is None
        else objects_in_goal,
    }


def run(env, demonstrator, seed=0, max_steps=tasks.EPISODE_STEPS):
    """Returns the actions and, with the first row, which objects were in their goal."""
    _, info = env.reset(seed=seed)
    actions, in_goal = [], [info["objects_in_goal"]]
    while not demonstrator.finished and len(actions) < max_steps:
        actions.append(demonstrator.act(info))
        _, _, _, _, info = env.step(actions[-1])
        in_goal.append(info["objects_in_goal"])
    return np.stack(actions), np.stack(in_goal)


@pytest.mark.parametrize("name", tasks.OBJECTS)
def test_does_each_object_and_no_other(physics, name):
    actions, in_goal = run(physics, Demonstrator((name,), seed=3), seed=3)
    assert actions.dtype == np.float32
    assert np.abs(actions).max() <= 1.0
    done = [other for other, yes in zip(tasks.OBJECTS, in_goal[-1], strict=True) if yes]
    assert done == [name]


@pytest.mark.parametrize("task", tasks.TASKS)
def test_does_a_task_in_its_order(physics, task):
    objects = tasks.TASKS[task]
    _, in_goal = run(physics, Demonstrator(objects, seed=1), seed=1)
    assert in_goal[:, tasks.object_columns(objects)].any(axis=0).all()
    first = first_rows(in_goal)[tasks.object_columns(objects)]
    assert list(first) == sorted(first)
    assert in_goal[-1].sum() == len(objects)


def test_is_a_function_of_its_seed():
    info = still_info()

    def actions(seed):
        demonstrator = Demonstrator(("kettle",), seed)
        return np.stack([demonstrator.act(info) for _ in range(50)])

    np.testing.assert_array_equal(actions(5), actions(5))
    assert np.abs(actions(5) - actions(6)).max() > 0.1
    # A reset starts the same episode again.
    demonstrator = Demonstrator(("kettle",), 5)
    before = [demonstrator.act(info) for _ in range(50)]
    demonstrator.reset()
    np.testing.assert_array_equal(before, [demonstrator.act(info) for _ in range(50)])


def exact(objects, **changes) -> Demonstrator:
    """Neither noise nor variety."""
    values = {"action_noise": 0.0, "min_speed": 1.0, "keyframe_jitter": 0.0}
    return Demonstrator(objects, 0, **{**values, **changes})


def test_first_action_by_hand():
    """The kettle's first keyframe asks joint 7 for 2.105 rad, its farthest by far."""
    frame = load_keyframes()["kettle"][0]
    wanted = np.array(frame.arm)
    action = exact(("kettle",)).act(still_info())
    # Beyond reach in one step: the largest component is 1, the direction is kept.
    np.testing.assert_allclose(action[:7], wanted / np.abs(wanted).max(), rtol=1e-6)
    np.testing.assert_array_equal(action[7:], [1, 1])
    # 0.016 rad before the keyframe, 1.5 times that over 0.16 rad a step is 0.15; and
    # 87 Nm on a joint of 870 Nm/rad sag 0.1 rad, which is 0.625 of a step.
    info = still_info(qpos=np.concatenate([wanted - 0.016, np.zeros(23)]))
    info["arm_bias"] = np.array([87.0, 0, 0, 0, 0, 0, 12.0])
    demonstrator = exact(("kettle",))
    demonstrator.act(still_info())
    expected = np.full(7, 0.15)
    expected[[0, 6]] += 0.625
    # That is within its tolerance, so the demonstrator aims for the second keyframe.
    second = np.array(load_keyframes()["kettle"][1].arm)
    expected += 1.5 * (second - wanted) / 0.16
    expected /= max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(demonstrator.act(info)[:7], expected, rtol=1e-5)


def test_speed_and_noise_have_the_size_asked_for():
    info = still_info()
    slow = np.array(
        [
            np.abs(Demonstrator(("kettle",), seed, 0.0, 0.6).act(info)).max()
            for seed in range(200)
        ]
    )
    # Open fingers are at 1 always; the arm is at its speed.
    assert (slow == 1.0).all()
    arm = np.array(
        [
            np.abs(Demonstrator(("kettle",), seed, 0.0, 0.6).act(info)[:7]).max()
            for seed in range(200)
        ]
    )
    assert 0.6 <= arm.min() < 0.65
    assert 0.95 < arm.max() <= 1.0
    quiet = exact(("kettle",)).act(info)[0]
    noise = [
        Demonstrator(("kettle",), seed, 0.1, 1.0, 0.0).act(info)[0] - quiet
        for seed in range(400)
    ]
    assert abs(np.mean(noise)) < 0.02
    assert 0.09 < np.std(noise) < 0.11


def test_gives_up_after_its_retries():
    """Nothing ever moves here, so every keyframe runs into its step limit."""
    steps = sum(frame.max_steps for frame in load_keyframes()["slide cabinet"])
    demonstrator = exact(("slide cabinet",))
    info = still_info()
    for _ in range(steps * (1 + MAX_RETRIES)):
        demonstrator.act(info)
        assert not demonstrator.finished
    demonstrator.act(info)
    assert demonstrator.finished
    # It then holds still.
    np.testing.assert_allclose(demonstrator.act(info)[:7], 0.0, atol=1e-6)


def test_does_not_repeat_what_is_done():
    in_goal = np.zeros(7, bool)
    in_goal[tasks.OBJECTS.index("slide cabinet")] = True
    steps = sum(frame.max_steps for frame in load_keyframes()["slide cabinet"])
    demonstrator = exact(("slide cabinet",))
    for _ in range(steps + 1):
        demonstrator.act(still_info(in_goal))
    assert demonstrator.finished


def test_slide_cabinet_goes_before_hinge_cabinet():
    assert demonstrable_order(
        ("kettle", "hinge cabinet", "slide cabinet", "microwave")
    ) == ("kettle", "slide cabinet", "hinge cabinet", "microwave")
    right = ("slide cabinet", "kettle", "hinge cabinet")
    assert demonstrable_order(right) == right


def test_keyframes_are_reachable():
    """Joint limits of the Franka arm, and fingers of 4 cm."""
    low = [-2.9, -1.8, -2.9, -3.1, -2.9, -0.01, -2.9]
    high = [2.9, 1.8, 2.9, 0.0, 2.9, 2.11, 2.9]
    keyframes = load_keyframes()
    assert set(keyframes) == set(tasks.OBJECTS)
    for frames in keyframes.values():
        for frame in frames:
            assert (np.array(low) <= frame.arm).all()
            assert (frame.arm <= np.array(high)).all()
            assert 0.0 <= frame.finger <= 0.04
            assert frame.max_steps > 0
            assert 0.0 < frame.speed <= 1.0


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"action_noise": -0.1}, r"config\.data\.action_noise .* less than 1"),
        ({"action_noise": np.nan}, "action_noise"),
        ({"min_speed": 0.0}, "min_speed"),
        ({"keyframe_jitter": 1.0}, "keyframe_jitter"),
        ({"objects": ("toaster",)}, "toaster"),
        ({"objects": ()}, "object"),
    ],
)
def test_bad_parameters_are_named(changes, word):
    values = {"objects": ("kettle",), "seed": 0, **changes}
    with pytest.raises(ValueError, match=word):
        Demonstrator(**values)


def test_the_table_refuses_where_it_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    done = run_program("demonstrator_table", f"--output={tmp_path / 'file' / 'table'}")
    assert_refused(done, f"--output={tmp_path / 'file' / 'table'} cannot be written")
