"""Who plays which episode of a run: seeds over processes, policies over workers."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from moto_jax.acting.collection import Play, PlayEpisodes, Stage
from moto_jax.acting.environment_seeds import (
    SEED_END,
    STREAM_LENGTH,
    Purpose,
    check_seed,
    environment_seed,
)
from moto_jax.acting.evaluation import evaluate
from moto_jax.acting.videos import write_videos
from moto_jax.data.episodes import Episode
from moto_jax.run_layout import POLICIES
from moto_jax.running import devices, machines
from moto_jax.running.schedule import Round
from moto_jax.types import Config, Params, Policy
from moto_jax.worlds.world import World

# Those that may gather online episodes: the last is never evaluated.
COLLECTING_POLICIES = (*POLICIES, "mean_with_noise")


def check_plays(config: Config, most_at_once: int | None) -> None:
    """Looks at what a configuration says of who plays and how often.

    Args:
      config: the run's.
      most_at_once: the world's.

    Raises:
      ValueError: for seeds that are no different integers in [0, 2**32), a budget that
        plays more episodes than there are environment seeds, no episodes of an
        evaluation, or a policy to collect with that does not exist.
    """
    seeds = config.seeds
    wrong = [
        seed for seed in seeds if not isinstance(seed, int) or not 0 <= seed < SEED_END
    ]
    if wrong or not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(
            f"config.seeds is {tuple(seeds)}: give different integers of at least 0 "
            "and less than 2**32, such as --config.seeds=0,1,2"
        )
    check_seed("config.data.seed", config.data.seed)
    if config.evaluation.episodes < 1:
        raise ValueError(
            f"config.evaluation.episodes is {config.evaluation.episodes}: use 1 or more"
        )
    if config.evaluation.phase_end_episodes < 0:
        raise ValueError(
            "config.evaluation.phase_end_episodes is "
            f"{config.evaluation.phase_end_episodes}: use 0 or more"
        )
    budget = config.training
    online = budget.online_episodes
    updates = budget.offline_updates + online * budget.updates_per_episode
    if max(online, (updates + 1) * most_episodes(config)) > STREAM_LENGTH:
        raise ValueError(
            f"config.training asks for {updates} updates with {online} online episodes "
            f"and config.evaluation for up to {most_episodes(config)} episodes: at "
            f"most {STREAM_LENGTH} of a run have environment seeds of their own, so "
            "lower one of them"
        )
    if most_at_once is not None and budget.episodes_per_round > most_at_once:
        raise ValueError(
            f"config.training.episodes_per_round is {budget.episodes_per_round} with "
            f"{most_at_once} workers, who play one episode each: lower it or raise "
            "config.env.workers"
        )
    if config.training.collect_with not in COLLECTING_POLICIES:
        raise ValueError(
            f"config.training.collect_with is {config.training.collect_with!r}: use "
            f"one of {', '.join(COLLECTING_POLICIES)}"
        )
    if not 0 < config.training.collect_noise_std <= 1:
        raise ValueError(
            "config.training.collect_noise_std is "
            f"{config.training.collect_noise_std}: use more than 0 and at most 1"
        )


def most_episodes(config: Config) -> int:
    """Returns how many episodes an evaluation plays with each policy, at most."""
    section = config.evaluation
    return max(section.episodes, section.phase_end_episodes)


class Players:
    """Plays the episodes of the seeds whose parameters this process holds.

    Where several processes hold a seed they take turns, round by round.
    """

    def __init__(
        self,
        config: Config,
        policies: Mapping[str, Policy],
        world: World,
        stage: Stage,
        keys: tuple[jax.Array, jax.Array],
        held: Sequence[int],
    ):
        """Takes the policies; nothing is played yet. All processes must make theirs.

        Args:
          config: of the run.
          policies: those of `COLLECTING_POLICIES` that the agent has.
          world: whose labels evaluations count by.
          stage: where it plays.
          keys: [seeds] to collect with, and to evaluate with.
          held: indices of the seeds whose parameters this process holds.
        """
        self._config = config
        self._events, self._label = world.events, world.label
        self._play = {name: stage.player(policy) for name, policy in policies.items()}
        self._collect_keys, self._evaluate_keys = keys
        shares = machines.gather(list(held))
        # For each seed the processes that hold it.
        self._holders = [
            [process for process, share in enumerate(shares) if index in share]
            for index in range(len(config.seeds))
        ]

    def turns(self, number: int) -> list[int]:
        """Returns indices of the seeds that this process plays for in a round.

        Each seed is one process's turn, and its seeds are spread over them.
        """
        own = jax.process_index()
        return [
            index
            for index, holders in enumerate(self._holders)
            if holders[(number + index) % len(holders)] == own
        ]

    def params(self, params: Params, number: int) -> Params:
        """Returns copies of what the seeds of `turns(number)` act with.

        Args:
          params: acting parameters [seeds, ...].
          number: of the round.
        """
        indices = self.turns(number)
        return devices.local_copy(params, indices, acting_device()) if indices else None

    def collect(self, new: Round, params: Params) -> dict[int, list[Episode]]:
        """Plays this process's part of a round; may run in a thread beside training.

        Args:
          new: the round.
          params: from the method `params`, of its number.

        Returns:
          Index of the seed -> its episodes.
        """
        indices = self.turns(new.number)
        if not indices:
            return {}
        seeds = self._config.seeds
        plays = [
            Play(
                member, environment_seed(Purpose.TRAINING, seeds[index], number=number)
            )
            for number in new.episodes
            for member, index in enumerate(indices)
        ]
        play = self._play[self._config.training.collect_with]
        keys = self._collect_keys[np.array(indices)]
        episodes = list(play(params, keys, plays))
        return {
            index: episodes[member :: len(indices)]
            for member, index in enumerate(indices)
        }

    def evaluate(
        self,
        params: Params,
        done: int,
        directories: Sequence[Path],
        extra: Mapping[int, Mapping[str, float]],
        ends_phase: bool = False,
        tell: Callable[[int, int], None] = lambda played, total: None,
    ) -> list[dict[str, float]]:
        """Plays each seed's evaluation episodes and writes their videos.

        Both policies play the same ones, and every evaluation of a run others than
        those before. All processes must call it.

        Args:
          params: acting parameters [seeds, ...].
          done: updates that made them.
          directories: of the seeds.
          extra: further numbers, by index of the seeds that this process holds.
          ends_phase: whether they end a phase, whose last evaluation may be longer.
          tell: called after each episode of this process: how many, of how many.

        Returns:
          Each seed's numbers, of both policies.
        """
        indices = self.turns(0)
        most = most_episodes(self._config)
        episodes = most if ends_phase else self._config.evaluation.episodes
        judged = {name: self._play[name] for name in POLICIES if name in self._play}
        total = episodes * len(judged) * len(indices)
        played = itertools.count(1)

        def told(play: PlayEpisodes) -> PlayEpisodes:
            def play_and_tell(*args: Any) -> Iterator[Episode]:
                for episode in play(*args):
                    tell(next(played), total)
                    yield episode

            return play_and_tell

        told_plays = {name: told(play) for name, play in judged.items()}
        own = {
            str(index): self._evaluate_seed(
                told_plays, params, done, index, directories[index], episodes
            )
            | dict(extra[index])
            for index in indices
        }
        shared = {}
        for of_process in machines.gather(own):
            shared |= of_process
        return [shared[str(index)] for index in range(len(directories))]

    def _evaluate_seed(
        self,
        plays: Mapping[str, PlayEpisodes],
        params: Params,
        done: int,
        index: int,
        directory: Path,
        episodes: int,
    ) -> dict[str, float]:
        params = devices.local_copy(params, [index])
        key = jax.random.fold_in(self._evaluate_keys[index], done)
        most = most_episodes(self._config)
        own_seed = self._config.seeds[index]
        seeds = [
            environment_seed(Purpose.EVALUATION, own_seed, number=done * most + episode)
            for episode in range(episodes)
        ]
        results = {
            name: evaluate(play, params, key[None], seeds, self._events, self._label)
            for name, play in plays.items()
        }
        # Of the policy that is judged: the other one adds noise to it.
        write_videos(directory / "videos", f"{done:06d}", results["mean"], self._label)
        return {
            f"{name}/{figure}": value
            for name, result in results.items()
            for figure, value in result.summary().items()
        }


def acting_device() -> Any:
    """Returns the device of a policy that acts while updates run: a CPU.

    An accelerator does things in the order they were asked for, and each of an
    episode's 280 calls would wait behind the updates that are queued already.
    """
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        # $JAX_PLATFORMS leaves the CPU out: slower, and no worse.
        return jax.local_devices()[0]


def run_keys(seeds: Sequence[int]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns keys [seeds] to initialise with, to collect with, to evaluate with."""
    keys = [jax.random.split(jax.random.key(seed), 3) for seed in seeds]
    init, collect, evaluate = jnp.stack(keys, axis=1)
    return init, collect, evaluate
