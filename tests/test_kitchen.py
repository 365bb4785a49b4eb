"""The environment against its promises and against the benchmark's own simulator."""

import subprocess
import sys
import types

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from moto_jax.worlds.kitchen import mujoco_compat, tasks
from moto_jax.worlds.kitchen.demonstrator import Demonstrator
from moto_jax.worlds.kitchen.environment import KitchenEnv

MIXED = tasks.TASKS["mixed"]


def physics(**kwargs) -> KitchenEnv:
    return KitchenEnv(render_frames=False, **kwargs)


def random_actions(steps: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (steps, 9)).astype(np.float32)


def put(env: KitchenEnv, *done: str) -> None:
    """Sets the simulator to its start, with these objects at their goals."""
    robot = env._simulator.robot_env
    qpos = robot.init_qpos.copy()
    for name in done:
        qpos[list(tasks.QPOS_INDICES[name])] = tasks.GOALS[name]
    robot.set_state(qpos, np.zeros(29))


class TapeRenderer:
    """Draws the kettle's height and counts what is asked of it."""

    def __init__(self, image_size: int = 8):
        self.image_size = image_size
        self.seen: list[np.ndarray] = []
        self.closed = False

    def render(self, qpos: np.ndarray) -> np.ndarray:
        self.seen.append(qpos.copy())
        size = self.image_size
        return np.full((size, size, 3), int(100 * qpos[25]), np.uint8)

    def close(self) -> None:
        self.closed = True


def test_gymnasium_finds_no_fault_in_the_physics():
    check_env(physics(image_size=8), skip_render_check=True)


@pytest.fixture(scope="module")
def rendered():
    env = KitchenEnv("partial", image_size=16)
    yield env
    env.close()


@pytest.mark.kitchen
def test_gymnasium_finds_no_fault_in_the_rendered_environment(rendered):
    check_env(rendered, skip_render_check=True, skip_close_check=True)


@pytest.mark.kitchen
def test_rendering_leaves_the_physics_bit_identical(rendered):
    seen, blind = rendered, physics(image_size=16)
    image, first = seen.reset(seed=3)
    assert image.shape == (16, 16, 3)
    _, second = blind.reset(seed=3)
    for action in random_actions(15):
        for key in ("qpos", "qvel", "arm_bias", "objects_in_goal"):
            np.testing.assert_array_equal(first[key], second[key])
        assert image.any()
        image, _, _, _, first = seen.step(action)
        zeros, _, _, _, second = blind.step(action)
        assert not zeros.any()


def test_reward_follows_the_benchmarks_own_completion_rule_on_random_states():
    benchmark = mujoco_compat.make_simulator(0.0, 0.0)
    rng = np.random.default_rng(0)
    start = benchmark.robot_env.init_qpos
    counts = set()
    for _ in range(200):
        qpos = start + rng.normal(0, 0.05, 30)
        for name in tasks.OBJECTS:
            if rng.random() < 0.6:
                columns = list(tasks.QPOS_INDICES[name])
                spread = rng.uniform(0, 0.5) / np.sqrt(len(columns))
                noise = rng.normal(0, spread, len(columns))
                qpos[columns] = tasks.GOALS[name] + noise
        benchmark.data.qpos[:] = qpos
        observation = benchmark._get_obs(np.zeros(18))
        expected = benchmark.compute_reward(
            observation["achieved_goal"], observation["desired_goal"], {}
        )
        in_goal = tasks.objects_in_goal(qpos)
        done = {o for o, yes in zip(tasks.OBJECTS, in_goal, strict=True) if yes}
        assert done == set(benchmark.step_task_completions)
        assert tasks.task_reward(in_goal, tasks.OBJECTS) == expected
        counts.add(expected)
    assert len(counts) > 4  # The states are varied.


def test_reward_equals_the_registered_benchmarks_over_an_episode():
    env = physics(robot_noise_ratio=0.0, object_noise_ratio=0.0)
    benchmark = gymnasium.make(
        "FrankaKitchen-v1",
        tasks_to_complete=list(MIXED),
        remove_task_when_completed=False,
        terminate_on_tasks_completed=False,
        robot_noise_ratio=0.0,
        object_noise_ratio=0.0,
        # It would warn of the benchmark's own faults: observations that share arrays.
        disable_env_checker=True,
    )
    demonstrator = Demonstrator(["microwave", "kettle"], seed=0)
    _, info = env.reset(seed=0)
    benchmark.reset(seed=0)
    rewards = []
    for _ in range(90):
        action = demonstrator.act(info)
        _, reward, _, _, info = env.step(action)
        expected = benchmark.step(action.astype(np.float64))[1]
        assert reward == expected
        np.testing.assert_array_equal(info["qpos"], benchmark.unwrapped.data.qpos)
        rewards.append(reward)
    # Both objects were done, one after the other, and are paid for as long as they are.
    assert rewards[0] == 0.0 and rewards[40] == 1.0 and rewards[-1] == 2.0
    assert info["objects_done"] == ("kettle", "microwave")


def test_an_equal_seed_gives_an_equal_episode_and_another_seed_another():
    def states(env: KitchenEnv, seed: int) -> np.ndarray:
        qpos = [env.reset(seed=seed)[1]["qpos"]]
        qpos += [env.step(action)[4]["qpos"] for action in random_actions(20)]
        return np.stack(qpos)

    env = physics()
    first = states(env, 5)
    np.testing.assert_array_equal(first, states(env, 5))
    np.testing.assert_array_equal(first, states(physics(), 5))
    assert np.abs(first - states(env, 6)).max() > 0


def test_an_episode_is_cut_after_280_steps_and_never_terminal():
    env = physics()
    env.reset(seed=0)
    for step, action in enumerate(random_actions(280), start=1):
        _, _, terminated, truncated, _ = env.step(action)
        assert terminated is False
        assert truncated is (step == 280)
    env.reset(seed=0)
    assert env.step(action)[3] is False


def test_all_objects_done_do_not_end_the_episode():
    env = physics(episode_steps=3)
    env.reset(seed=0)
    put(env, *tasks.OBJECTS)
    _, reward, terminated, truncated, info = env.step(np.zeros(9))
    assert (reward, terminated, truncated) == (4.0, False, False)
    assert info["objects_done"] == tuple(sorted(tasks.OBJECTS))
    assert info["objects_in_goal"].all()


def test_success_means_each_object_once_not_all_together():
    env = physics()
    _, info = env.reset(seed=0)
    assert info["success"] is False
    put(env, "microwave", "kettle")
    assert env.step(np.zeros(9))[4]["success"] is False
    put(env, "light switch", "slide cabinet", "hinge cabinet")
    _, reward, _, _, info = env.step(np.zeros(9))
    assert (reward, info["success"]) == (2.0, True)
    assert info["objects_done"] == ("hinge cabinet", "light switch", "slide cabinet")
    put(env)
    _, reward, _, _, info = env.step(np.zeros(9))
    assert (reward, info["success"]) == (0.0, True)
    assert env.reset(seed=0)[1]["success"] is False


def test_a_task_is_any_set_of_objects():
    env = physics(task=["hinge cabinet"])
    env.reset(seed=0)
    put(env, "hinge cabinet", "microwave")
    _, reward, _, _, info = env.step(np.zeros(9))
    assert (reward, info["success"]) == (1.0, True)


def test_what_is_returned_is_the_callers_own():
    env = KitchenEnv(image_size=8, renderer=TapeRenderer())
    image, info = env.reset(seed=0)
    kept = {key: np.copy(value) for key, value in info.items()}
    later_image, _, _, _, later = env.step(random_actions(1)[0])
    for key, value in kept.items():
        np.testing.assert_array_equal(info[key], value)
    for key in ("qpos", "qvel", "arm_bias", "objects_in_goal"):
        later[key][:] = 0
    later_image[:] = 7
    assert env.render().min() > 7
    _, _, _, _, after = env.step(random_actions(1)[0])
    assert after["qpos"].any() and after["qvel"].any()
    assert image.any()


def test_a_renderer_from_outside_sees_clean_positions_and_stays_open():
    renderer = TapeRenderer()
    env = KitchenEnv(image_size=8, renderer=renderer, robot_noise_ratio=0.5)
    image, first = env.reset(seed=0)
    _, _, _, _, second = env.step(random_actions(1)[0])
    np.testing.assert_array_equal(renderer.seen, [first["qpos"], second["qpos"]])
    np.testing.assert_array_equal(image, np.full((8, 8, 3), 161, np.uint8))
    env.close()
    assert not renderer.closed


def test_shapes_and_arm_bias():
    env = physics()
    image, info = env.reset(seed=0)
    assert image.shape == env.observation_space.shape == (64, 64, 3)
    assert env.action_space == gymnasium.spaces.Box(-1.0, 1.0, (9,), np.float32)
    assert info["qpos"].shape == (30,) and info["qvel"].shape == (29,)
    # Gravity turns no vertical axle, and pulls hardest at shoulder and elbow.
    assert info["arm_bias"].shape == (7,)
    assert abs(info["arm_bias"][0]) < 1e-6
    assert abs(info["arm_bias"][1]) > 5


@pytest.mark.parametrize(
    ("kwargs", "culprit"),
    [
        ({"task": ("kettle", "toaster")}, "'toaster'"),
        ({"task": "kitchen-mixed"}, "'kitchen-mixed'"),
        ({"render_profile": "glossy"}, "'glossy'.*fast, shaded, paper"),
        ({"image_size": 0}, "image_size 0"),
        ({"image_size": 8, "renderer": TapeRenderer(16)}, "16 pixels.*image_size is 8"),
    ],
)
def test_impossible_arguments_are_named(kwargs, culprit):
    with pytest.raises(ValueError, match=culprit) as error:
        KitchenEnv(render_frames=False, **kwargs)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("action", [np.zeros(8), np.full(9, np.nan), np.zeros((1, 9))])
def test_impossible_actions_are_refused_before_they_reach_the_physics(action):
    env = physics()
    _, info = env.reset(seed=0)
    with pytest.raises(ValueError, match="action must be 9 finite numbers"):
        env.step(action)
    _, _, _, _, after = env.step(np.zeros(9))
    assert np.abs(after["qpos"] - info["qpos"]).max() < 0.1


def test_a_step_needs_a_reset_first():
    with pytest.raises(RuntimeError, match="reset"):
        physics().step(np.zeros(9))


def test_actions_beyond_the_bounds_act_like_the_bounds():
    ends = [physics(robot_noise_ratio=0.0) for _ in range(2)]
    for env, scale in zip(ends, (1.0, 5.0), strict=True):
        env.reset(seed=0)
        for sign in (1, -1, 1):
            info = env.step(np.full(9, sign * scale))[4]
        env.qpos = info["qpos"]
    np.testing.assert_array_equal(ends[0].qpos, ends[1].qpos)


def test_workers_import_no_jax_and_physics_makes_no_graphics_context():
    program = """
import sys
import moto_jax.worlds.graphics
import moto_jax.worlds.kitchen.renderer, moto_jax.worlds.kitchen.tasks
from moto_jax.worlds.kitchen.environment import KitchenEnv
env = KitchenEnv(render_frames=False)
env.reset(seed=0)
env.step([0.0] * 9)
env.close()
found = {name.split('.')[0] for name in sys.modules} & {'jax', 'flax', 'OpenGL'}
print(sorted(found), 'mujoco.egl' in sys.modules)
"""
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "", "PYTHONPATH": ":".join(filter(None, sys.path))},
    )
    assert result.stdout.strip() == "[] False"
    assert result.stderr == ""


# From MuJoCo 3.12 on, its enums compare unequal to the model's integers.


class UnequalInteger(int):
    __hash__ = int.__hash__

    def __eq__(self, other: object) -> bool:
        return False


class UnequalJoint:
    mjJNT_HINGE = UnequalInteger(3)


def test_the_probe_tells_equal_from_unequal_enums():
    class EqualJoint:
        mjJNT_HINGE = 3

    assert mujoco_compat.joint_type_equals_integer(EqualJoint)
    assert not mujoco_compat.joint_type_equals_integer(UnequalJoint)
    utils = types.SimpleNamespace()
    assert not mujoco_compat.patch_joint_lookup(utils, EqualJoint)
    assert not vars(utils)


def test_patched_look_ups_know_every_kind_of_joint():
    import mujoco

    model = mujoco.MjModel.from_xml_string("""<mujoco><worldbody>
      <body><freejoint name="free"/><geom size="1"/></body>
      <body><joint name="ball" type="ball"/><geom size="1"/></body>
      <body><joint name="slide" type="slide"/><geom size="1"/></body>
      <body><joint name="hinge" type="hinge"/><geom size="1"/></body>
    </worldbody></mujoco>""")
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = np.arange(13), np.arange(11)
    utils = types.SimpleNamespace()
    assert mujoco_compat.patch_joint_lookup(utils, UnequalJoint)
    for name, qpos, qvel in [
        ("free", range(0, 7), range(0, 6)),
        ("ball", range(7, 11), range(6, 9)),
        ("slide", [11], [9]),
        ("hinge", [12], [10]),
    ]:
        np.testing.assert_array_equal(utils.get_joint_qpos(model, data, name), qpos)
        np.testing.assert_array_equal(utils.get_joint_qvel(model, data, name), qvel)
    utils.get_joint_qpos(model, data, "hinge")[:] = -1
    assert data.qpos[12] == 12
    utils.set_joint_qpos(model, data, "slide", 0.5)
    utils.set_joint_qvel(model, data, "free", np.ones(6))
    assert data.qpos[11] == 0.5 and data.qvel[:7].tolist() == [1] * 6 + [6]


def test_a_patched_simulator_moves_like_an_unpatched_one(monkeypatch):
    utils = mujoco_compat.mujoco_utils
    actions = random_actions(10)

    def final_state() -> np.ndarray:
        env = physics()
        env.reset(seed=0)
        return [env.step(action)[4]["qpos"] for action in actions][-1]

    plain = final_state()
    for kind in ("qpos", "qvel"):
        for verb in ("get", "set"):
            # Set to itself, so that the patch is undone after the test.
            name = f"{verb}_joint_{kind}"
            monkeypatch.setattr(utils, name, getattr(utils, name))
    assert mujoco_compat.patch_joint_lookup(utils, UnequalJoint)
    # The library's own way to the robot's state, which looks its joints up.
    monkeypatch.setattr(mujoco_compat, "robot_state", utils.robot_get_obs)
    np.testing.assert_array_equal(plain, final_state())


def test_the_robots_state_is_what_the_library_gathers():
    env = physics()
    env.reset(seed=0)
    env.step(random_actions(1)[0])
    robot = env._simulator.robot_env
    arguments = (robot.model, robot.data, robot.model_names.joint_names)
    ours = mujoco_compat.robot_state(*arguments)
    theirs = mujoco_compat.mujoco_utils.robot_get_obs(*arguments)
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape == (9,) and np.abs(a).max() > 0
        np.testing.assert_array_equal(a, b)
        # The controller adds noise to what it gets.
        assert not np.shares_memory(a, robot.data.qpos)
        assert not np.shares_memory(a, robot.data.qvel)
