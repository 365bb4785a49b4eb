"""One run: demonstrations, offline updates, online episodes and updates (Alg. 1)."""

import contextlib
import sys
from pathlib import Path

import jax
from jax.sharding import Mesh

from moto_jax.agents import make_agent
from moto_jax.data.replay import (
    Replay,
    check_replay,
    make_replays,
)
from moto_jax.run_layout import SUMMARY_NAME
from moto_jax.running import checkpoints, devices, machines, plan, provenance
from moto_jax.running.branching import (
    dataset_directory,
    find_parent,
)
from moto_jax.running.loop import Run, seed_directories_of
from moto_jax.running.players import check_plays
from moto_jax.running.recording import Recorder
from moto_jax.running.run_control import StopRequest, Stopwatch
from moto_jax.running.run_directory import bind, check_versions, write_summary
from moto_jax.running.schedule import make_schedule
from moto_jax.running.sinks import sink_names
from moto_jax.running.starting import claimed_by_first
from moto_jax.types import Agent, Config
from moto_jax.worlds.graphics import software_warning
from moto_jax.worlds.registry import make_world
from moto_jax.worlds.sources import load_demonstrations
from moto_jax.worlds.world import World

# What the terminal shows of the metrics.
_SHOWN = (
    "model/image_loss",
    "model/reward_loss",
    "model/kl",
    "actor/behaviour_loss",
    "dream/value",
    "critic/value",
    "mean/objects",
    "sampled/objects",
)


def train(
    config: Config,
    workdir: Path,
    allow_version_change: bool = False,
    fresh: bool = False,
) -> int | None:
    """Does a run (Alg. 1), or what is left of it.

    Args:
      config: as `experiments/configs/keys.py` describes.
      workdir: the run's directory; a run that is there already is taken up.
      allow_version_change: take it up with other package versions, or on other
        devices, too.
      fresh: start it again from nothing, whatever of it is there.

    Returns:
      The number of the signal that stopped the run early, or None if it is complete.

    Raises:
      ValueError: for a configuration, dataset, checkpoint or directory that does not
        fit; each message names what and the mend.
      GraphicsError: where the machine cannot draw.
      WorkerError: if environments keep failing.
      DivergedError: if updates stay infinite.
    """
    world = make_world(config)
    world.prepare()
    check_plays(config, world.most_at_once)
    check_replay(config)
    sink_names(config.sinks)
    # Before anything is written: what does not fit the networks is refused here.
    agent = make_agent(
        config, action_size=world.action_size, image_size=world.image_size
    )
    schedule = make_schedule(config.training, agent.model_share)
    mesh = devices.make_mesh(config, agent.batch_shape[1])
    parent = None
    if config.init_from and (fresh or not checkpoints.steps(workdir / "checkpoints")):
        parent = find_parent(config, agent)
    with machines.watched(), claimed_by_first(workdir, config, schedule, fresh):
        done = checkpoints.latest(workdir / "checkpoints")
        summaries = [
            path / SUMMARY_NAME for path in seed_directories_of(workdir, config)
        ]
        if done == schedule.total and all(path.exists() for path in summaries):
            return None
        if done is not None:
            check_versions(workdir, mesh.devices.shape, allow_version_change)
        watch = Stopwatch()
        announce_renderer(world)
        _announce_plan(config, agent, workdir)
        if jax.device_count() > 1:
            print(f"training on {devices.describe(mesh)}", file=sys.stderr)
        with watch.part("demonstrations"):
            replays = _replays(config, world, agent, workdir, mesh)
        if machines.is_first():
            bind(workdir, config.to_dict())
        with (
            world.open_stage() as stage,
            contextlib.closing(
                Run(config, workdir, agent, world, stage, replays, watch, mesh, parent)
            ) as run,
        ):
            stopped_by = _advance(run, config, workdir)
            if stopped_by is None and machines.is_first():
                peak = provenance.peak_rss_bytes(stage.process_ids)
                for directory in run.directories:
                    write_summary(directory, watch, peak)
            machines.wait_for_all("end")
            return stopped_by


def announce_renderer(world: World) -> None:
    """Says what draws the frames, and warns where a GPU stands idle beside it.

    Raises:
      GraphicsError: where nothing can draw.
    """
    name = world.renderer_name()
    if name is None:
        return
    print(f"frames are drawn by {name}", file=sys.stderr)
    warning = software_warning(name)
    if warning:
        print(warning, file=sys.stderr)


def _announce_plan(config: Config, agent: Agent, workdir: Path) -> None:
    """Says what the run will hold and write, and warns where that is more than is."""
    if not machines.is_first():
        return
    planned = plan.make_plan(config, agent)
    memory, disk = plan.free_memory(), plan.free_disk(workdir)
    for line in plan.describe_plan(planned, memory, disk):
        print(line, file=sys.stderr)
    missing = plan.shortage(planned, memory, disk)
    if missing:
        print(f"WARNING: {missing}", file=sys.stderr)


def _replays(
    config: Config, world: World, agent: Agent, workdir: Path, mesh: Mesh
) -> list[Replay]:
    """Returns the replays of the seeds that this process feeds."""
    share = devices.own_share(mesh, len(config.seeds), agent.batch_shape[1])
    seeds = [config.seeds[index] for index in share.seeds]
    # The first makes the demonstrations, the others find them.
    if not machines.is_first():
        machines.wait_for_all("demonstrations")
    directory = dataset_directory(config, workdir)
    demonstrations = load_demonstrations(config.data.source, world, directory)
    replays = make_replays(
        config,
        world.label,
        demonstrations,
        seeds,
        agent.batch_shape,
        # A model forgets at an episode's first row, a stack of frames does not.
        transitions=agent.model is None,
        online_share=agent.online_share,
    )
    if machines.is_first():
        machines.wait_for_all("demonstrations")
    return replays


def _advance(run: Run, config: Config, workdir: Path) -> int | None:
    with (
        Recorder(
            run.directories, run.schedule.total, _SHOWN, sink_names(config.sinks)
        ) as recorder,
        StopRequest() as stop,
    ):
        recorder.truncate_after(run.done if run.resumed else -1)
        if run.resumed:
            recorder.message(f"{workdir}: going on after {run.done} updates")
        return run.advance(recorder, stop)
