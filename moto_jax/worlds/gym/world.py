"""Any Gymnasium environment as a `World`: `config.env.name` is `gym:` and its name.

Nothing is known of it but the reward, so an episode is a success once a reward reaches
`config.env.success_reward`, and there is no demonstrator: data are random episodes, a
dataset that is there, or a folder of recorded ones.
"""

import contextlib
import functools

from moto_jax.acting.collection import open_pool_stage
from moto_jax.data.episodes import DatasetError, Episode
from moto_jax.types import Config
from moto_jax.worlds.graphics import GraphicsError, choose_backend
from moto_jax.worlds.gym.environment import GymEnv, action_size
from moto_jax.worlds.rewards import make_reward_label
from moto_jax.worlds.world import World

PREFIX = "gym:"
RENDER_PROFILE = "gym"


def make_gym(config: Config) -> World:
    """Returns the world of `config.env`; the environment is built once, and closed.

    Raises:
      ValueError: for an environment that cannot be built or learnt in, or another
        render profile.
    """
    if config.env.render_profile != RENDER_PROFILE:
        raise ValueError(
            f"config.env.render_profile is {config.env.render_profile!r}: "
            f"{config.env.name} draws itself, which is {RENDER_PROFILE!r} (see "
            "experiments/configs/gymnasium.py)"
        )
    built_with = (
        config.env.name.removeprefix(PREFIX),
        config.env.modules,
        config.env.options,
    )
    sizes = (config.env.image_size, config.env.episode_steps)
    make_env = functools.partial(GymEnv, *built_with, *sizes)
    # One that MuJoCo draws imports it, which reads the backend only then.
    _prepare()
    return World(
        action_size=_action_size(*built_with),
        image_size=config.env.image_size,
        render_profile=RENDER_PROFILE,
        events=("success",),
        label=make_reward_label(
            config.env.success_reward, config.replay.behaviour_rows_after
        ),
        sources={},
        demonstrate=_demonstrate,
        open_stage=lambda: open_pool_stage(make_env, config.env.workers),
        most_at_once=config.env.workers,
        prepare=_prepare,
        renderer_name=lambda: None,
    )


# A program asks for its world several times.
_action_size = functools.lru_cache(action_size)


def _demonstrate(seed: int) -> Episode:
    raise DatasetError(
        f"there is no demonstrator to play environment seed {seed}: of a Gymnasium "
        "environment nothing is known but its reward; evaluate a policy instead"
    )


def _prepare() -> None:
    """Chooses MuJoCo's backend, which the environment may not need."""
    with contextlib.suppress(GraphicsError):
        choose_backend()
