"""One run: demonstrations, offline updates, online episodes and updates (Alg. 1)."""

import collections
import contextlib
from pathlib import Path
from typing import Any

import jax

from moto_jax import checkpoints, provenance
from moto_jax.agents import make_agent
from moto_jax.analysis.runs import SUMMARY_NAME
from moto_jax.assembly import announce_renderer, make_pool, make_replay
from moto_jax.collection import WorkerPool, collect_episodes, make_policy_step
from moto_jax.data.episodes import Episode
from moto_jax.data.replay import Replay, device_batches
from moto_jax.envs import tasks
from moto_jax.envs.graphics import choose_backend
from moto_jax.evaluation import evaluate, write_strip, write_video
from moto_jax.metrics import MetricsWriter, TerminalView, to_floats
from moto_jax.online_episodes import OnlineEpisodes
from moto_jax.run_control import StopRequest, Stopwatch, return_free_memory
from moto_jax.run_directory import RunError, bind, claimed, write_summary
from moto_jax.schedule import Block, Schedule, make_schedule
from moto_jax.types import Agent, Batch, Config, Metrics

# What the terminal shows of the metrics.
_SHOWN = (
    "model/image_loss",
    "model/reward_loss",
    "model/kl",
    "actor/behaviour_loss",
    "dream/value",
    "mean/objects",
    "sampled/objects",
)

# Environment seeds: evaluations play the same ones each time, apart from the online
# episodes'.
_EVALUATION_SEED = 1_000_000

# Updates that the device may lag behind the host: enough to keep it busy, few enough
# that a request to stop is followed at once.
_MAX_IN_FLIGHT = 2

# Packages whose version decides numbers: a resumed run must have the same.
_DECISIVE = ("jax", "jaxlib", "flax", "optax", "mujoco", "gymnasium-robotics", "numpy")


class DivergedError(RuntimeError):
    """Too many updates in a row were not finite."""


def compile_updates(agent: Agent, state: Any, batch: Batch) -> dict[str, Any]:
    """Compiles each phase's update once, the same update of two phases only once."""
    compiled = {
        update: jax.jit(update, donate_argnums=0).lower(state, batch).compile()
        for update in dict.fromkeys(agent.updates.values())
    }
    return_free_memory()
    return {phase: compiled[update] for phase, update in agent.updates.items()}


def initialise(agent: Agent, key: jax.Array) -> Any:
    """Returns the agent's first state; what runs once is compiled to compile fast."""
    cheap: dict[str, str | bool] = {"xla_backend_optimization_level": "0"}
    options = cheap if jax.default_backend() == "cpu" else None
    return jax.jit(agent.init).lower(key).compile(options)(key)


class Run:
    """The host side of a run; `advance` is the loop."""

    def __init__(
        self,
        config: Config,
        workdir: Path,
        agent: Agent,
        pool: WorkerPool,
        replay: Replay,
        watch: Stopwatch,
    ):
        """Compiles the agent's updates, and restores the newest checkpoint.

        Args:
          config: of the run.
          workdir: the run's directory.
          agent: what learns.
          pool: the environments.
          replay: holds the demonstrations.
          watch: has counted what came before.
        """
        self.config = config
        self.workdir = workdir
        self.schedule: Schedule = make_schedule(config.training)
        self.task = tasks.resolve_task(config.task)
        self.watch = watch
        self.pool = pool
        self.replay = replay
        self.agent = agent
        self._policy_steps = {
            name: make_policy_step(policy)
            for name, policy in self.agent.policies.items()
        }
        seeds = jax.random.split(jax.random.key(config.seed), 3)
        self._init_key, self._collect_key, self._evaluate_key = seeds
        abstract = jax.eval_shape(self.agent.init, self._init_key)
        self._in_flight: collections.deque[Any] = collections.deque()
        self._unwritten: tuple[int, str, Metrics] | None = None
        self.done, known = 0, {}
        self.resumed = checkpoints.latest(workdir / "checkpoints") is not None
        if not self.resumed:
            self.state = initialise(self.agent, self._init_key)
        else:
            self.state, metadata = checkpoints.restore(workdir, abstract)
            self.done, known = metadata["updates"], metadata["online_episodes"]
            for part, seconds in metadata["wall_seconds"].items():
                self.watch.seconds[part] += seconds
        with self.watch.part("compilation"):
            self._updates = compile_updates(self.agent, abstract, replay.sample(0))
        self.online = OnlineEpisodes(workdir / "online", self._collect, known)
        for number in range(self.schedule.episodes_stored(self.done - 1)):
            self._store(number)

    def _collect(self, number: int, params: Any) -> Episode:
        step = self._policy_steps[self.config.training.collect_with]
        seed = self.config.seed * self.schedule.online_episodes + number
        (episode,) = collect_episodes(
            self.pool, step, params, self._collect_key, [seed]
        )
        return episode

    def _store(self, number: int) -> Episode:
        name, episode = self.online.take(number, self._acting_params())
        self.replay.add(episode, f"online/{name}", online=True)
        return episode

    def _acting_params(self) -> Any:
        return self.agent.acting_params(self.state)

    def advance(
        self, writer: MetricsWriter, view: TerminalView, stop: StopRequest
    ) -> None:
        """Does the updates that are left, or those until a stop is asked for."""
        if self.done == 0:
            self._evaluate(writer, view, "before")
        for block in self.schedule.blocks(self.done):
            if block.phase == "online":
                self._write_metrics(writer, view)
                self._open_block(block, writer)
            steps = range(block.first, block.last)
            with contextlib.closing(device_batches(self.replay, steps)) as batches:
                for batch in batches:
                    self._update(block, batch, writer, view)
                    if stop.signal_number is not None:
                        self._write_metrics(writer, view)
                        self.save()
                        return

    def _open_block(self, block: Block, writer: MetricsWriter) -> None:
        """Stores the block's own episode and sets out for the next."""
        with self.watch.part("waiting for episodes"):
            first = self.schedule.episodes_stored(block.first - 1) <= block.episode
            if first:
                episode = self._store(block.episode)
                reward = tasks.task_reward(episode.objects_in_goal[1:], self.task)
                reached = tasks.objects_reached(episode.objects_in_goal, self.task)
                numbers = {"return": reward.sum(), "objects": reached.sum()}
                # Not of the step before, whose checkpoint is already saved.
                writer.write(self.done + 1, "collection", numbers)
        if block.episode + 1 < self.schedule.online_episodes:
            self.online.start(block.episode + 1, self._acting_params())

    def _update(
        self, block: Block, batch: Any, writer: MetricsWriter, view: TerminalView
    ) -> None:
        """One update, and what is due after it."""
        with self.watch.part(f"{block.phase} updates"):
            self.state, metrics = self._updates[block.phase](self.state, batch)
            self.done += 1
            self._in_flight.append(metrics)
            if len(self._in_flight) > _MAX_IN_FLIGHT:
                jax.block_until_ready(self._in_flight.popleft())
        if self.schedule.logs(self.done):
            self._write_metrics(writer, view)
            jax.tree.map(lambda metric: metric.copy_to_host_async(), metrics)
            self._unwritten = (self.done, block.phase, metrics)
        view.show(self.done, block.phase)
        if self.schedule.evaluates(self.done):
            self._write_metrics(writer, view)
            self._evaluate(writer, view, block.phase)
        if self.schedule.saves(self.done):
            self._write_metrics(writer, view)
            self.save()

    def _write_metrics(self, writer: MetricsWriter, view: TerminalView) -> None:
        """Writes the newest log line, which waits for the next to be due.

        By then the device has long computed it, so the loop does not stop to fetch it.
        """
        if self._unwritten is None:
            return
        step, phase, metrics = self._unwritten
        self._unwritten = None
        with self.watch.part(f"{phase} updates"):
            floats = to_floats(metrics)
        writer.write(step, phase, floats)
        view.show(self.done, phase, floats)
        if floats["skipped_in_a_row"] > self.config.training.max_skipped:
            raise DivergedError(
                f"{floats['skipped_in_a_row']:.0f} updates in a row up to {step} were "
                "not finite: lower the learning rates; the last checkpoint in "
                f"{self.workdir / 'checkpoints'} is from before"
            )

    def _evaluate(self, writer: MetricsWriter, view: TerminalView, phase: str) -> None:
        """Plays episodes with the mean and the sampled policy; writes their videos."""
        with self.watch.part("evaluation"):
            self.online.finish()
            seeds = range(
                _EVALUATION_SEED, _EVALUATION_SEED + self.config.evaluation.episodes
            )
            numbers: dict[str, float] = {}
            results = {}
            for name, step in self._policy_steps.items():
                results[name] = evaluate(
                    self.pool,
                    step,
                    self._acting_params(),
                    jax.random.fold_in(self._evaluate_key, self.done),
                    seeds,
                    self.task,
                )
                summary = results[name].summary()
                numbers |= {f"{name}/{key}": value for key, value in summary.items()}
            best = max(
                results.values(),
                key=lambda result: (
                    result.reached.sum(axis=1).max(),
                    result.returns.max(),
                ),
            ).best
            videos = self.workdir / "videos"
            videos.mkdir(exist_ok=True)
            write_video(videos / f"{self.done:06d}-best.mp4", best.image)
            # The part in which things happen, to the last object and a second more.
            happens = tasks.first_completion(best.objects_in_goal).max() + 13
            write_strip(videos / f"{self.done:06d}-best.png", best.image[: happens + 1])
            last = results["sampled"].last.image
            write_video(videos / f"{self.done:06d}-last.mp4", last)
        numbers["cloned_share"] = self.replay.behaviour_share
        writer.write(self.done, f"evaluation {phase}", numbers)
        view.show(self.done, phase, numbers)

    def close(self) -> None:
        """Waits for the episode under way."""
        self.online.close()

    def save(self) -> None:
        """Saves everything that resuming needs, an episode under way included."""
        with self.watch.part("checkpoints"):
            self.online.finish()
            metadata = {
                "updates": self.done,
                "online_episodes": self.online.known,
                "wall_seconds": dict(self.watch.seconds),
                "config": self.config.to_dict(),
                "versions": provenance.versions(),
            }
            checkpoints.save(
                self.workdir / "checkpoints",
                self.done,
                self.state,
                metadata,
                keep=self.config.training.keep_checkpoints,
            )


def train(
    config: Config, workdir: Path, allow_version_change: bool = False
) -> int | None:
    """Does a run, or what is left of it.

    Args:
      config: as `experiments/configs/base.py` describes.
      workdir: the run's directory; a run that is there already is taken up.
      allow_version_change: take it up with other package versions too.

    Returns:
      The number of the signal that stopped the run early, or None if it is complete.

    Raises:
      ValueError: for a configuration, dataset, checkpoint or directory that does not
        fit; each message names what and the mend.
      GraphicsError: where the machine cannot draw.
      WorkerError: if environments keep failing.
      DivergedError: if updates stay infinite.
    """
    choose_backend()
    schedule = make_schedule(config.training)
    tasks.resolve_task(config.task)
    # Before anything is written: what does not fit the networks is refused here.
    agent = make_agent(
        config, action_size=tasks.NUM_ACTIONS, image_size=config.env.image_size
    )
    with claimed(workdir, config.to_dict()):
        done = checkpoints.latest(workdir / "checkpoints")
        if done == schedule.total and (workdir / SUMMARY_NAME).exists():
            return None
        if done is not None:
            _check_versions(workdir, allow_version_change)
        watch = Stopwatch()
        announce_renderer()
        with watch.part("demonstrations"):
            replay = make_replay(config, workdir)
        bind(workdir, config.to_dict())
        with (
            make_pool(config) as pool,
            contextlib.closing(Run(config, workdir, agent, pool, replay, watch)) as run,
        ):
            stopped_by = _advance(run, config, workdir)
            if stopped_by is None:
                peak = provenance.peak_rss_bytes(pool.process_ids)
                write_summary(workdir, watch, peak)
            return stopped_by


def _advance(run: Run, config: Config, workdir: Path) -> int | None:
    with (
        MetricsWriter(workdir, config.tensorboard) as writer,
        TerminalView(run.schedule.total, _SHOWN) as view,
        StopRequest() as stop,
    ):
        writer.truncate_after(run.done if run.resumed else -1)
        if run.resumed:
            view.message(f"{workdir}: going on after {run.done} updates")
        run.advance(writer, view, stop)
        return stop.signal_number


def _check_versions(workdir: Path, allow_change: bool) -> None:
    saved = checkpoints.read_metadata(workdir)["versions"]
    now = provenance.versions()
    for package in _DECISIVE:
        if saved.get(package) != now.get(package) and not allow_change:
            raise RunError(
                f"{workdir} was made with {package} {saved.get(package)}, not "
                f"{now.get(package)}: install that version, or accept other numbers "
                "with --allow_version_change"
            )
