"""The loop of a run: updates, online episodes, evaluations, checkpoints (Alg. 1)."""

import collections
import contextlib
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from moto_jax.acting.collection import Stage
from moto_jax.acting.progress import remaining_time
from moto_jax.data.batches import device_batches, empty_batches
from moto_jax.data.episodes import Episode, read_episode
from moto_jax.data.replay import Replay
from moto_jax.run_layout import seed_directory
from moto_jax.running import checkpoints, devices, machines, provenance
from moto_jax.running.branching import (
    Parent,
    branch_state,
)
from moto_jax.running.compilation import compile_updates, initialise
from moto_jax.running.online_episodes import OnlineEpisodes
from moto_jax.running.players import Players, run_keys
from moto_jax.running.recording import Recorder, split_seeds
from moto_jax.running.run_control import StopRequest, Stopwatch
from moto_jax.running.schedule import Block, Round, Schedule, make_schedule
from moto_jax.types import Agent, Config, Metrics, Params
from moto_jax.worlds.world import World

# Programs that the device may lag behind the host: enough to keep it busy, few enough
# that a request to stop is followed at once.
_MAX_IN_FLIGHT = 2

# Several processes tell each other so often whether one was asked to stop.
_UPDATES_BETWEEN_TALKS = 10


class DivergedError(RuntimeError):
    """Of every seed too many updates in a row were not finite.

    `status` is what the program ends with: a queue can tell that the same command would
    come to the same end.
    """

    status = 3


class Run:
    """The host side of a run; `advance` is the loop."""

    def __init__(
        self,
        config: Config,
        workdir: Path,
        agent: Agent,
        world: World,
        stage: Stage,
        replays: Sequence[Replay],
        watch: Stopwatch,
        mesh: Mesh,
        parent: Parent | None = None,
    ):
        """Compiles the agent's updates, and restores the newest checkpoint.

        Args:
          config: of the run.
          workdir: the run's directory.
          agent: what learns, with one seed.
          world: where it learns.
          stage: the world's, opened.
          replays: hold the demonstrations, one for each seed that this process feeds.
          watch: has counted what came before.
          mesh: what the seeds are trained on.
          parent: what a run without a checkpoint starts from, if not from nothing.
        """
        self.config = config
        self.workdir = workdir
        self.schedule: Schedule = make_schedule(config.training, agent.model_share)
        self._label = world.label
        self.watch = watch
        self.mesh = mesh
        self.agent = devices.over_seeds(agent, mesh)
        shape = (len(config.seeds), agent.batch_shape[1])
        self.share = devices.own_share(mesh, *shape)
        self._place = lambda batch: devices.place_batch(batch, *shape, mesh)
        self.replays = dict(zip(self.share.seeds, replays, strict=True))
        self.directories = seed_directories_of(workdir, config)
        init_keys, collect_keys, evaluate_keys = run_keys(config.seeds)
        self.players = Players(
            config,
            agent.policies,
            world,
            stage,
            (collect_keys, evaluate_keys),
            self.share.seeds,
        )
        abstract = devices.abstract_state(self.agent, init_keys, mesh)
        self._in_flight: collections.deque[Any] = collections.deque()
        self._unwritten: tuple[int, str, Metrics] | None = None
        self._stopped: set[int] = set()
        self.done, known = 0, [{} for _ in config.seeds]
        self.resumed = checkpoints.latest(workdir / "checkpoints") is not None
        self.inherited: list[dict[str, str]] = [{} for _ in config.seeds]
        if self.resumed:
            self.state, metadata = checkpoints.restore(workdir, abstract)
            self.done, known = metadata["updates"], metadata["online_episodes"]
            self.inherited = metadata.get("inherited_episodes", self.inherited)
            for part, seconds in metadata["wall_seconds"].items():
                self.watch.seconds[part] += seconds
        elif parent is not None:
            self.state = branch_state(agent, parent, config.seeds, mesh)
            self.inherited = parent.episodes
        else:
            self.state = initialise(self.agent, init_keys)
        with self.watch.part("compilation"):
            batch = empty_batches(replays, self.share.columns)
            batch = devices.abstract_batch(batch, *shape, mesh)
            self._updates = compile_updates(
                self.agent, abstract, batch, self.schedule.updates_per_program
            )
        self.online = OnlineEpisodes(
            [directory / "online" for directory in self.directories],
            self.players.collect,
            known,
        )
        for index, replay in self.replays.items():
            for path, checksum in self.inherited[index].items():
                replay.add(read_episode(path, checksum), path, online=True)
        for one in self.schedule.rounds_stored(self.done - 1):
            self._store(one)

    def _collecting_params(self, number: int) -> Callable[[], Params]:
        return lambda: self.players.params(self.agent.acting_params(self.state), number)

    def _store(self, new: Round) -> list[list[Episode]]:
        """Adds a round to the replays; returns each seed's episodes of it."""
        # Those that it feeds; the first process writes down the numbers of all.
        every = range(len(self.config.seeds))
        wanted = every if machines.is_first() else self.share.seeds
        taken = self.online.take(new, wanted, self._collecting_params(new.number))
        for index in taken.keys() & self.replays.keys():
            for name, episode in taken[index]:
                self.replays[index].add(episode, f"online/{name}", online=True)
        return [[episode for _, episode in taken[index]] for index in sorted(taken)]

    def advance(self, recorder: Recorder, stop: StopRequest) -> int | None:
        """Does the updates that are left, or those until a stop is asked for.

        Returns:
          The number of the signal that asked for the stop, in whichever process.
        """
        if self.done == 0:
            self._evaluate(recorder, "before")
        for block in self.schedule.blocks(self.done):
            if block.round is not None:
                self._write_metrics(recorder)
                self._open_block(block.round, recorder)
            batches = device_batches(
                list(self.replays.values()),
                range(block.first, block.last),
                self.share.columns,
                self._place,
            )
            with contextlib.closing(batches):
                for size in self.schedule.programs(block):
                    before = self.done
                    taken = itertools.islice(batches, size)
                    self._update(block, list(taken), recorder)
                    asked = self._asked_to_stop(stop, before)
                    if asked is not None and self.done < self.schedule.total:
                        self._write_metrics(recorder)
                        self.save()
                        return asked
        return None

    def _asked_to_stop(self, stop: StopRequest, before: int) -> int | None:
        """Returns the signal that came to any process; all stop at the same update."""
        every = _UPDATES_BETWEEN_TALKS
        if jax.process_count() > 1 and self.done // every == before // every:
            return None
        signals = machines.gather(stop.signal_number)
        return next((number for number in signals if number is not None), None)

    def _open_block(self, own: Round, recorder: Recorder) -> None:
        """Stores the round that a block begins with, and sets out for the next."""
        with self.watch.part("waiting for episodes"):
            if own not in self.schedule.rounds_stored(self.done - 1):
                numbers = [self._played(episodes) for episodes in self._store(own)]
                # Not of the step before, whose checkpoint is already saved.
                recorder.write(self.done + 1, "collection", numbers)
        to_come = self.schedule.rounds[own.number + 1 :]
        if to_come:
            self.online.start(to_come[0], self._collecting_params(to_come[0].number))

    def _played(self, episodes: Sequence[Episode]) -> dict[str, float]:
        """Returns a seed's means over a round."""
        labels = [self._label(episode) for episode in episodes]
        rewards = [one.reward[1:].sum() for one in labels]
        reached = [one.events.any(axis=0).sum() for one in labels]
        return {"return": float(np.mean(rewards)), "objects": float(np.mean(reached))}

    def _update(self, block: Block, batches: Sequence[Any], recorder: Recorder) -> None:
        """One program, an update with each of the batches, and what is due after it."""
        with self.watch.part(f"{block.phase} updates"):
            program = self._updates[block.phase, len(batches)]
            self.state, metrics = program(self.state, *batches)
            self.done += len(batches)
            self._in_flight.append(metrics)
            if len(self._in_flight) > _MAX_IN_FLIGHT:
                jax.block_until_ready(self._in_flight.popleft())
        if self.schedule.logs(self.done):
            self._write_metrics(recorder)
            jax.tree.map(lambda metric: metric.copy_to_host_async(), metrics)
            self._unwritten = (self.done, block.phase, metrics)
        recorder.show(self.done, block.phase)
        if self.schedule.evaluates(self.done):
            self._write_metrics(recorder)
            self._evaluate(recorder, block.phase)
        if self.schedule.saves(self.done):
            self._write_metrics(recorder)
            self.save()

    def _write_metrics(self, recorder: Recorder) -> None:
        """Writes the newest log lines, which wait for the next to be due.

        By then the device has long computed them, so the loop does not stop to fetch.
        """
        if self._unwritten is None:
            return
        step, phase, metrics = self._unwritten
        self._unwritten = None
        with self.watch.part(f"{phase} updates"):
            by_seed = split_seeds(metrics)
        recorder.write(step, phase, by_seed)
        recorder.show(self.done, phase, by_seed)
        self._check_progress(step, [one["skipped_in_a_row"] for one in by_seed])

    def _check_progress(self, step: int, skipped: Sequence[float]) -> None:
        """Names seeds that have stopped learning; once all have, it is an error."""
        limit = self.config.training.max_skipped
        counts = dict(zip(self.config.seeds, skipped, strict=True))
        stopped = {seed for seed, count in counts.items() if count > limit}
        if stopped == counts.keys():
            raise DivergedError(
                f"{min(skipped):.0f} updates in a row up to {step} were not finite: "
                "lower the learning rates; the last checkpoint in "
                f"{self.workdir / 'checkpoints'} is from before"
            )
        for seed in sorted(stopped - self._stopped):
            logging.warning(
                "seed %d: %d updates in a row up to %d were not finite; the other "
                "seeds go on",
                *(seed, counts[seed], step),
            )
        self._stopped = stopped

    def _evaluate(self, recorder: Recorder, phase: str) -> None:
        """Plays episodes with the mean and the sampled policy of each seed."""
        name = f"evaluation {phase}"
        recorder.show(self.done, name)
        began = time.monotonic()

        def tell(played: int, total: int) -> None:
            left = remaining_time(time.monotonic() - began, played, total)
            place = {"episode": f"{played}/{total}", "evaluated in": left}
            recorder.show(self.done, name, place=place)

        with self.watch.part("evaluation"):
            self.online.finish()
            params = self.agent.acting_params(self.state)
            shares = {
                index: {"cloned_share": replay.behaviour_share}
                for index, replay in self.replays.items()
            }
            ends_phase = self.schedule.ends_phase(self.done)
            by_seed = self.players.evaluate(
                params, self.done, self.directories, shares, ends_phase, tell
            )
        recorder.write(self.done, name, by_seed)
        recorder.show(self.done, phase, by_seed)

    def close(self) -> None:
        """Waits for the episodes under way."""
        self.online.close()

    def save(self) -> None:
        """Saves everything that resuming needs, episodes under way included."""
        with self.watch.part("checkpoints"):
            self.online.finish()
            metadata = {
                "updates": self.done,
                "online_episodes": self.online.known,
                "inherited_episodes": self.inherited,
                "wall_seconds": dict(self.watch.seconds),
                "config": self.config.to_dict(),
                "versions": provenance.versions(),
                "devices": list(self.mesh.devices.shape),
            }
            checkpoints.save(
                self.workdir / "checkpoints",
                self.done,
                self.state,
                metadata,
                keep=self.config.training.keep_checkpoints,
            )


def seed_directories_of(workdir: Path, config: Config) -> list[Path]:
    """Returns where each seed's files of a run lie."""
    return [seed_directory(workdir, config.seeds, seed) for seed in config.seeds]
