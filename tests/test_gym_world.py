"""Any Gymnasium environment: its pixels, its actions, its ends, and a whole run."""

import re

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from experiments.configs.gymnasium import get_config
from moto_jax.acting.collection import Play
from moto_jax.data.episodes import DatasetError, Episode, read_episode, read_manifest
from moto_jax.running import training
from moto_jax.study.runs import read_run
from moto_jax.worlds.gym.environment import GymEnv, resized
from moto_jax.worlds.random_source import random_policy
from moto_jax.worlds.registry import make_world
from tests.programs import ROOT, assert_free_of_jax, run_program

IMAGE = spaces.Box(0, 255, (6, 8, 3), np.uint8)
BOX = spaces.Box(-1.0, 1.0, (1,), np.float32)


class Known(gymnasium.Env):
    """Row j shows j everywhere; its reward is j - 3, and it keeps what it was told.

    `where` is how the image is seen: observed "alone", in a "dict", or "rendered".
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(self, where="alone", action_space=BOX, ends_at=5, render_mode=None):
        self.where, self.ends_at, self.render_mode = where, ends_at, render_mode
        self.action_space = action_space
        state = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = {
            "alone": IMAGE,
            "dict": spaces.Dict({"state": state, "eyes": spaces.Dict({"left": IMAGE})}),
            "two": spaces.Dict({"left": IMAGE, "right": IMAGE}),
        }.get(where, state)
        self.told = []

    def observe(self):
        image = np.full(IMAGE.shape, self.row, np.uint8)
        state = np.zeros(2, np.float32)
        if self.where == "dict":
            return {"state": state, "eyes": {"left": image}}
        return image if self.where == "alone" else state

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.row = 0
        return self.observe(), {"objects_in_goal": np.ones(7, bool)}

    def step(self, action):
        self.row += 1
        self.told.append(action)
        info = {"objects_in_goal": np.ones(7, bool)}
        return self.observe(), self.row - 3, self.row == self.ends_at, False, info

    def render(self):
        if self.where == "float":
            return np.zeros(IMAGE.shape)
        return np.full(IMAGE.shape, self.row, np.uint8)


gymnasium.register("Known-v0", entry_point=Known)


def known(image_size=2, episode_steps=10, **options):
    """A known environment as workers see it; options that JSON cannot tell go in."""
    with pytest.MonkeyPatch.context() as patch:
        make = gymnasium.make
        patch.setattr(gymnasium, "make", lambda *a, **k: make(*a, **k, **options))
        return GymEnv("Known-v0", "", "", image_size, episode_steps)


def played_to_the_end(env):
    """Plays zeros; returns the steps, and which end it was."""
    steps, terminated, truncated = 0, False, False
    while not (terminated or truncated):
        _, _, terminated, truncated, _ = env.step(np.zeros(env.action_space.shape))
        steps += 1
    return steps, terminated, truncated


def config_of(**env):
    config = get_config("tiny")
    config.env.update(env)
    return config


def test_pixels_are_means_of_what_they_cover():
    image = np.array([[0, 10, 20, 31], [2, 12, 22, 33]], np.uint8)
    image = np.stack([image, image + 100, 255 - image], axis=-1)
    assert resized(image, 1).tolist() == [[[16, 116, 239]]]
    np.testing.assert_array_equal(resized(image, 2)[..., 0], [[5, 26], [7, 28]])
    np.testing.assert_array_equal(resized(image[:, :2], 2), image[:, :2])
    # Of three pixels two are made: the middle one is halved.
    row = np.repeat(np.array([0, 30, 90], np.uint8)[None, :, None], 3, axis=2)
    np.testing.assert_array_equal(resized(row, 2)[0, :, 0], [10, 70])
    # Larger than it was.
    np.testing.assert_array_equal(resized(row, 6)[3, :, 1], [0, 0, 30, 30, 90, 90])
    noise = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    small = resized(noise, 64)
    assert small.dtype == np.uint8 and small.shape == (64, 64, 3)
    np.testing.assert_allclose(small.mean((0, 1)), noise.mean((0, 1)), atol=1.0)


@pytest.mark.parametrize("where", ["alone", "dict", "rendered"])
def test_the_image_is_the_observation_a_part_of_it_or_rendered(where):
    env = known(where=where)
    image, info = env.reset(seed=1)
    assert image.shape == (2, 2, 3) and image.dtype == np.uint8 and info == {}
    for row in range(1, 4):
        image, reward, terminated, truncated, info = env.step(np.zeros(1))
        assert (image == row).all() and (env.render() == row).all()
        assert (reward, terminated, truncated, info) == (row - 3, False, False, {})


def test_actions_reach_the_bounds_of_the_environment():
    low, high = np.array([[-2.0, 0.0]]), np.array([[2.0, 10.0]])
    env = known(action_space=spaces.Box(low, high, dtype=np.float64))
    assert env.action_space == spaces.Box(-1.0, 1.0, (2,), np.float32)
    env.reset(seed=0)
    for action in ([-1.0, -1.0], [0.0, 0.5], [1.0, 1.0], [3.0, -3.0]):
        env.step(np.array(action, np.float32))
    told = [action.tolist() for action in env._env.unwrapped.told]
    assert told == [[[-2, 0]], [[0, 7.5]], [[2, 10]], [[2, 0]]]


def test_actions_stay_within_bounds_that_are_rounded():
    space = spaces.Box(-0.1, 0.3, (1,), np.float32)
    env = known(action_space=space)
    env.reset(seed=0)
    for action in np.linspace(-1.0, 1.0, 4):
        env.step(np.array([action], np.float32))
    assert all(space.contains(action) for action in env._env.unwrapped.told)


@pytest.mark.parametrize(
    ("limit", "ends_at", "end"),
    [(10, 5, (5, True, False)), (4, 5, (4, False, True)), (5, 5, (5, True, True))],
)
def test_an_episode_ends_by_itself_or_is_cut(limit, ends_at, end):
    env = known(episode_steps=limit, ends_at=ends_at)
    env.reset(seed=0)
    assert played_to_the_end(env) == end


def test_what_the_environment_truncates_is_no_end_of_the_process():
    env = GymEnv("Dot-v0", "tests.own_environment", "", 64, 500)
    env.reset(seed=0)
    assert played_to_the_end(env) == (50, False, True)


@pytest.mark.parametrize(
    "action", [np.zeros(2), np.array([np.nan]), np.array([np.inf])]
)
def test_other_actions_are_refused(action):
    env = known()
    env.reset(seed=0)
    with pytest.raises(ValueError, match="action must be 1 finite numbers"):
        env.step(action)


def test_the_order_of_calls_is_checked():
    with pytest.raises(RuntimeError, match="call reset"):
        known().step(np.zeros(1))


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"action_space": spaces.Discrete(3)}, "Discrete.3. where a Box"),
        ({"action_space": spaces.Box(0, 3, (1,), np.int64)}, "Box of real numbers"),
        ({"action_space": spaces.Box(-np.inf, 1.0, (1,))}, "no bounds to scale"),
        ({"where": "two"}, r"several images \(left, right\)"),
        ({"image_size": 0}, "image_size 0"),
        ({"episode_steps": 0}, "episode_steps 0"),
    ],
)
def test_what_cannot_be_learnt_in_is_refused(options, culprit):
    with pytest.raises(ValueError, match=culprit):
        known(**options)


def test_a_frame_that_is_no_image_is_refused():
    env = known(where="float")
    with pytest.raises(ValueError, match="float64.6, 8, 3. where a frame is uint8"):
        env.reset(seed=0)


@pytest.mark.parametrize(
    ("env", "culprit"),
    [
        ({"name": "gym:CartPole-v1"}, "'gym:CartPole-v1'.*Discrete.2."),
        ({"name": "gym:Nowhere-v1"}, "'gym:Nowhere-v1'.*NameNotFound"),
        ({"name": "gym:"}, "'gym:', but nothing"),
        ({"modules": "no_such_module"}, "ModuleNotFoundError.*no_such_module"),
        ({"options": "{1"}, "config.env.options is no JSON"),
        ({"options": "[1]"}, "config.env.options is .1.: use a JSON object"),
        ({"options": '{"colour": 1}'}, "TypeError.*colour"),
        ({"render_profile": "fast"}, "render_profile is 'fast'.*gymnasium.py"),
    ],
)
def test_what_is_no_such_world_is_said_in_one_sentence(env, culprit):
    with pytest.raises(ValueError, match=culprit) as error:
        make_world(config_of(**env))
    assert "\n" not in str(error.value)


def test_modules_are_imported_first():
    world = make_world(
        config_of(name="gym:Dot-v0", modules="json, tests.own_environment")
    )
    assert world.action_size == 2 and world.image_size == 64
    assert world.events == ("success",)
    assert set(world.sources) == {"directory", "pixels", "random"}
    world.prepare()
    assert world.renderer_name() is None
    with pytest.raises(DatasetError, match="no demonstrator"):
        world.demonstrate(0)


def test_the_task_is_called_after_the_environment():
    config = get_config("tiny")
    config.env.name = "gym:Pusher-v5"
    assert config.to_dict()["task"] == "gym:Pusher-v5"
    config.task = "other"
    assert config.env.name == "gym:Pusher-v5"


def test_success_is_a_reward_and_the_first_row_has_none():
    world = make_world(
        config_of(
            name="gym:Dot-v0", modules="tests.own_environment", success_reward=-1.0
        )
    )
    reward = np.array([0.0, -3.0, -1.0, -2.0], np.float32)
    episode = Episode(
        image=np.zeros((4, 8, 8, 3), np.uint8),
        action=np.zeros((3, 2), np.float32),
        reward=reward,
        is_terminal=np.array([False, False, False, True]),
    )
    labels = world.label(episode)
    assert labels.events[:, 0].tolist() == [False, False, True, False]
    assert labels.is_terminal.tolist() == [False, False, False, True]
    np.testing.assert_array_equal(labels.reward, reward)


def test_what_workers_import_is_free_of_jax():
    assert_free_of_jax(
        "from moto_jax.worlds.gym.environment import GymEnv",
        "GymEnv('Dot-v0', 'tests.own_environment').reset(seed=0)",
    )


def test_workers_play_an_own_environment_to_its_end():
    config = config_of(name="gym:Dot-v0", modules="tests.own_environment")
    config.env.update(episode_steps=30, workers=2)
    with make_world(config).open_stage() as stage:
        # Straight on, as a target lies: two of three dots reach theirs, one is cut.
        straight = random_policy(2)._replace(
            act=lambda params, carry, image, *_: (jnp.full((len(image), 2), 0.7), carry)
        )
        plays = [Play(0, seed) for seed in range(3)]
        episodes = list(stage.player(straight)({}, jax.random.key(0)[None], plays))
    ends = [(bool(e.is_terminal[-1]), len(e.action) < 30) for e in episodes]
    assert ends == [(True, True), (True, True), (False, False)]
    for seed, episode in enumerate(episodes):
        env = GymEnv("Dot-v0", "", "", 64, 30)
        image, _ = env.reset(seed=seed)
        rows = [(image, 0.0, False)]
        for action in episode.action:
            image, reward, terminated, _, _ = env.step(action)
            rows.append((image, reward, terminated))
        for played, field in zip(
            zip(*rows, strict=True),
            (episode.image, episode.reward, episode.is_terminal),
            strict=True,
        ):
            np.testing.assert_array_equal(np.stack(played), field)


def check_run(workdir, steps):
    """A run of two online episodes, of so many steps, went to its end."""
    assert read_manifest(workdir / "dataset").source == "random"
    for number in range(2):
        episode = read_episode(workdir / "online" / f"{number:06d}.npz")
        assert episode.reward is not None and episode.is_terminal is not None
        assert episode.num_rows == steps + 1 and not episode.is_terminal.any()
    run = read_run(workdir)
    assert run.summary["updates"] == 8
    assert len(run.series("mean/success", "evaluation")[0]) == 3


# The model-based ones compile for half a minute.
slow = [pytest.param(name, marks=pytest.mark.slow) for name in ("moto", "dreamer_v2")]


@pytest.mark.parametrize("agent", [*slow, "sac"])
def test_a_whole_run_in_an_own_environment(agent, tmp_path):
    config = config_of(name="gym:Dot-v0", modules="tests.own_environment")
    config.agent = agent
    assert training.train(config, tmp_path / "run") is None
    check_run(tmp_path / "run", steps=20)


@pytest.mark.kitchen
def test_a_whole_run_in_one_of_gymnasiums(tmp_path):
    config = config_of(options='{"width": 64, "height": 64}')
    config.agent = "sac"
    assert training.train(config, tmp_path / "run") is None
    check_run(tmp_path / "run", steps=20)
    episode = read_episode(tmp_path / "run" / "online" / "000000.npz")
    # Something moves in the picture, and every step costs.
    assert (episode.image[0] != episode.image[-1]).any()
    assert (episode.reward[1:] < 0).all()


def section_of_the_page():
    text = (ROOT / "docs" / "environment.md").read_text()
    return re.search(r"# Your environment\n(.*?)(?=\n#+ )", text, re.DOTALL)


def test_what_the_page_says_of_your_environment_works(tmp_path):
    section = section_of_the_page().group(1)
    module = re.search(r"```python\n(.*?)```", section, re.DOTALL).group(1)
    (tmp_path / "dot.py").write_text(module)
    command = re.search(r"```sh\n(.*?)```", section, re.DOTALL).group(1)
    words = command.replace("\\\n", " ").split()
    assert words[:3] == ["python", "-m", "experiments.run"]
    flags = [
        word.replace("=experiments/", f"={ROOT}/experiments/").replace(":cpu", ":tiny")
        for word in words[3:]
    ]
    flags += ["--config.agent=sac", f"--workdir={tmp_path}/run"]
    # Its module is found where the program is started.
    done = run_program("run", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check_run(tmp_path / "run", steps=20)
