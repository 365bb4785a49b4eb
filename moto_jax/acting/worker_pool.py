"""Environments in processes of their own, each watched and replaced when it fails."""

import collections
import contextlib
import multiprocessing.connection
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Self

import gymnasium

from moto_jax.acting import worker
from moto_jax.acting.processes import Process, ProcessDied
from moto_jax.acting.worker import Failure, Observation, Reset, Step


class WorkerError(RuntimeError):
    """Environment workers fail again and again; the message says how the last did."""


class _Deadline(NamedTuple):
    """When an answer is late, in seconds of the monotonic clock, and of how many."""

    end: float
    limit: float


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
            may have `objects_in_goal` and `qpos`; see `worker`. Its module should not
            import jax.
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
        self._limits_s = {Reset: reset_deadline_s, Step: step_deadline_s}
        self._max_restarts = max_restarts
        self._restart_window_s = restart_window_s
        self._restarts: collections.deque[float] = collections.deque()
        self._in_use = threading.Lock()
        self._closed = False
        # Of the slots with a question that has no answer yet.
        self._deadlines: dict[int, _Deadline] = {}
        self._processes = [self._start() for _ in range(num_workers)]

    @property
    def process_ids(self) -> tuple[int, ...]:
        """The workers' process ids, by slot; a restart changes one."""
        return tuple(process.process_id for process in self._processes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes; closing twice is harmless."""
        self._closed = True
        for process in self._processes:
            process.kill()

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Keeps the pool to one caller, who finds no answer owed to the last.

        Raises:
          RuntimeError: if it is closed or in use: two callers would mix their episodes.
        """
        if self._closed:
            raise RuntimeError("the worker pool is closed")
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError("the worker pool is collecting episodes already")
        try:
            # The last caller may have been interrupted between question and answer.
            for slot in list(self._deadlines):
                self._replace(slot)
            yield
        finally:
            self._in_use.release()

    def ask(self, requests: Mapping[int, Reset | Step]) -> None:
        """Sends a request to each of some workers that owe no answer.

        Args:
          requests: slot -> request, slots from 0 to `num_workers` - 1.
        """
        for slot, request in requests.items():
            limit = self._limits_s[type(request)]
            self._deadlines[slot] = _Deadline(time.monotonic() + limit, limit)
            self._processes[slot].send(request)

    def answers(self) -> dict[int, Observation | None]:
        """Waits until one of the workers that were asked has answered, or more have.

        Returns:
          slot -> observation, or None of a worker that failed: it has a new process,
          which knows nothing of the episode and must be reset.

        Raises:
          WorkerError: after too many restarts in a short time; the pool is closed then.
        """
        answered: list[int] = []
        late: list[int] = []
        while self._deadlines and not answered and not late:
            first = min(deadline.end for deadline in self._deadlines.values())
            answered = self._wait(list(self._deadlines), until=first)
            now = time.monotonic()
            # Answers first: after a pause of the whole machine everything is late.
            if not answered:
                late = [slot for slot, one in self._deadlines.items() if one.end <= now]
        found: dict[int, Observation | Failure] = {
            slot: self._receive(slot) for slot in answered
        }
        for slot in late:
            limit = self._deadlines[slot].limit
            found[slot] = Failure(f"no answer within {limit:g} s")
        observations: dict[int, Observation | None] = {}
        for slot, answer in found.items():
            if isinstance(answer, Failure):
                self._restart(slot, answer.error)
                observations[slot] = None
            else:
                observations[slot] = answer
        return observations

    def _wait(self, slots: Sequence[int], until: float) -> list[int]:
        """Returns those of the slots that have answered, once there is one, or none."""
        slot_of = {self._processes[slot].connection: slot for slot in slots}
        timeout = max(0.0, until - time.monotonic())
        ready = multiprocessing.connection.wait(list(slot_of), timeout)
        return [slot for connection, slot in slot_of.items() if connection in ready]

    def _receive(self, slot: int) -> Observation | Failure:
        try:
            answer = self._processes[slot].receive()
        except ProcessDied as error:
            return Failure(str(error))
        self._deadlines.pop(slot)
        return answer

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
        self._replace(slot)

    def _replace(self, slot: int) -> None:
        self._processes[slot].kill()
        self._processes[slot] = self._start()
        self._deadlines.pop(slot, None)

    def _start(self) -> Process:
        process = Process(worker.__name__, worker.main.__name__)
        process.send(self._make_env)
        return process
