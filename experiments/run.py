r"""Trains an agent: demonstrations, offline updates, online episodes, evaluation.

    python -m experiments.run --config=experiments/configs/mixed.py:cpu
    python -m experiments.run --config=experiments/configs/partial.py --config.seeds=0,1

Several seeds are trained by one program. The same command with the same --workdir takes
up a run that was interrupted. Ctrl-C and SIGTERM end the update under way, save, and
leave with status 128 + the signal's number. A run whose checkpoints are gone is
refused; --fresh starts it again.

Several processes do one run together when each is started with the same command and
--config.distributed=true: under SLURM or Open MPI as they are, elsewhere with
JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID set.
"""

import functools
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging
from ml_collections import config_flags
from rich.table import Table

from experiments.command_line import (
    fail,
    go_on_unread,
    output_console,
    prepare_jax,
    require_platform,
    run_program,
)
from experiments.configs.keys import check_values
from moto_jax.run_layout import SUMMARY_NAME, read_object
from moto_jax.study.figures import curves
from moto_jax.study.runs import seed_directories
from moto_jax.types import Config

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "File of the configuration and its size, such as "
    "experiments/configs/mixed.py:cpu. It is Python code, and is run.",
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Directory of the run; runs/TASK-SIZE-AGENT-seedSEED where not given, and with "
    "several seeds runs/TASK-SIZE-AGENT-seedsSEED-SEED.",
)
_ALLOW_VERSION_CHANGE = flags.DEFINE_bool(
    "allow_version_change",
    False,
    "Resume although packages that decide numbers have other versions, or the devices "
    "are others.",
)
_FRESH = flags.DEFINE_bool(
    "fresh",
    False,
    "Remove what an earlier run of the same command has written in --workdir, but for "
    "its demonstrations, and start again.",
)
_INIT_FROM = flags.DEFINE_string(
    "init_from",
    None,
    "Directory of a run whose newest checkpoint, demonstrations and online episodes "
    "this one starts from; the same as --config.init_from.",
)


def main(argv: Sequence[str]) -> None:
    """Does the run and reports it; what is wrong is said in one sentence."""
    del argv
    # Orbax tells every step of every save.
    logging.set_verbosity(logging.WARNING)
    prepare_jax(check=False)
    from moto_jax.running import machines
    from moto_jax.worlds.registry import make_world

    joined = False
    try:
        config = _CONFIG.value
        if _INIT_FROM.value:
            config.init_from = _INIT_FROM.value
        check_values(config)
        make_world(config).prepare()
        if config.distributed:
            machines.join()
            joined = True
        require_platform()
        stopped_by, workdir = _train(config)
        if stopped_by is None:
            if machines.is_first():
                report(workdir)
            return
    except (ValueError, RuntimeError, OSError, FloatingPointError) as error:
        status = getattr(error, "status", 1)
        if joined:
            machines.leave(error, status)
        fail(error, status)
    command = "the same command" + (" without --fresh" if _FRESH.value else "")
    print(f"stopped and saved; {command} goes on from here: {workdir}")
    sys.exit(128 + stopped_by)


def _train(config: Config) -> tuple[int | None, Path]:
    """Trains in the run's directory; returns the stopping signal and the directory."""
    import jax

    from moto_jax.running.training import train

    workdir = Path(_WORKDIR.value or default_workdir(config))
    if config.size == "full" and jax.default_backend() == "cpu":
        updates = (
            config.training.offline_updates
            + config.training.online_episodes * config.training.updates_per_episode
        )
        print(
            f"no accelerator: {updates:,} updates at the paper's sizes take months on "
            f"{os.cpu_count()} CPU cores; --config=...:cpu takes minutes",
            file=sys.stderr,
        )
    stopped_by = train(config, workdir, _ALLOW_VERSION_CHANGE.value, _FRESH.value)
    return stopped_by, workdir


def default_workdir(config: Config) -> str:
    """Returns where a run lies unless --workdir says."""
    task = config.task.replace(" ", "_").replace(",", "+")
    plural = "s" if len(config.seeds) > 1 else ""
    seeds = "-".join(map(str, config.seeds))
    return f"runs/{task}-{config.size}-{config.agent}-seed{plural}{seeds}"


def report(workdir: Path) -> None:
    """Draws a finished run's curves, prints its figures and where its pictures are.

    The run is complete by then: a picture that fails is a warning, and output that
    nobody reads is none.
    """
    directories = seed_directories(workdir)
    try:
        curves(directories, workdir / "curves.png")
    # Whatever fonts, files and matplotlib may fail with.
    except Exception as error:
        reason = " ".join(str(error).split())
        print(f"WARNING: curves.png could not be drawn ({reason})", file=sys.stderr)
    go_on_unread()
    summaries = [read_object(path / SUMMARY_NAME) for path in directories]
    console = output_console(88)
    console.print(_phase_table(summaries))
    # Time and memory are those of all seeds together.
    console.print(_time_table(summaries[0]))
    console.print(f"peak memory   {summaries[0]['peak_rss_bytes'] / 2**30:.1f} GiB")
    videos = directories[0] / "videos"
    paths = {
        "run": workdir,
        "figures": directories[0] / SUMMARY_NAME,
        "curves": workdir / "curves.png",
        "best episode": videos / f"{summaries[0]['updates']:06d}-best.mp4",
        "worst episode": videos / f"{summaries[0]['updates']:06d}-worst.mp4",
    }
    for name, path in paths.items():
        # Not through rich, which would break a long path in two.
        print(f"{name:<13} {path}")
    if len(directories) > 1:
        print(f"and the same in {', '.join(path.name for path in directories[1:])}")


def _phase_table(summaries: Sequence[dict[str, Any]]) -> Table:
    title = "objects completed an evaluation episode, and success"
    if len(summaries) > 1:
        title += f", mean of {len(summaries)} seeds"
    # As wide as fits 80 columns; the last is the share of rows that are cloned.
    table = Table(title=title)
    table.add_column("evaluated")
    for policy in ("mean policy", "sampled policy"):
        table.add_column(policy, justify="right")
        table.add_column("success", justify="right")
    table.add_column("cloned", justify="right")
    for phase, label in (
        ("before", "before training"),
        ("offline", "after offline"),
        ("online", "after online"),
    ):
        if f"objects_{phase}" in summaries[0]:
            mean = functools.partial(_mean, summaries)
            table.add_row(
                label,
                f"{mean(f'objects_{phase}'):.2f}",
                f"{mean(f'success_{phase}'):.0%}",
                f"{mean(f'objects_{phase}_sampled'):.2f}",
                f"{mean(f'success_{phase}_sampled'):.0%}",
                f"{mean(f'cloned_share_{phase}'):.0%}",
            )
    return table


def _mean(summaries: Sequence[dict[str, Any]], figure: str) -> float:
    return statistics.mean(summary[figure] for summary in summaries)


def _time_table(summary: dict[str, Any]) -> Table:
    table = Table(title="wall time")
    table.add_column("part")
    table.add_column("minutes", justify="right")
    seconds = dict(summary["wall_seconds"])
    total = seconds.pop("total")
    for part, spent in seconds.items():
        table.add_row(part, f"{spent / 60:.1f}")
    table.add_section()
    table.add_row("total", f"{total / 60:.1f}")
    return table


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    run_program(main)
