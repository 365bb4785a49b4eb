"""Runs of a sweep as jobs of a Slurm cluster, through submitit."""

import contextlib
import getpass
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import submitit
from submitit.helpers import DelayedSubmission

from launch.runs import STOPPED, Session, SweepRun

# Before its time is up, or its node is wanted, a job is told this long before: for an
# update, a checkpoint and the queue's own delays.
_NOTICE_SECONDS = 120

# How often a run may use up its time and be queued again.
_MAX_TIMEOUTS = 100

# What was submitted less long ago may not be in the queue's books yet.
_UNSETTLED_SECONDS = 300

# Signals that a cluster gives notice with.
_NOTICES = (signal.SIGUSR1, signal.SIGUSR2)


class Resources(NamedTuple):
    """What each job of an array asks for.

    Attributes:
      partition: "" for the cluster's default.
      gpus: on its node.
      cpus: cores.
      memory_gb: of main memory.
      hours: of wall time, after which it is queued again.
      array_parallelism: jobs of the array that may go on at once.
    """

    partition: str
    gpus: int
    cpus: int
    memory_gb: int
    hours: float
    array_parallelism: int


class RunJob:
    """A run as a job, which saves and is queued again when its node is taken.

    Attributes:
      run: what it trains.
      notice_seconds: how long a job waits for the word that it was preempted when a
        signal, sent to all its processes, ended the run first.
    """

    def __init__(self, run: SweepRun, notice_seconds: float = _NOTICE_SECONDS) -> None:
        self.run = run
        self.notice_seconds = notice_seconds
        self._session: Session | None = None
        self._asked = False

    def __call__(self) -> None:
        """Does the run.

        Raises:
          RuntimeError: if it ended otherwise than complete, so that Slurm says so too.
          OSError: if it could not be started.
        """
        # A notice waits until there is a process to stop. The process inherits this,
        # and so survives one that a cluster sends to all the processes of a job.
        signal.pthread_sigmask(signal.SIG_BLOCK, _NOTICES)
        try:
            self._session = Session(self.run)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _NOTICES)
        # `scancel`, and the first of the signals of a preemption.
        signal.signal(signal.SIGTERM, lambda number, frame: self._ask_to_stop())
        try:
            if self._session.process.wait() in STOPPED:
                time.sleep(self.notice_seconds)
        finally:
            status = self._session.finish()
        if status:
            raise RuntimeError(f"ended with status {status}: see {self.run.log}")

    def checkpoint(self) -> DelayedSubmission:
        """Lets the run save and stop, and returns what is to be queued again.

        submitit calls it when the job is preempted or its time is up, in the middle of
        `__call__`.
        """
        if self._session is not None:
            self._ask_to_stop()
            # `Popen.wait` would wait for a lock that the interrupted one holds.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self._session.process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(RunJob(self.run, self.notice_seconds))

    def _ask_to_stop(self) -> None:
        """Asks once: a second signal would end the run before it has saved."""
        if self._session is not None and not self._asked:
            self._asked = True
            self._session.process.terminate()


def slurm_executor(
    folder: Path, name: str, resources: Resources
) -> submitit.AutoExecutor:
    """Returns what submits to the cluster.

    Args:
      folder: for submitit's files; the cluster's nodes see it.
      name: of the jobs.
      resources: that each of them asks for.
    """
    executor = submitit.AutoExecutor(
        folder, cluster="slurm", slurm_max_num_timeout=_MAX_TIMEOUTS
    )
    executor.update_parameters(
        name=name,
        timeout_min=round(resources.hours * 60),
        mem_gb=resources.memory_gb,
        cpus_per_task=resources.cpus,
        gpus_per_node=resources.gpus,
        slurm_partition=resources.partition or None,
        slurm_array_parallelism=resources.array_parallelism,
        slurm_signal_delay_s=_NOTICE_SECONDS,
        # `srun` does not take this over from the job since Slurm 22.05.
        slurm_srun_args=[f"--cpus-per-task={resources.cpus}"],
        slurm_additional_parameters={"requeue": True},
    )
    return executor


def submit(
    executor: submitit.Executor, runs: Sequence[SweepRun]
) -> list[submitit.Job[None]]:
    """Submits the runs as one job array and returns the jobs in the same order."""
    jobs = executor.submit_array([RunJob(run) for run in runs])
    for run, job in zip(runs, jobs, strict=True):
        run.job_file.write_text(f"{job.job_id}\n")
    return jobs


def queued(runs: Sequence[SweepRun]) -> dict[str, str]:
    """Returns the jobs that were submitted before and wait or go on, by runs' names.

    Raises:
      ValueError: if there are such submissions and the queue cannot be asked.
    """
    submitted = {
        run.name: run for run in runs if run.job_file.exists() and not _ended(run)
    }
    if not submitted:
        return {}
    in_queue = _queue(next(iter(submitted.values())))
    jobs = {}
    for name, run in submitted.items():
        job = run.job_file.read_text().strip()
        if job in in_queue or _age(run.job_file) < _UNSETTLED_SECONDS:
            jobs[name] = job
    return jobs


def _ended(run: SweepRun) -> bool:
    """Returns whether a session has ended since the run was submitted last."""
    # A session that begins removes its record, and writes it anew.
    return run.exit_file.exists() and _age(run.exit_file) < _age(run.job_file)


def _age(path: Path) -> float:
    """Returns the seconds since a file was written."""
    return time.time() - path.stat().st_mtime


def _queue(run: SweepRun) -> set[str]:
    """Returns the numbers of this user's jobs in the queue.

    Raises:
      ValueError: if that cannot be known; names `run`, for which a job was submitted.
    """
    command = ["squeue", "--noheader", "--array", "--format=%i"]
    try:
        asked = subprocess.run(
            [*command, f"--user={getpass.getuser()}"], capture_output=True, text=True
        )
        reason = "" if asked.returncode == 0 else asked.stderr.strip() or "it failed"
    except (OSError, KeyError) as error:
        reason = str(error)
    if reason:
        raise ValueError(
            f"squeue cannot say whether the job of {run.job_file} still waits "
            f"({reason.splitlines()[0]}): mend that, or remove the file to submit again"
        )
    return set(asked.stdout.split())
