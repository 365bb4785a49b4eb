"""Episodes from a policy: supervised environment processes and one batched policy call.

An episode is a function of (parameters, key, environment seed) alone. It does not
depend on how many workers there are, on which of them ran it, or on what ran beside it:
each row of the policy call has its own key and is computed by itself, but for the last
bits in a run on an accelerator. So a worker that dies or hangs costs time alone: its
episode starts again, and comes out equal.
"""

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import gymnasium
import jax
import numpy as np

from moto_jax.acting.worker import Observation, Reset, Step
from moto_jax.acting.worker_pool import WorkerPool
from moto_jax.data.episodes import Episode
from moto_jax.types import Params, Policy


class Play(NamedTuple):
    """An episode to be played.

    Attributes:
      member: which of M parameter sets acts.
      seed: of the environment's reset, in [0, 2**32).
    """

    member: int
    seed: int


# (parameters [M, ...], keys [M], who acts and where) -> one episode each, in order.
PlayEpisodes = Callable[[Params, jax.Array, Sequence[Play]], Iterator[Episode]]


class Stage(Protocol):
    """Where policies play episodes."""

    @property
    def process_ids(self) -> tuple[int, ...]:
        """Of the processes beside this one."""
        ...

    def player(self, policy: Policy) -> PlayEpisodes:
        """Returns what plays episodes with a policy."""
        ...


class PoolStage:
    """A pool of workers as a `Stage`."""

    def __init__(self, pool: WorkerPool):
        """Takes the pool, which its owner closes."""
        self._pool = pool

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The workers' process ids."""
        return self._pool.process_ids

    def player(self, policy: Policy) -> PlayEpisodes:
        """Returns what plays episodes here with a policy; see `collect_episodes`."""
        step = make_policy_step(policy)
        return lambda params, keys, plays: collect_episodes(
            self._pool, step, params, keys, plays
        )


@contextlib.contextmanager
def open_pool_stage(
    make_env: Callable[[], gymnasium.Env], num_workers: int
) -> Iterator[Stage]:
    """Gives a stage of so many workers, and closes their pool; see `WorkerPool`."""
    with WorkerPool(make_env, num_workers) as pool:
        yield PoolStage(pool)


class PolicyStep(NamedTuple):
    """A policy for collection; made once, traced once for each number of rows.

    Attributes:
      batched: whether the rows of a call are computed together, or one by one.
      initial: number of rows n -> carry; every leaf is [n, 1, ...].
      step: (params [M, ...], carry, image uint8 [n, height, width, 3], is_first bool
        [n], keys [M], member int32 [n], seed uint32 [n], row int32 [n]) -> (action
        float32 [n, A], carry).
    """

    batched: bool
    initial: Callable[[int], Any]
    step: Callable[..., tuple[jax.Array, Any]]


def make_policy_step(policy: Policy, batched: bool | None = None) -> PolicyStep:
    """Returns the policy with a key of its own for every episode and row.

    Of M parameter sets row i acts with number `member[i]`, and with the key
    `fold_in(fold_in(keys[member[i]], seed[i]), row[i])`.

    Args:
      policy: acts.
      batched: whether a call computes its rows as one batch. Where everything runs on a
        CPU the default is a loop: a batched product may differ in the last bit with the
        size of the batch, and contacts in the simulator soon turn a bit into another
        episode. The loop takes up to twice as long, half a millisecond a row at the
        `cpu` preset (`experiments.benchmark --part=collect`). In a run on an
        accelerator, whose products promise no bits anyhow, the default is a batch, also
        where the policy itself acts on the CPU.
    """
    batched = jax.default_backend() != "cpu" if batched is None else batched

    def initial(rows: int) -> Any:
        one = policy.initial(1)
        return jax.tree.map(lambda leaf: np.stack([leaf] * rows), one)

    @jax.jit
    def step(params, carry, image, is_first, keys, member, seed, row):
        def act(inputs):
            carry, image, is_first, member, seed, row = inputs
            # Of a single member nothing is picked, or every row would carry a copy.
            member = member if len(keys) > 1 else 0
            own, key = jax.tree.map(lambda leaf: leaf[member], (params, keys))
            row_key = jax.random.fold_in(jax.random.fold_in(key, seed), row)
            action, carry = policy.act(own, carry, image[None], is_first[None], row_key)
            return action[0], carry

        rows = (carry, image, is_first, member, seed, row)
        return jax.vmap(act)(rows) if batched else jax.lax.map(act, rows)

    return PolicyStep(batched, initial, step)


@dataclasses.dataclass
class _Running:
    """An episode under way: its place in the order, and its rows so far."""

    index: int
    play: Play
    observations: list[Observation] = dataclasses.field(default_factory=list)
    actions: list[np.ndarray] = dataclasses.field(default_factory=list)

    def request(self) -> Reset | Step:
        """Returns what to ask of the worker next."""
        return Step(self.actions[-1]) if self.observations else Reset(self.play.seed)

    def record(self, observation: Observation | None) -> None:
        """Takes the answer; without one, the worker failed: all over from the start."""
        if observation is None:
            self.observations.clear()
            self.actions.clear()
        else:
            self.observations.append(observation)

    @property
    def is_over(self) -> bool:
        return bool(self.observations) and self.observations[-1].is_last

    def episode(self) -> Episode:
        seen = self.observations
        return Episode(
            image=np.stack([row.image for row in seen]),
            action=np.stack(self.actions),
            **{
                name: np.stack([row.fields[name] for row in seen])
                for name in seen[0].fields
            },
        )


def collect_episodes(
    pool: WorkerPool,
    policy_step: PolicyStep,
    params: Params,
    keys: jax.Array,
    plays: Sequence[Play],
) -> Iterator[Episode]:
    """Yields one whole episode for each of `plays`, in their order.

    May run in a thread beside training, as long as nothing donates `params` meanwhile.

    Args:
      pool: the environments; all in use until the iterator ends or is closed.
      policy_step: from `make_policy_step`.
      params: what the policy acts with, M sets of it: every leaf is [M, ...].
      keys: typed PRNG keys [M]; an episode's actions depend on its member's and on the
        episode's seed.
      plays: who acts, and where.

    Raises:
      ValueError: for a seed out of range.
      FloatingPointError: if the policy's action is not finite.
      WorkerError: if workers keep failing.
    """
    for play in plays:
        if not 0 <= play.seed < 2**32:
            raise ValueError(f"environment seed {play.seed} is not in [0, 2**32)")
    waiting = collections.deque(
        _Running(index, play) for index, play in enumerate(plays)
    )
    running: dict[int, _Running] = {}
    finished: dict[int, Episode] = {}
    with pool.claimed():
        groups = [
            _Group(slots, policy_step.initial(len(slots)))
            for slots in _slots_together(
                policy_step.batched, pool.num_workers, len(plays)
            )
        ]
        for index in range(len(plays)):
            while index not in finished:
                for group in groups:
                    if not group.owing:
                        _act(group, policy_step, params, keys, running)
                        for slot in group.slots:
                            if slot not in running and waiting:
                                running[slot] = waiting.popleft()
                        group.owing = running.keys() & set(group.slots)
                        pool.ask(
                            {slot: running[slot].request() for slot in group.owing}
                        )
                for slot, observation in pool.answers().items():
                    one = running[slot]
                    one.record(observation)
                    if one.is_over:
                        finished[one.index] = running.pop(slot).episode()
                    for group in groups:
                        group.owing.discard(slot)
            yield finished.pop(index)


@dataclasses.dataclass
class _Group:
    """Slots whose episodes act in one call of the policy, once all have answered."""

    slots: Sequence[int]
    carry: Any
    owing: set[int] = dataclasses.field(default_factory=set)


def _slots_together(
    batched: bool, num_workers: int, episodes: int
) -> list[Sequence[int]]:
    """Returns the slots of each group.

    A loop computes each row by itself anyhow, so each worker gets its action as soon as
    it has answered, and none waits for the slowest. A batch has a row a slot: as many
    as let all episodes be played in the fewest waves, so that no row of a wave is of a
    slot with nothing to play.
    """
    if not batched:
        return [[slot] for slot in range(num_workers)]
    waves = -(-episodes // num_workers)
    return [range(-(-episodes // waves))] if episodes else []


def _act(
    group: _Group,
    policy_step: PolicyStep,
    params: Params,
    keys: jax.Array,
    running: Mapping[int, _Running],
) -> None:
    """Appends the next action to each of a group's episodes that waits for one.

    The call always has one row a slot, so that it is traced once: those that have ended
    before others, or wait for a new worker, are filled with a first row, whose action
    nobody reads.
    """
    acting = {
        row: running[slot]
        for row, slot in enumerate(group.slots)
        if slot in running and running[slot].observations
    }
    if not acting:
        return
    rows = len(group.slots)
    like = next(iter(acting.values())).observations[-1].image
    image = np.zeros((rows, *like.shape), like.dtype)
    member = np.zeros(rows, np.int32)
    seed = np.zeros(rows, np.uint32)
    number = np.zeros(rows, np.int32)
    for row, one in acting.items():
        image[row] = one.observations[-1].image
        member[row], seed[row] = one.play
        number[row] = len(one.actions)
    action, group.carry = policy_step.step(
        params, group.carry, image, number == 0, keys, member, seed, number
    )
    action = np.asarray(action, np.float32)
    for row, one in acting.items():
        if not np.isfinite(action[row]).all():
            raise FloatingPointError(
                f"the policy's action in row {number[row]} of the episode with seed "
                f"{one.play.seed} is not finite: its parameters have diverged, so "
                "lower the learning rates, or take an earlier checkpoint"
            )
        one.actions.append(np.clip(action[row], -1.0, 1.0))
