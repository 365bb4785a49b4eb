"""Episodes from a policy: supervised environment processes and one batched policy call.

An episode is a function of (parameters, key, environment seed) alone. It does not
depend on how many workers there are, on which of them ran it, or on what ran beside it:
each row of the policy call is computed by itself, with its own key. So a worker that
dies or hangs costs time alone: its episode starts again, and comes out equal.
"""

import collections
import contextlib
import dataclasses
import multiprocessing.connection
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import gymnasium
import jax
import numpy as np

from moto_jax.data.episodes import Episode
from moto_jax.envs.worker import Failure, Observation, Reset, Step
from moto_jax.types import Params, Policy

_START_WORKER = "import sys; from moto_jax.envs import worker; worker.main({})"


class WorkerError(RuntimeError):
    """Environment workers fail again and again; the message says how the last did."""


class WorkerPool:
    """Environments in processes of their own, each watched and replaced when it fails.

    A worker fails when it raises, dies, returns something that its observation space
    or an episode cannot hold, or keeps silent past a deadline. Its process is killed
    and a new one built in its place: what a late answer belongs to cannot be told.

    A pool serves one caller at a time. Use it as a context manager, or call `close`.
    """

    def __init__(
        self,
        make_env: Callable[[], gymnasium.Env],
        num_workers: int,
        *,
        step_deadline_s: float = 60.0,
        reset_deadline_s: float = 120.0,
        max_restarts: int = 5,
        restart_window_s: float = 600.0,
    ):
        """Starts the processes; their environments are built while the caller goes on.

        Args:
          make_env: picklable, called once in each worker; an environment whose `info`
            has `objects_in_goal` and `qpos`. Its module should not import jax.
          num_workers: how many processes.
          step_deadline_s: seconds a step may take.
          reset_deadline_s: seconds a reset may take, building the environment included.
          max_restarts: more than this many restarts within the window are an error.
          restart_window_s: that window in seconds.

        Raises:
          ValueError: if `num_workers` is not positive.
        """
        if num_workers < 1:
            raise ValueError(f"num_workers is {num_workers}: use at least 1")
        self.num_workers = num_workers
        self._make_env = make_env
        self._deadline_s = {Reset: reset_deadline_s, Step: step_deadline_s}
        self._max_restarts = max_restarts
        self._restart_window_s = restart_window_s
        self._restarts: collections.deque[float] = collections.deque()
        self._in_use = threading.Lock()
        self._closed = False
        self._workers = [_Worker(make_env) for _ in range(num_workers)]

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The workers' process ids, by slot; a restart changes one."""
        return tuple(worker.process.pid for worker in self._workers)

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes; closing twice is harmless."""
        self._closed = True
        for worker in self._workers:
            worker.kill()

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Keeps the pool to one caller.

        Raises:
          RuntimeError: if it is closed or in use: two callers would mix their episodes.
        """
        if self._closed:
            raise RuntimeError("the worker pool is closed")
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError("the worker pool is collecting episodes already")
        try:
            yield
        finally:
            self._in_use.release()

    def exchange(self, requests: Mapping[int, Reset | Step]) -> dict[int, Observation]:
        """Sends one request to each of some workers and waits for all the answers.

        Args:
          requests: slot -> request, slots from 0 to `num_workers` - 1.

        Returns:
          slot -> observation. A slot that is missing failed: it has a new worker, which
          knows nothing of the episode and must be reset.

        Raises:
          WorkerError: after too many restarts in a short time; the pool is closed then.
        """
        failures: dict[int, str] = {}
        observations: dict[int, Observation] = {}
        deadlines: dict[int, float] = {}
        for slot, request in requests.items():
            worker = self._workers[slot]
            if worker.awaits_answer:
                # The last caller was interrupted between question and answer.
                self._workers[slot] = worker.replaced(self._make_env)
            error = self._workers[slot].send(request)
            if error:
                failures[slot] = error
            else:
                deadlines[slot] = time.monotonic() + self._deadline_s[type(request)]
        while deadlines:
            now = time.monotonic()
            for slot in [slot for slot, end in deadlines.items() if end <= now]:
                limit = self._deadline_s[type(requests[slot])]
                failures[slot] = f"no answer within {limit:g} s"
                del deadlines[slot]
            slots = {self._workers[slot].connection: slot for slot in deadlines}
            timeout = max(0.0, min(deadlines.values(), default=now) - now)
            for ready in multiprocessing.connection.wait(list(slots), timeout):
                slot = slots[ready]  # pyright: ignore[reportArgumentType]
                answer = self._workers[slot].receive()
                if isinstance(answer, Failure):
                    failures[slot] = answer.error
                else:
                    observations[slot] = answer
                del deadlines[slot]
        for slot, error in failures.items():
            self._restart(slot, error)
        return observations

    def _restart(self, slot: int, error: str) -> None:
        """Replaces a failed worker, or gives up."""
        now = time.monotonic()
        self._restarts.append(now)
        while self._restarts[0] < now - self._restart_window_s:
            self._restarts.popleft()
        if len(self._restarts) > self._max_restarts:
            self.close()
            raise WorkerError(
                f"environment workers failed {len(self._restarts)} times within "
                f"{self._restart_window_s:g} s, the last with '{error}': mend the "
                "environment, then run the same command again"
            )
        self._workers[slot] = self._workers[slot].replaced(self._make_env)


class _Worker:
    """One process and the pool's end of its pipe."""

    def __init__(self, make_env: Callable[[], gymnasium.Env]):
        ours, theirs = socket.socketpair()
        # The worker imports from where this process does, also when the caller's
        # directory is on the path only because it was started there.
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START_WORKER.format(theirs.fileno())],
                env={**os.environ, "PYTHONPATH": path},
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
            )
        self.connection = Connection(ours.detach())
        self.awaits_answer = False
        # Should the process be dead already, the first request will tell.
        with contextlib.suppress(OSError):
            self.connection.send(make_env)

    def send(self, request: Reset | Step) -> str | None:
        """Sends a request; returns what is wrong if that fails."""
        try:
            self.connection.send(request)
        except OSError:
            return self._death()
        self.awaits_answer = True
        return None

    def receive(self) -> Observation | Failure:
        """Reads the answer that is there; a pipe that broke is a failure too."""
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            return Failure(self._death())
        self.awaits_answer = False
        return answer

    def kill(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait()

    def replaced(self, make_env: Callable[[], gymnasium.Env]) -> "_Worker":
        self.kill()
        return _Worker(make_env)

    def _death(self) -> str:
        try:
            return f"the process ended with exit code {self.process.wait(timeout=1)}"
        except subprocess.TimeoutExpired:
            return "the process closed its pipe"


class PolicyStep(NamedTuple):
    """A policy for lock-step collection; made once, traced once for each pool size.

    Attributes:
      initial: number of workers n -> carry; every leaf is [n, 1, ...].
      step: (params, carry, image uint8 [n, height, width, 3], is_first bool [n], key,
        seed uint32 [n], row int32 [n]) -> (action float32 [n, A], carry).
    """

    initial: Callable[[int], Any]
    step: Callable[..., tuple[jax.Array, Any]]


def make_policy_step(policy: Policy) -> PolicyStep:
    """Returns the policy with a key of its own for every episode and row.

    Row i acts with the key `fold_in(fold_in(key, seed[i]), row[i])`, alone, in a loop
    on the device: a batched product may differ in the last bit with the size of the
    batch, and contacts in the simulator soon turn a bit into another episode. With
    networks of the `cpu` preset the loop is no slower than one batch of four.
    """

    def initial(num_workers: int) -> Any:
        one = policy.initial(1)
        return jax.tree.map(lambda leaf: np.stack([leaf] * num_workers), one)

    @jax.jit
    def step(params, carry, image, is_first, key, seed, row):
        def act(inputs):
            carry, image, is_first, seed, row = inputs
            row_key = jax.random.fold_in(jax.random.fold_in(key, seed), row)
            action, carry = policy.act(
                params, carry, image[None], is_first[None], row_key
            )
            return action[0], carry

        return jax.lax.map(act, (carry, image, is_first, seed, row))

    return PolicyStep(initial, step)


@dataclasses.dataclass
class _Running:
    """An episode under way: its place in the order, its seed, and its rows so far."""

    index: int
    seed: int
    observations: list[Observation] = dataclasses.field(default_factory=list)
    actions: list[np.ndarray] = dataclasses.field(default_factory=list)

    def request(self) -> Reset | Step:
        """Returns what to ask of the worker next."""
        return Step(self.actions[-1]) if self.observations else Reset(self.seed)

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
            objects_in_goal=np.stack([row.objects_in_goal for row in seen]),
            qpos=np.stack([row.qpos for row in seen]),
        )


def collect_episodes(
    pool: WorkerPool,
    policy_step: PolicyStep,
    params: Params,
    key: jax.Array,
    seeds: Sequence[int],
) -> Iterator[Episode]:
    """Yields one whole episode for each environment seed, in the order of `seeds`.

    May run in a thread beside training, as long as nothing donates `params` meanwhile.

    Args:
      pool: the environments; all in use until the iterator ends or is closed.
      policy_step: from `make_policy_step`.
      params: what the policy acts with.
      key: typed PRNG key; an episode's actions depend on it and on the episode's seed.
      seeds: of the environments' resets, each in [0, 2**32).

    Raises:
      ValueError: for a seed out of range.
      FloatingPointError: if the policy's action is not finite.
      WorkerError: if workers keep failing.
    """
    for seed in seeds:
        if not 0 <= seed < 2**32:
            raise ValueError(f"environment seed {seed} is not in [0, 2**32)")
    waiting = collections.deque(
        _Running(index, int(seed)) for index, seed in enumerate(seeds)
    )
    running: dict[int, _Running] = {}
    finished: dict[int, Episode] = {}
    with pool.claimed():
        carry = policy_step.initial(pool.num_workers)
        for index in range(len(seeds)):
            while index not in finished:
                for slot in range(pool.num_workers):
                    if slot not in running and waiting:
                        running[slot] = waiting.popleft()
                answers = pool.exchange(
                    {slot: one.request() for slot, one in running.items()}
                )
                for slot, one in list(running.items()):
                    one.record(answers.get(slot))
                    if one.is_over:
                        finished[one.index] = running.pop(slot).episode()
                carry = _act(policy_step, params, carry, key, pool.num_workers, running)
            yield finished.pop(index)


def _act(
    policy_step: PolicyStep,
    params: Params,
    carry: Any,
    key: jax.Array,
    num_workers: int,
    running: Mapping[int, _Running],
) -> Any:
    """Appends the next action to every episode that waits for one; returns the carry.

    The call always has one row a worker, so that it is traced once: rows without an
    episode are filled with a first row, whose action nobody reads.
    """
    acting = {slot: one for slot, one in running.items() if one.observations}
    if not acting:
        return carry
    like = next(iter(acting.values())).observations[-1].image
    image = np.zeros((num_workers, *like.shape), like.dtype)
    seed = np.zeros(num_workers, np.uint32)
    row = np.zeros(num_workers, np.int32)
    for slot, one in acting.items():
        image[slot] = one.observations[-1].image
        seed[slot] = one.seed
        row[slot] = len(one.actions)
    action, carry = policy_step.step(params, carry, image, row == 0, key, seed, row)
    action = np.asarray(action, np.float32)
    for slot, one in acting.items():
        if not np.isfinite(action[slot]).all():
            raise FloatingPointError(
                f"the policy's action in row {row[slot]} of the episode with seed "
                f"{one.seed} is not finite: its parameters have diverged"
            )
        one.actions.append(np.clip(action[slot], -1.0, 1.0))
    return carry
