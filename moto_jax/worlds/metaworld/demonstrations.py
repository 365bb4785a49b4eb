"""Demonstrations of MetaWorld's tasks by the package's scripted policies; no jax."""

import dataclasses
import functools
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moto_jax.acting.building import Made, build_dataset, file_name, head_of
from moto_jax.acting.environment_seeds import Purpose, check_seed, environment_seed
from moto_jax.acting.progress import Progress
from moto_jax.data.episodes import DatasetError, Episode, Manifest
from moto_jax.worlds.graphics import choose_backend
from moto_jax.worlds.metaworld import tasks

if TYPE_CHECKING:
    from moto_jax.worlds.metaworld.environment import MetaWorldEnv

# Distinct seeds tried for an episode. Of six of box-close, whose lid tips, four ended
# with the box open; most tasks hardly ever need a second.
MAX_ATTEMPTS = 20
# Second word of the noise's random numbers; the environment has those of its seed.
_NOISE_STREAM = 2


def scripted_episodes(
    directory: str | os.PathLike[str],
    *,
    task: str,
    num_episodes: int,
    seed: int,
    action_noise: float,
    image_size: int = 64,
    episode_steps: int = tasks.EPISODE_STEPS,
    num_workers: int = 2,
    progress: Progress | None = None,
) -> Manifest:
    """Makes a dataset of scripted episodes, or takes up or returns one that is there.

    Args:
      directory: where the dataset is, or is to be.
      task: one of `tasks.TASKS`.
      num_episodes: at least 1.
      seed: of everything random, in [0, 2**32); each episode derives its own.
      action_noise: standard deviation of the noise on the policy's actions.
      image_size: pixels a side.
      episode_steps: decisions an episode.
      num_workers: processes.
      progress: called with the numbers of episodes done and wanted.

    Raises:
      ValueError: for a parameter out of its range, or where the package is missing.
      DatasetError: where the directory holds another dataset, or an episode fails.
      GraphicsError: where the machine cannot draw.
    """
    tasks.check_task(task)
    check_seed("seed", seed)
    _check_noise(action_noise)
    if num_episodes < 1:
        raise ValueError(f"config.data.episodes is {num_episodes}: use at least 1")
    request = {
        "task": task,
        "num_episodes": num_episodes,
        "seed": seed,
        "action_noise": action_noise,
        "episode_steps": episode_steps,
    }

    def make_jobs() -> list[ScriptedJob]:
        tasks.require_package()
        choose_backend()
        sizes = (image_size, episode_steps)
        return [
            ScriptedJob(index, task, seed, action_noise, *sizes)
            for index in range(num_episodes)
        ]

    head = head_of("metaworld", request, tasks.RENDER_PROFILE, image_size)
    return build_dataset(Path(directory), head, make_jobs, num_workers, progress)


@dataclasses.dataclass(frozen=True)
class ScriptedJob:
    """One scripted episode.

    Attributes:
      index: of the episode in the dataset.
      task: what is done.
      seed: of the dataset.
      action_noise: standard deviation.
      image_size: pixels a side.
      episode_steps: decisions.
    """

    index: int
    task: str
    seed: int
    action_noise: float
    image_size: int
    episode_steps: int

    @property
    def file(self) -> str:
        """The episode's file name."""
        return file_name(self.index, ())

    def run(self) -> Made:
        """Returns the first attempt that ended with the task done."""
        env = _environment(self.task, self.image_size, self.episode_steps)
        for attempt in range(MAX_ATTEMPTS):
            seed = environment_seed(
                Purpose.DEMONSTRATIONS, self.seed, attempt, number=self.index
            )
            episode = record_episode(env, self.task, seed, self.action_noise)
            if is_done(episode):
                return Made(episode, attempts=attempt + 1)
        raise DatasetError(
            f"{self.file}: {self.task}'s scripted policy failed {MAX_ATTEMPTS} times: "
            "lower config.data.action_noise or raise config.env.episode_steps"
        )


def metaworld_demonstration(
    task: str, seed: int, action_noise: float, image_size: int, episode_steps: int
) -> Episode:
    """Returns one demonstration.

    Args:
      task: what is done.
      seed: of the environment and of the noise.
      action_noise: standard deviation of the noise on the policy's actions.
      image_size: pixels a side.
      episode_steps: decisions.

    Raises:
      DatasetError: where the episode does not end with the task done.
    """
    from moto_jax.worlds.metaworld.environment import MetaWorldEnv

    _check_noise(action_noise)
    env = MetaWorldEnv(task, image_size, episode_steps)
    try:
        episode = record_episode(env, task, seed, action_noise)
    finally:
        env.close()
    if not is_done(episode):
        raise DatasetError(
            f"{task}'s scripted policy failed in the episode of seed {seed}: give "
            "another --episode, or fewer --episodes"
        )
    return episode


def record_episode(
    env: "MetaWorldEnv", task: str, seed: int, action_noise: float
) -> Episode:
    """Plays the task's scripted policy with normal noise until the time limit.

    As online episodes it goes on once the task is done: that it stays so is shown, too.

    Args:
      env: of the task.
      task: what is done.
      seed: of the environment and of the noise.
      action_noise: standard deviation.
    """
    policy = _make_policy(task)
    generator = np.random.default_rng([seed, _NOISE_STREAM])
    image, info = env.reset(seed=seed)
    images, rewards, actions, intended = [image], [0.0], [], []
    is_last = False
    while not is_last:
        with warnings.catch_warnings():
            # That it asks for more than the environment's [-1, 1].
            warnings.simplefilter("ignore", UserWarning)
            meant = np.clip(policy.get_action(info["state"]), -1.0, 1.0)
        noise = action_noise * generator.standard_normal(meant.shape)
        action = np.clip(meant + noise, -1.0, 1.0).astype(np.float32)
        image, reward, _, is_last, info = env.step(action)
        images.append(image)
        rewards.append(reward)
        actions.append(action)
        intended.append(meant.astype(np.float32))
    return Episode(
        image=np.stack(images),
        action=np.stack(actions),
        intended_action=np.stack(intended),
        reward=np.array(rewards, np.float32),
    )


def is_done(episode: Episode) -> bool:
    """Whether a recorded episode ends with its task done."""
    return episode.reward is not None and bool(episode.reward[-1] > 0)


def _make_policy(task: str) -> Any:
    from metaworld.policies import ENV_POLICY_MAP  # pyright: ignore[reportMissingImports]

    return ENV_POLICY_MAP[f"{task}-v3"]()


def _check_noise(action_noise: float) -> None:
    if not 0.0 <= action_noise < np.inf:
        raise ValueError(f"config.data.action_noise is {action_noise}: use 0 or more")


@functools.cache
def _environment(task: str, image_size: int, episode_steps: int) -> "MetaWorldEnv":
    """One a process: building it takes seconds."""
    from moto_jax.worlds.metaworld.environment import MetaWorldEnv

    return MetaWorldEnv(task, image_size, episode_steps)
