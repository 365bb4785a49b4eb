"""Several processes on this machine do one run together, with fakes."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import pytest

from moto_jax.running import checkpoints, machines
from tests.fake_training import EPISODES, UPDATES, abstract_states, metrics_lines
from tests.machine_program import SEEDS

ROOT = Path(__file__).parents[1]
OFFLINE = 22


class Ended(NamedTuple):
    """How a process ended, and what it said."""

    status: int
    stdout: str
    stderr: str
    seconds: float


def free_port():
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def by_hand(port, count, number):
    """What a user sets, as the README says."""
    return {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": str(count),
        "JAX_PROCESS_ID": str(number),
    }


def by_slurm(port, count, number):
    """What `srun` sets; jax makes a port of its own from the job's number."""
    return {
        "SLURM_JOB_ID": str(port),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": str(count),
        "SLURM_PROCID": str(number),
        "SLURM_LOCALID": str(number),
    }


def start(workdir, *arguments, processes=2, told=by_hand):
    """Starts the processes of a run; returns how each ended."""
    program = [sys.executable, "-W", "ignore", "-m", "tests.machine_program"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    port = free_port()
    begun = time.monotonic()
    started = [
        subprocess.Popen(
            [*program, str(workdir), *map(str, arguments)],
            cwd=ROOT,
            env={**environment, **told(port, processes, number)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(processes)
    ]
    ended = []
    try:
        for process in started:
            stdout, stderr = process.communicate(timeout=120)
            seconds = time.monotonic() - begun
            ended.append(Ended(process.returncode, stdout, stderr, seconds))
    finally:
        for process in started:
            process.kill()
    return ended


def outcome(workdir):
    """What every seed left behind, without time, and their last parameters."""
    return {
        seed: (
            metrics_lines(workdir / f"seed{seed}"),
            {
                path.name: path.read_bytes()
                for path in (workdir / f"seed{seed}" / "online").iterdir()
            },
        )
        for seed in SEEDS
    } | {"weights": weights(workdir)}


def weights(workdir):
    states, _ = checkpoints.restore(workdir, abstract_states(seeds=len(SEEDS)))
    return states.weight.tolist()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The outcome of the run when one process does it."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    (ended,) = start(workdir, 1, processes=1)
    assert ended.status == 0, ended.stderr
    expected = outcome(workdir)
    for lines, episodes in (expected[seed] for seed in SEEDS):
        assert lines[-1]["step"] == OFFLINE + EPISODES * UPDATES
        assert len(episodes) == EPISODES
    return expected


@pytest.mark.parametrize(
    ("groups", "told"),
    [
        pytest.param(1, by_slurm, id="shares of batches, under Slurm"),
        pytest.param(2, by_hand, id="seeds apart, found by hand"),
        pytest.param(
            1, by_hand, id="shares of batches, found by hand", marks=pytest.mark.slow
        ),
    ],
)
def test_two_processes_do_the_run_of_one(tmp_path, alone, groups, told):
    """Losses, evaluations and episodes are equal, bit for bit."""
    ended = start(tmp_path / "run", groups, told=told)
    assert [process.status for process in ended] == [0, 0], ended[0].stderr
    assert outcome(tmp_path / "run") == alone
    # The first reports for all.
    assert "objects completed" in ended[0].stdout
    assert "objects completed" not in ended[1].stdout
    assert "process 1 of 2" in ended[1].stderr


@pytest.mark.parametrize(
    ("groups", "killed"),
    [(1, 0), pytest.param(1, 1, marks=pytest.mark.slow), (2, 1)],
)
def test_when_one_is_killed_the_others_stop_and_say_so(tmp_path, alone, groups, killed):
    workdir = tmp_path / "run"
    ended = start(workdir, groups, signal.SIGKILL.value, killed, 17)
    assert ended[killed].status == -signal.SIGKILL
    other = ended[1 - killed]
    assert other.status == 1 and other.seconds < 60
    (said,) = [line for line in other.stderr.splitlines() if line.startswith("error: ")]
    # Whichever is first: a collective of its own that fails, or JAX's watch.
    assert "another process of this run has ended" in said or "JAX gave this" in said
    assert "the same commands" in said
    assert checkpoints.latest(workdir / "checkpoints") == 10
    ended = start(workdir, groups)
    assert [process.status for process in ended] == [0, 0], ended[0].stderr
    assert "going on after 10 updates" in ended[0].stderr
    assert outcome(workdir) == alone


def test_one_that_is_busy_elsewhere_stops_too(tmp_path):
    ended = start(tmp_path / "run", 1, signal.SIGKILL.value, 1, 3, "idle")
    assert ended[0].status == 1 and ended[0].seconds < 60
    said = ended[0].stderr.splitlines()[-1]
    assert (
        said.startswith("error: JAX gave this process up") and "same commands" in said
    )


def test_a_request_to_one_stops_all_at_the_same_update(tmp_path, alone):
    workdir = tmp_path / "run"
    ended = start(workdir, 1, signal.SIGTERM.value, 1, 13)
    assert [process.status for process in ended] == [128 + signal.SIGTERM] * 2
    assert "stopped and saved" in ended[0].stdout
    assert checkpoints.latest(workdir / "checkpoints") == 20
    ended = start(workdir, 1)
    assert [process.status for process in ended] == [0, 0], ended[0].stderr
    assert outcome(workdir) == alone


def test_other_processes_than_before_are_refused(tmp_path):
    workdir = tmp_path / "run"
    start(workdir, 1, signal.SIGTERM.value, 0, 5)
    ended = start(workdir, 2)
    assert [process.status for process in ended] == [1, 1]
    for process in ended:
        assert "config.mesh.data = 2, not 1" in process.stderr


@pytest.mark.parametrize(
    ("number", "count", "waited"),
    [(0, 2, [machines._LAST_WORDS_SECONDS]), (1, 2, []), (0, 1, [])],
    ids=["first", "another", "alone"],
)
def test_the_first_leaves_the_others_time_for_their_last_words(
    monkeypatch, capsys, number, count, waited
):
    done = []

    def stop(status):
        raise SystemExit(status)

    monkeypatch.setattr(jax, "process_index", lambda: number)
    monkeypatch.setattr(jax, "process_count", lambda: count)
    # What was said by then counts, and so does the wait.
    monkeypatch.setattr(
        time, "sleep", lambda seconds: done.append((seconds, capsys.readouterr().err))
    )
    monkeypatch.setattr(os, "_exit", stop)
    with pytest.raises(SystemExit) as ended:
        machines.leave(ValueError("a reason"), 3)
    assert ended.value.code == 3
    assert done == [(seconds, "error: a reason\n") for seconds in waited]


def test_without_others_to_be_found_it_says_how():
    done = subprocess.run(
        [
            *(sys.executable, "-m", "experiments.run"),
            "--config=experiments/configs/mixed.py:tiny",
            "--config.distributed=true",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: config.distributed is true")
    assert "JAX_COORDINATOR_ADDRESS" in done.stderr and done.stderr.count("\n") == 1


def test_one_process_has_nobody_to_wait_for():
    assert machines.is_first()
    machines.wait_for_all("nobody")
    assert machines.gather({"own": 1}) == [{"own": 1}]
    with pytest.raises(ValueError, match="gloo"), machines.watched():
        raise ValueError("gloo, though there is nobody to talk to")
