"""Where demonstrations come from: the scripted demonstrator, or recorded positions.

All end as a dataset of episodes on disk (`building.build_dataset`). MuJoCo is imported
in the processes that make the episodes, not here.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moto_jax.acting.building import (
    Made,
    build_dataset,
    file_name,
    head_of,
    require_long_enough,
)
from moto_jax.acting.environment_seeds import Purpose, check_seed, environment_seed
from moto_jax.acting.progress import Progress
from moto_jax.data.episodes import MAX_EPISODE_BYTES, DatasetError, Episode, Manifest
from moto_jax.worlds.graphics import choose_backend
from moto_jax.worlds.kitchen import tasks
from moto_jax.worlds.kitchen.composition import composition
from moto_jax.worlds.kitchen.d4rl import Recorded, read_d4rl
from moto_jax.worlds.kitchen.demonstrator import Demonstrator
from moto_jax.worlds.kitchen.labels import completion_order, require_objects
from moto_jax.worlds.kitchen.minari import minari_file, read_minari

if TYPE_CHECKING:
    from moto_jax.worlds.kitchen.environment import KitchenEnv
    from moto_jax.worlds.kitchen.renderer import KitchenRenderer

# Distinct seeds tried until the demonstrator does an episode's objects as asked.
MAX_ATTEMPTS = 8


def scripted_episodes(
    directory: str | os.PathLike[str],
    *,
    task: str | Sequence[str],
    num_episodes: int,
    complete_share: float | None = None,
    seed: int = 0,
    action_noise: float = 0.1,
    min_speed: float = 0.8,
    keyframe_jitter: float = 0.01,
    tail_steps: int = 10,
    render_profile: str = "fast",
    image_size: int = 64,
    num_workers: int = 2,
    progress: Progress | None = None,
) -> Manifest:
    """Makes a dataset of scripted episodes, or takes up or returns one that is there.

    Args:
      directory: where the dataset is, or is to be.
      task: a task's name, or its objects in order; decides the composition only.
      num_episodes: see `composition.composition`, as for `complete_share`.
      complete_share: see `composition.composition`.
      seed: of everything random, in [0, 2**32); each episode derives its own.
      action_noise: see `demonstrator.Demonstrator`, as for the next two.
      min_speed: see there.
      keyframe_jitter: see there.
      tail_steps: control steps from the demonstrator's end to the episode's.
      render_profile: of the images.
      image_size: pixels a side.
      num_workers: processes.
      progress: called with the numbers of episodes done and wanted.

    Raises:
      ValueError: for a parameter out of its range.
      DatasetError: where the directory holds another dataset, or an episode fails.
      GraphicsError: where the machine cannot draw.
    """
    objects = tasks.resolve_task(task)
    if tail_steps < 0:
        raise ValueError(f"tail_steps is {tail_steps}: use 0 or more")
    check_seed("seed", seed)
    sequences = composition(objects, num_episodes, complete_share, seed)
    demonstration = {
        "action_noise": action_noise,
        "min_speed": min_speed,
        "keyframe_jitter": keyframe_jitter,
    }
    # Refuses bad values here, before any process starts.
    Demonstrator(sequences[0], seed, **demonstration)
    request = {
        "task": list(objects),
        "num_episodes": num_episodes,
        "complete_share": complete_share,
        "seed": seed,
        "tail_steps": tail_steps,
        **demonstration,
        # Datasets from before they were recorded are others.
        "intended_actions": True,
    }
    drawing = {"render_profile": render_profile, "image_size": image_size}

    def make_jobs() -> list[ScriptedJob]:
        _check_drawing(**drawing)
        return [
            ScriptedJob(index, sequence, seed, demonstration, tail_steps, **drawing)
            for index, sequence in enumerate(sequences)
        ]

    head = head_of("scripted", request, **drawing)
    return build_dataset(directory, head, make_jobs, num_workers, progress)


@dataclasses.dataclass(frozen=True)
class ScriptedJob:
    """One scripted episode.

    Attributes:
      index: of the episode in the dataset.
      objects: what to do, in order.
      seed: of the dataset.
      demonstration: keyword arguments of the `Demonstrator`.
      tail_steps: control steps after the demonstrator's end.
      render_profile: of the images.
      image_size: pixels a side.
    """

    index: int
    objects: tuple[str, ...]
    seed: int
    demonstration: dict[str, float]
    tail_steps: int
    render_profile: str
    image_size: int

    @property
    def file(self) -> str:
        """The episode's file name."""
        return file_name(self.index, self.objects)

    def run(self) -> Made:
        """Returns the first attempt that did these objects, in order, and no other."""
        env = _environment(self.render_profile, self.image_size)
        for attempt in range(MAX_ATTEMPTS):
            # Of a dataset's first attempts no two meet.
            seed = environment_seed(
                Purpose.DEMONSTRATIONS, self.seed, attempt, number=self.index
            )
            demonstrator = Demonstrator(self.objects, seed, **self.demonstration)
            episode = record_episode(env, demonstrator, seed, self.tail_steps)
            if completion_order(require_objects(episode)) == self.objects:
                return Made(episode, self.objects, attempt + 1)
        raise DatasetError(
            f"{self.file}: the demonstrator failed {MAX_ATTEMPTS} times: lower "
            "config.data.action_noise (--action_noise)"
        )


def record_episode(
    env: "KitchenEnv", demonstrator: Demonstrator, seed: int, tail_steps: int
) -> Episode:
    """Runs the demonstrator until `tail_steps` after its end, or the time limit.

    Like a human demonstration the episode stops after its last object.

    Args:
      env: where; its seed is `seed`.
      demonstrator: who.
      seed: of the environment's noise.
      tail_steps: control steps.
    """
    image, info = env.reset(seed=seed)
    images, infos, actions, intended = [image], [info], [], []
    is_last, steps_left = False, tail_steps
    while not is_last:
        action = demonstrator.act(info)
        if demonstrator.finished:
            if not steps_left:
                break
            steps_left -= 1
        image, _, _, is_last, info = env.step(action)
        images.append(image)
        infos.append(info)
        actions.append(action)
        intended.append(demonstrator.intended_action)
    return Episode(
        image=np.stack(images),
        action=np.stack(actions),
        objects_in_goal=np.stack([info["objects_in_goal"] for info in infos]),
        qpos=np.stack([info["qpos"] for info in infos]).astype(np.float32),
        intended_action=np.stack(intended),
    )


def kitchen_demonstration(
    objects: Sequence[str],
    seed: int,
    action_noise: float,
    *,
    render_profile: str,
    image_size: int,
    robot_noise_ratio: float,
    object_noise_ratio: float,
) -> Episode:
    """Returns one demonstration of objects in order, drawn as asked.

    Args:
      objects: what is done.
      seed: of the demonstrator's and of the environment's noise.
      action_noise: see `demonstrator.Demonstrator`.
      render_profile: see `environment.KitchenEnv`, as for the others.
      image_size: pixels a side.
      robot_noise_ratio: see there.
      object_noise_ratio: see there.
    """
    from moto_jax.worlds.kitchen.environment import KitchenEnv

    env = KitchenEnv(
        objects,
        render_profile=render_profile,
        image_size=image_size,
        robot_noise_ratio=robot_noise_ratio,
        object_noise_ratio=object_noise_ratio,
    )
    try:
        demonstrator = Demonstrator(tuple(objects), seed, action_noise)
        return record_episode(env, demonstrator, seed, tail_steps=10)
    finally:
        env.close()


def d4rl_episodes(
    directory: str | os.PathLike[str],
    *,
    path: str | os.PathLike[str],
    **drawing: Any,
) -> Manifest:
    """Makes a dataset of a D4RL kitchen file, or takes up or returns one that is there.

    Args:
      directory: where the dataset is, or is to be.
      path: of the hdf5 file; see `d4rl.read_d4rl`.
      **drawing: see `recorded_episodes`, as for what is raised.
    """
    return recorded_episodes(directory, "d4rl", Path(path), read_d4rl, **drawing)


def minari_episodes(
    directory: str | os.PathLike[str],
    *,
    path: str | os.PathLike[str],
    **drawing: Any,
) -> Manifest:
    """Makes a dataset of a kitchen dataset of Minari, or takes up or returns one.

    Args:
      directory: where the dataset is, or is to be.
      path: of the hdf5 file, or of Minari's directory; see `minari.read_minari`.
      **drawing: see `recorded_episodes`, as for what is raised.
    """
    file = minari_file(path)
    return recorded_episodes(directory, "minari", file, read_minari, **drawing)


def recorded_episodes(
    directory: str | os.PathLike[str],
    source: str,
    path: Path,
    read: Callable[[Path], Sequence[Recorded]],
    *,
    render_profile: str = "fast",
    image_size: int = 64,
    min_rows: int = 2,
    num_workers: int = 2,
    progress: Progress | None = None,
) -> Manifest:
    """Makes a dataset of recorded joint positions, or takes up or returns one.

    They are set into the simulator and drawn; nothing is simulated again, since the
    recorded actions would not repeat the recorded outcomes. Which objects are in their
    goal follows from the positions.

    Args:
      directory: where the dataset is, or is to be.
      source: what the manifest is to say of who made it.
      path: of the file.
      read: reads it.
      render_profile: of the images.
      image_size: pixels a side.
      min_rows: rows of a sequence; nothing is drawn if no episode is as long.
      num_workers: processes.
      progress: called with the numbers of episodes done and wanted.

    Raises:
      DatasetError: where the file is not as it must be, or the directory holds another
        dataset.
      GraphicsError: where the machine cannot draw.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read ({error.strerror}): mend config.data.path "
            "(--path), or the file's rights"
        ) from None

    drawing = {"render_profile": render_profile, "image_size": image_size}

    def make_jobs() -> list[DrawingJob]:
        recorded = read(path)
        rows = [len(episode.qpos) for episode in recorded]
        require_long_enough(str(path), rows, min_rows)
        if max(rows) * 3 * image_size**2 > MAX_EPISODE_BYTES:
            raise DatasetError(
                f"{path}: an episode has {max(rows)} rows, whose images of "
                f"{image_size} pixels a side are over the bound of "
                f"{MAX_EPISODE_BYTES // 2**20} MiB: split it with field 'timeouts'"
            )
        _check_drawing(**drawing)
        return [
            DrawingJob(index, *episode, **drawing)
            for index, episode in enumerate(recorded)
        ]

    request = {"file": path.name, "sha256": digest}
    head = head_of(source, request, **drawing)
    return build_dataset(directory, head, make_jobs, num_workers, progress)


@dataclasses.dataclass(frozen=True)
class DrawingJob:
    """One recorded episode.

    Attributes:
      index: of the episode in the dataset.
      qpos: float32 [L + 1, 30].
      action: float32 [L, 9].
      render_profile: of the images.
      image_size: pixels a side.
    """

    index: int
    qpos: np.ndarray
    action: np.ndarray
    render_profile: str
    image_size: int

    @property
    def file(self) -> str:
        """The episode's file name."""
        return file_name(self.index, completion_order(tasks.objects_in_goal(self.qpos)))

    def run(self) -> Made:
        """Draws every row; a recorded episode needs one attempt."""
        renderer = _renderer(self.render_profile, self.image_size)
        in_goal = tasks.objects_in_goal(self.qpos)
        episode = Episode(
            image=np.stack([renderer.render(qpos) for qpos in self.qpos]),
            action=self.action,
            objects_in_goal=in_goal,
            qpos=self.qpos,
        )
        return Made(episode, completion_order(in_goal))


def _check_drawing(render_profile: str, image_size: int) -> None:
    """Refuses what no process could draw, before any is started."""
    choose_backend()
    from moto_jax.worlds.kitchen.renderer import check_profile

    check_profile(render_profile)
    if image_size < 1:
        raise ValueError(f"image_size is {image_size}: use at least 1")


@functools.cache
def _renderer(render_profile: str, image_size: int) -> "KitchenRenderer":
    """One a process: making a graphics context and its background takes seconds."""
    choose_backend()
    from moto_jax.worlds.kitchen.renderer import KitchenRenderer

    return KitchenRenderer(render_profile, image_size)


@functools.cache
def _environment(render_profile: str, image_size: int) -> "KitchenEnv":
    renderer = _renderer(render_profile, image_size)
    from moto_jax.worlds.kitchen.environment import KitchenEnv

    return KitchenEnv(
        render_profile=render_profile, image_size=image_size, renderer=renderer
    )
