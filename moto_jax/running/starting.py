"""How a run's directory is entered: claimed, and never emptied unasked.

A run whose checkpoints are gone would train anew over what it has left behind. So it is
refused, unless it was ended before its first checkpoint, when there is nothing to lose.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from moto_jax.run_layout import METRICS_NAME, SUMMARY_NAME, RunError, seed_directory
from moto_jax.running import checkpoints, machines
from moto_jax.running.metrics import last_step
from moto_jax.running.online_episodes import collected
from moto_jax.running.run_directory import check_config, claimed
from moto_jax.running.schedule import Schedule
from moto_jax.types import Config

# By their patterns what a run writes for each seed, but for its online episodes.
_WRITTEN = (
    METRICS_NAME,
    SUMMARY_NAME,
    "videos/[0-9]*-best.mp4",
    "videos/[0-9]*-best.png",
    "videos/[0-9]*-worst.mp4",
    "tensorboard/events.out.tfevents.*",
)


@contextlib.contextmanager
def claimed_by_first(
    workdir: Path, config: Config, schedule: Schedule, fresh: bool
) -> Iterator[None]:
    """Makes the directory this run's; of several processes the first holds it.

    Args:
      workdir: the run's directory.
      config: the run's.
      schedule: the run's.
      fresh: whether what the run has written there before is removed first.

    Raises:
      RunError: if another process uses the directory, it is of another configuration,
        or its checkpoints are gone.
    """
    with contextlib.ExitStack() as stack:
        # Each for itself: what is wrong is then said by all, and nobody waits.
        check_config(workdir, config.to_dict())
        if not fresh:
            check_not_lost(workdir, config.seeds, schedule)
        if machines.is_first():
            stack.enter_context(claimed(workdir, config.to_dict()))
            if fresh:
                clear(workdir, config.seeds)
        machines.wait_for_all("claimed")
        yield


def check_not_lost(workdir: Path, seeds: Sequence[int], schedule: Schedule) -> None:
    """Looks whether a run has left more than a run without checkpoints can have.

    Raises:
      RunError: if it has, and there is no checkpoint.
    """
    if checkpoints.steps(workdir / "checkpoints"):
        return
    for seed in seeds:
        directory = seed_directory(workdir, seeds, seed)
        step = last_step(directory / METRICS_NAME)
        episodes = max(collected(directory / "online"), default=-1) + 1
        if (directory / SUMMARY_NAME).exists():
            left = f"a summary ({SUMMARY_NAME})"
        elif schedule.has_saved(-1, episodes):
            left = f"{episodes} online episodes"
        elif schedule.has_saved(step, 0):
            left = f"metrics of {step} updates"
        else:
            continue
        raise RunError(
            f"{directory} holds {left}, but {workdir / 'checkpoints'} holds no "
            "checkpoint to go on from: restore the checkpoints, or give --fresh to "
            "remove what the run has left and start it again, or another --workdir"
        )


def clear(workdir: Path, seeds: Sequence[int]) -> None:
    """Removes what a run wrote, but for configuration and demonstrations.

    Files of other names stay, wherever they lie.
    """
    checkpoints.remove_all(workdir / "checkpoints")
    (workdir / "curves.png").unlink(missing_ok=True)
    for seed in seeds:
        directory = seed_directory(workdir, seeds, seed)
        own = [path for pattern in _WRITTEN for path in directory.glob(pattern)]
        for path in [*own, *collected(directory / "online").values()]:
            path.unlink()
