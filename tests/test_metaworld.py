"""MetaWorld's tasks: what they are without the package, and what they do with it."""

import importlib.util

import numpy as np
import pytest

from experiments.configs.metaworld import get_config
from moto_jax.acting.building import finished_dataset
from moto_jax.data.episodes import DatasetError, Episode, read_episode, read_manifest
from moto_jax.running import training
from moto_jax.study.runs import read_run
from moto_jax.worlds.metaworld import demonstrations, tasks
from moto_jax.worlds.registry import make_world
from tests.programs import assert_free_of_jax

installed = pytest.mark.skipif(
    importlib.util.find_spec("metaworld") is None,
    reason=f"MetaWorld is absent: pip install --no-deps {tasks.PACKAGE}",
)


def config_of(task="plate-slide", **env):
    config = get_config("tiny")
    config.task = task
    config.env.update(env)
    return config


def no_progress(done, total):
    pass


@pytest.mark.parametrize("task", tasks.TASKS)
def test_every_task_is_a_world_without_starting_anything(task):
    world = make_world(config_of(task))
    assert world.action_size == 4 and world.image_size == 64
    assert world.events == (task,)
    assert "scripted" in world.sources and world.most_at_once == 1
    # Arriving with reward 1 is success, and what led there is cloned, and ten more.
    reward = np.zeros(40, np.float32)
    reward[20:] = 1.0
    episode = Episode(
        image=np.zeros((40, 8, 8, 3), np.uint8),
        action=np.zeros((39, 4), np.float32),
        reward=reward,
    )
    labels = world.label(episode)
    np.testing.assert_array_equal(labels.events[:, 0], reward > 0)
    assert labels.behaviour_rows == 30 and not labels.is_terminal.any()


@pytest.mark.parametrize(
    ("config", "culprit"),
    [
        (config_of("mixed"), "config.task is 'mixed'.*drawer-open"),
        (config_of("drawer-close"), "'drawer-close'"),
        (config_of(render_profile="fast"), "render_profile is 'fast'.*metaworld.py"),
    ],
)
def test_what_is_no_task_is_said_in_one_sentence(config, culprit):
    with pytest.raises(ValueError, match=culprit) as error:
        make_world(config)
    assert "\n" not in str(error.value)


def test_the_missing_package_is_named_with_the_way_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(tasks.importlib.util, "find_spec", lambda name: None)
    world = make_world(config_of())
    for begin in (
        world.prepare,
        lambda: world.sources["scripted"](tmp_path / "dataset", no_progress),
        lambda: world.demonstrate(0),
    ):
        with pytest.raises(
            ValueError, match="pip install --no-deps metaworld=="
        ) as error:
            begin()
        assert "extra `metaworld`" in str(error.value)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "dataset").exists()


@pytest.mark.parametrize(
    ("changes", "culprit"),
    [
        ({"data.action_noise": -0.1}, "action_noise is -0.1"),
        ({"data.action_noise": float("nan")}, "action_noise is nan"),
        ({"data.episodes": 0}, "config.data.episodes is 0"),
        ({"data.seed": -1}, "seed is -1"),
    ],
)
def test_impossible_demonstrations_are_refused(changes, culprit, tmp_path):
    config = config_of()
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=culprit):
        make_world(config).sources["scripted"](tmp_path, no_progress)


def make_env(task="plate-slide", **options):
    from moto_jax.worlds.metaworld.environment import MetaWorldEnv

    return MetaWorldEnv(task, **options)


@pytest.fixture(scope="module")
def physics():
    """plate-slide without a picture."""
    env = make_env(render_frames=False, episode_steps=40)
    yield env
    env.close()


@installed
def test_an_episode_is_a_function_of_its_seed(physics):
    first, info = physics.reset(seed=3)
    assert not first.any() and not info["success"]
    actions = np.random.default_rng(0).uniform(-1, 1, (5, 4)).astype(np.float32)
    states = [physics.step(action)[4]["state"] for action in actions]
    # Whatever was played before, and wherever.
    physics.reset(seed=4)
    for _ in range(30):
        physics.step(np.array([0.5, 1.0, -1.0, 1.0]))
    other = make_env(render_frames=False)
    for env in (physics, other):
        _, again = env.reset(seed=3)
        np.testing.assert_array_equal(again["state"], info["state"])
        for action, state in zip(actions, states, strict=True):
            np.testing.assert_array_equal(env.step(action)[4]["state"], state)
    other.close()


@installed
def test_hand_and_objects_start_elsewhere_in_every_episode(physics):
    states = np.stack([physics.reset(seed=seed)[1]["state"] for seed in range(20)])
    # The flange is above the fingers, whose place is what is asked for.
    hand, goal = states[:, :3], states[:, -3:]
    spread = hand.std(axis=0)
    assert (spread > 0.005).all() and (spread < 0.04).all()
    assert abs(hand[:, 0].mean() - 0.1) < 0.03 and abs(hand[:, 1].mean() - 0.5) < 0.03
    assert (np.ptp(goal, axis=0) > 0.01).any()
    # Two sources of chance do not move together.
    assert abs(np.corrcoef(hand[:, 0], goal[:, 0])[0, 1]) < 0.7


@installed
def test_an_action_is_taken_twice_clipped_and_cut_at_the_limit(physics):
    physics.reset(seed=0)
    before = physics._simulator.data.time
    wide = physics.step(np.full(4, 9.0))[4]["state"]
    assert physics._simulator.data.time - before == pytest.approx(0.025)
    physics.reset(seed=0)
    np.testing.assert_array_equal(wide, physics.step(np.ones(4))[4]["state"])
    for step in range(2, 41):
        _, reward, terminated, truncated, _ = physics.step(np.zeros(4))
        assert (reward, terminated, truncated) == (0.0, False, step == 40)
    with pytest.raises(ValueError, match="4 finite numbers"):
        physics.step(np.zeros(3))
    with pytest.raises(ValueError, match="4 finite numbers"):
        physics.step(np.full(4, np.nan))


@installed
@pytest.mark.parametrize(
    "options", [{"image_size": 0}, {"episode_steps": 0}, {"episode_steps": 246}]
)
def test_impossible_sizes_are_refused(options):
    with pytest.raises(ValueError, match="episode_steps"):
        make_env(render_frames=False, **options)


@installed
def test_a_step_wants_a_reset():
    env = make_env(render_frames=False)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(np.zeros(4))
    env.close()


@installed
@pytest.mark.kitchen
def test_the_picture_shows_what_moves():
    from moto_jax.worlds.graphics import renderer_name

    env = make_env("door-open")
    image, _ = env.reset(seed=7)
    assert image.shape == (64, 64, 3) and image.dtype == np.uint8
    again, _ = env.reset(seed=7)
    np.testing.assert_array_equal(image, again)
    # The floor's wood below, the red arm to the right, the dark safe to the left.
    red, green, blue = (image[..., index].astype(int) for index in range(3))
    assert (red[50:] > blue[50:]).mean() > 0.9
    arm = (red > 100) & (green < 50) & (blue < 50)
    assert arm[:20, 40:].sum() > 100 and not arm[:, :30].any()
    assert image[25:45, 3:25].mean() < 60
    for _ in range(10):
        moved = env.step(np.array([-1.0, 0.0, 0.0, 0.0]))[0]
    assert (np.abs(moved.astype(int) - image) > 20).any(axis=-1).sum() > 50
    np.testing.assert_array_equal(env.render(), moved)
    assert renderer_name()
    env.close()
    env.close()


@installed
def test_the_scripted_policy_is_recorded_with_what_it_meant(physics):
    episode = demonstrations.record_episode(physics, "plate-slide", 3, 0.1)
    assert demonstrations.is_done(episode)
    assert episode.action.shape == (40, 4) and len(episode.reward) == 41
    assert set(np.unique(episode.reward)) == {0.0, 1.0}
    noise = episode.action - episode.intended_action
    inside = np.abs(episode.action) < 1
    assert 0.05 < noise[inside].std() < 0.2
    same = demonstrations.record_episode(physics, "plate-slide", 3, 0.1)
    np.testing.assert_array_equal(episode.action, same.action)
    exact = demonstrations.record_episode(physics, "plate-slide", 3, 0.0)
    np.testing.assert_array_equal(exact.action, exact.intended_action)


@installed
@pytest.mark.kitchen
def test_demonstrations_are_made_once_and_end_with_the_task_done(tmp_path):
    config = config_of(episode_steps=45)
    world = make_world(config)
    world.prepare()
    manifest = world.sources["scripted"](tmp_path, no_progress)
    assert (manifest.source, len(manifest.episodes)) == ("metaworld", 2)
    assert manifest.render_profile == world.render_profile
    written = (tmp_path / "manifest.json").stat().st_mtime_ns
    assert world.sources["scripted"](tmp_path, no_progress) == manifest
    assert (tmp_path / "manifest.json").stat().st_mtime_ns == written
    assert finished_dataset(tmp_path, manifest) == manifest
    for record in manifest.episodes:
        episode = read_episode(tmp_path / record.file, record.sha256)
        assert demonstrations.is_done(episode) and episode.image.any()
        assert world.label(episode).behaviour_rows > 10
    # Another seed than any dataset's; and a limit in which nothing can be done.
    assert demonstrations.is_done(world.demonstrate(5))
    with pytest.raises(DatasetError, match="failed in the episode of seed 5"):
        make_world(config_of(episode_steps=10)).demonstrate(5)


@installed
def test_a_policy_that_always_fails_is_given_up(monkeypatch, physics):
    monkeypatch.setattr(demonstrations, "_environment", lambda *sizes: physics)
    monkeypatch.setattr(demonstrations, "MAX_ATTEMPTS", 2)
    monkeypatch.setattr(demonstrations, "is_done", lambda episode: False)
    job = demonstrations.ScriptedJob(3, "plate-slide", 0, 0.1, 64, 40)
    with pytest.raises(DatasetError, match="000003.npz: plate-slide.*failed 2 times"):
        job.run()


@installed
def test_what_workers_import_is_free_of_jax():
    assert_free_of_jax(
        "import moto_jax.worlds.metaworld.demonstrations",
        "from moto_jax.worlds.metaworld.environment import MetaWorldEnv",
        "MetaWorldEnv('hammer', render_frames=False)",
    )


@installed
@pytest.mark.kitchen
@pytest.mark.parametrize("agent", [pytest.param("moto", marks=pytest.mark.slow), "bc"])
def test_a_whole_run(agent, tmp_path):
    config = config_of(episode_steps=45)
    config.agent = agent
    config.training.update(online_episodes=1, offline_updates=2)
    assert training.train(config, tmp_path / "run") is None
    assert read_manifest(tmp_path / "run" / "dataset").source == "metaworld"
    episode = read_episode(tmp_path / "run" / "online" / "000000.npz")
    assert episode.image.shape == (46, 64, 64, 3) and episode.action.shape == (45, 4)
    run = read_run(tmp_path / "run")
    assert run.summary["updates"] == 4
    assert len(run.series("mean/reached/plate-slide", "evaluation")[1]) == 3
