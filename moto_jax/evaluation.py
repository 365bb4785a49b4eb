"""How many objects a policy completes, how sure that is, and how it looks."""

import dataclasses
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import imageio.v3
import imageio_ffmpeg
import jax
import numpy as np

from moto_jax.collection import Play, PlayEpisodes
from moto_jax.data.episodes import Episode
from moto_jax.data.files import write_atomically
from moto_jax.envs import tasks
from moto_jax.types import Params

# The kitchen's control step is 0.08 s: at this rate a video runs in real time.
REAL_TIME_FPS = 12.5

# Two-sided 95 % of the normal distribution.
_NORMAL_QUANTILE = 1.959963984540054
_BOOTSTRAP_SAMPLES = 10_000


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """What a policy did in N episodes; K counts the task's objects.

    Attributes:
      task: the K objects.
      reached: bool [N, K], the object was in its goal at some step.
      at_end: bool [N, K], the object was in its goal at the last step.
      returns: float32 [N], undiscounted sums of reward.
      best: the episode with most objects reached; of equals the highest return.
      worst: the episode with fewest; of equals the lowest return.
    """

    task: tuple[str, ...]
    reached: np.ndarray
    at_end: np.ndarray
    returns: np.ndarray
    best: Episode
    worst: Episode

    def summary(self) -> dict[str, float]:
        """Returns the figures to log.

        `objects` is the mean number of objects reached an episode, with a bootstrap
        interval; `success` the share of episodes that reached all of them, with
        Wilson's; both at 95 %, as `_low` and `_high`. `success_at_end` counts the
        episodes in which all were in their goal at the last step.
        """
        objects = self.reached.sum(axis=1)
        success = self.reached.all(axis=1)
        objects_low, objects_high = bootstrap_interval(objects)
        success_low, success_high = wilson_interval(int(success.sum()), len(objects))
        return {
            "episodes": float(len(objects)),
            "objects": float(objects.mean()),
            "objects_low": objects_low,
            "objects_high": objects_high,
            "objects_at_end": float(self.at_end.sum(axis=1).mean()),
            "success": float(success.mean()),
            "success_low": success_low,
            "success_high": success_high,
            "success_at_end": float(self.at_end.all(axis=1).mean()),
            "return": float(self.returns.mean()),
        } | {
            f"reached/{name}": float(rate)
            for name, rate in zip(self.task, self.reached.mean(axis=0), strict=True)
        }


def evaluate(
    play: PlayEpisodes,
    params: Params,
    keys: jax.Array,
    seeds: Sequence[int],
    task: str | Sequence[str],
) -> EvaluationResult:
    """Runs one episode for each environment seed and counts what was completed.

    Args:
      play: the policy's, from a stage's `player`.
      params: the one set that the policy acts with: every leaf is [1, ...].
      keys: the one typed PRNG key of the policy's noise, [1].
      seeds: of the environments' resets.
      task: a task's name, or its objects.

    Raises:
      ValueError: without seeds, or for an unknown task.
      WorkerError: if workers keep failing.
    """
    objects = tasks.resolve_task(task)
    columns = tasks.object_columns(objects)
    reached, at_end, returns = [], [], []
    best = worst = None
    best_score, worst_score = (-1, -1.0), (len(objects) + 1, 0.0)
    plays = [Play(0, seed) for seed in seeds]
    for episode in play(params, keys, plays):
        in_goal = episode.objects_in_goal
        reached.append(tasks.objects_reached(in_goal, objects))
        at_end.append(in_goal[-1, columns])
        returns.append(tasks.task_reward(in_goal[1:], objects).sum())
        score = (int(reached[-1].sum()), float(returns[-1]))
        if score > best_score:
            best, best_score = episode, score
        if score < worst_score:
            worst, worst_score = episode, score
    if best is None or worst is None:
        raise ValueError("no environment seed to evaluate with: ask for 1 episode")
    return EvaluationResult(
        task=objects,
        reached=np.stack(reached),
        at_end=np.stack(at_end),
        returns=np.stack(returns),
        best=best,
        worst=worst,
    )


def write_videos(directory: Path, name: str, result: EvaluationResult) -> None:
    """Writes NAME-best.mp4, its strip NAME-best.png, and NAME-worst.mp4.

    Args:
      directory: made where missing.
      name: of the files.
      result: whose best and worst episode are shown.
    """
    directory.mkdir(exist_ok=True)
    best = result.best
    write_video(directory / f"{name}-best.mp4", best.image)
    # The part in which things happen, to the last object and a second more.
    happens = tasks.first_completion(best.objects_in_goal).max() + 13
    write_strip(directory / f"{name}-best.png", best.image[: happens + 1])
    write_video(directory / f"{name}-worst.mp4", result.worst.image)


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Returns the 95 % score interval of a success rate (Wilson, 1927).

    It stays within [0, 1] and has a width at 0 and `trials` successes too, where the
    normal approximation has none.

    Raises:
      ValueError: unless 0 <= successes <= trials and trials > 0.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} successes in {trials} trials: no such rate")
    z = _NORMAL_QUANTILE
    rate = successes / trials
    centre = (rate + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half_width = (z / (1 + z**2 / trials)) * np.sqrt(
        rate * (1 - rate) / trials + z**2 / (4 * trials**2)
    )
    # Rounding may leave the ends a bit off 0 and 1, where they belong.
    low = 0.0 if successes == 0 else centre - half_width
    high = 1.0 if successes == trials else centre + half_width
    return float(low), float(high)


def bootstrap_interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Returns the 95 % percentile interval of the mean of `values` [N].

    The resampling is seeded: equal values give an equal interval.
    """
    values = np.asarray(values, np.float64)
    generator = np.random.default_rng(seed)
    samples = generator.choice(values, size=(_BOOTSTRAP_SAMPLES, len(values)))
    low, high = np.quantile(samples.mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def write_video(
    path: str | os.PathLike[str],
    frames: np.ndarray,
    fps: float = REAL_TIME_FPS,
    scale: int = 4,
) -> None:
    """Writes an H.264 mp4 that browsers play, whole or not at all.

    Args:
      path: of the file, ending in `.mp4`; its directory exists.
      frames: uint8 [rows, height, width, 3].
      fps: frames a second.
      scale: each pixel becomes a square of this many pixels a side.

    Raises:
      ValueError: for frames that cannot be a video in this format.
      OSError: if the file cannot be written.
    """
    path = Path(path)
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        raise ValueError(
            f"frames are {frames.dtype}{list(frames.shape)} instead of "
            "uint8[rows, height, width, 3]"
        )
    height, width = frames.shape[1:3]
    # The format halves the resolution of its colour planes.
    odd = scale * height % 2 or scale * width % 2
    if not len(frames) or odd or path.suffix != ".mp4":
        raise ValueError(
            f"cannot write {len(frames)} frames of {scale * width}x{scale * height} "
            f"pixels to {path.name}: an .mp4 needs a frame, and even sizes"
        )
    # ffmpeg knows the format by the name's ending.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.mp4")
    # imageio-ffmpeg brings the program; its own writer forks this process, which jax's
    # threads may not survive, and does not say when the program failed.
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        *("-y", "-loglevel", "error"),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}"),
        *("-framerate", str(fps), "-i", "-"),
        *("-vf", f"scale=iw*{scale}:ih*{scale}:flags=neighbor"),
        *("-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "18"),
        *("-movflags", "+faststart", str(temporary)),
    ]
    try:
        done = subprocess.run(command, input=frames.tobytes(), capture_output=True)
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip().splitlines()
            raise OSError(f"ffmpeg cannot write {path}: {' '.join(reason[-1:])}")
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_strip(
    path: str | os.PathLike[str],
    frames: np.ndarray,
    columns: int = 4,
    rows: int = 2,
    scale: int = 3,
) -> None:
    """Writes a PNG of evenly spaced frames, the first and the last among them.

    Args:
      path: of the file, ending in `.png`; its directory exists.
      frames: uint8 [number, height, width, 3].
      columns: frames side by side; read row by row.
      rows: of frames.
      scale: each pixel becomes a square of this many pixels a side.
    """
    chosen = np.linspace(0, len(frames) - 1, columns * rows).round().astype(int)
    large = frames[chosen].repeat(scale, axis=1).repeat(scale, axis=2)
    # A white line between neighbours.
    large = np.pad(large, ((0, 0), (0, scale), (0, scale), (0, 0)), constant_values=255)
    grid = large.reshape(rows, columns, *large.shape[1:]).transpose(0, 2, 1, 3, 4)
    picture = grid.reshape(rows * large.shape[1], columns * large.shape[2], 3)
    write_atomically(
        Path(path), imageio.v3.imwrite("<bytes>", picture, extension=".png")
    )
