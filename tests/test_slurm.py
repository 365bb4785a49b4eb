import os
import signal
import subprocess
import sys

import pytest
import submitit

from launch.runs import Session
from launch.slurm import Resources, RunJob, slurm_executor, submit
from launch.status import read_status
from tests.test_sweeps import ROOT, at_the_root, call, fake, journal, until

__all__ = ["at_the_root"]


@pytest.fixture
def executor(tmp_path):
    return submitit.LocalExecutor(tmp_path / ".submitit")


def processes(run):
    """The process that trains a run and the job that watches it, once it listens."""
    listens = run.workdir / "listens"
    until(listens.exists)
    return map(int, listens.read_text().split())


def test_a_job_that_fails_stops_no_other(tmp_path, executor):
    runs = [
        fake(tmp_path, "fine", seeds="0,1"),
        fake(tmp_path, "refused", "refuse"),
        fake(tmp_path, "late", "meet:3"),
    ]
    jobs = submit(executor, runs)
    errors = [job.exception() for job in jobs]
    assert [error is None for error in errors] == [True, False, True]
    # Slurm is told, and the one who reads submitit's file learns where the log is.
    assert f"ended with status 1: see {runs[1].log}" in str(errors[1])
    statuses = [read_status(run) for run in runs]
    assert [status.state for status in statuses] == ["done", "failed", "done"]
    assert statuses[1].error == "error: the [kettle] is cold"


@pytest.mark.parametrize("before", ["nothing", "SIGTERM", "stopped run"])
def test_a_job_that_is_preempted_saves_and_is_queued_again(tmp_path, executor, before):
    run = fake(tmp_path, "a", "stop")
    (job,) = submit(executor, [run])
    trainer, watcher = processes(run)
    if before == "SIGTERM":
        os.kill(watcher, signal.SIGTERM)
        until((run.workdir / "saving").exists)
    elif before == "stopped run":
        os.kill(trainer, signal.SIGTERM)
        until((run.workdir / "saved").exists)
    os.kill(watcher, signal.SIGUSR2)
    assert job.result() is None
    assert journal(tmp_path) == ["a begins", "a saves", "a begins", "a ends"]
    assert run.log.read_text().count("$ ") == 2
    assert read_status(run).state == "done"
    assert "Requeued" in job.stdout() + job.stderr()


def test_a_notice_to_all_processes_of_a_job_does_not_end_its_run(tmp_path, executor):
    run = fake(tmp_path, "a", "stop")
    (job,) = submit(executor, [run])
    trainer, watcher = processes(run)
    os.kill(trainer, signal.SIGUSR2)
    os.kill(watcher, signal.SIGUSR2)
    assert job.result() is None
    assert "a saves" in journal(tmp_path)


def test_a_job_is_queued_again_only_when_its_run_has_saved(tmp_path):
    """The cluster ends what goes on then."""
    run = fake(tmp_path, "a", "stop")
    job = RunJob(run)
    job._session = Session(run)
    list(processes(run))
    again = job.checkpoint()
    assert journal(tmp_path) == ["a begins", "a saves"]
    assert job._session.finish() == 143
    assert again.function.run == run and again.function._session is None


def test_a_run_that_stops_without_notice_is_no_success(tmp_path, executor):
    run = fake(tmp_path, "a", "stop")
    job = executor.submit(RunJob(run, notice_seconds=0.0))
    trainer, _ = processes(run)
    os.kill(trainer, signal.SIGTERM)
    assert "ended with status 143" in str(job.exception())
    assert read_status(run).state == "stopped"


def test_a_job_leaves_a_run_to_the_process_that_trains_it(tmp_path, executor):
    run = fake(tmp_path, "a", "stop")
    session = Session(run)
    list(processes(run))
    (job,) = submit(executor, [run])
    assert "another process trains" in str(job.exception())
    session.process.terminate()
    assert session.finish() == 143
    assert journal(tmp_path) == ["a begins", "a saves"]


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Puts a cluster's programs on the path; returns where a submission is kept."""
    programs = tmp_path / "bin"
    programs.mkdir()
    submissions = tmp_path / "submissions"
    sbatch = f'cat "$1" >> {submissions}; echo Submitted batch job 12'
    for name, line in {"sbatch": sbatch, "srun": "exit 1"}.items():
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return submissions


def test_a_figure_is_one_array_of_jobs_of_what_is_not_done(tmp_path, cluster):
    out = tmp_path / "figure"
    for run in (fake(out, "mixed-moto-seed0"),):
        Session(run).finish()
    done = call(
        *("--figure=3", "--size=tiny", "--seeds=1", f"--out={out}", "--run=slurm"),
        *("--partition=long", "--gpus=2", "--cpus=8", "--memory_gb=40", "--hours=1.5"),
        "--array_parallelism=3",
    )
    assert done.returncode == 0, done.stderr
    text = cluster.read_text()
    for line in (
        "array=0-8%3",
        "partition=long",
        "gpus-per-node=2",
        "cpus-per-task=8",
        "mem=40GB",
        "time=90",
        "signal=USR2@120",
        "requeue",
        "job-name=figure",
    ):
        assert f"#SBATCH --{line}\n" in text
    assert "--cpus-per-task=8" in text.split("srun", 1)[1]
    said = [line.split() for line in done.stdout.splitlines() if line.startswith("job")]
    assert [words[1] for words in said] == [f"12_{index}" for index in range(9)]
    assert "mixed-moto-seed0" not in {words[2] for words in said}
    assert "1 done, 9 waiting" in done.stdout
    # What the cluster would start: the job that was told for this number.
    pickles = sorted(path.name for path in (out / ".submitit").glob("*submitted.pkl"))
    assert pickles == [f"12_{index}_submitted.pkl" for index in range(9)]
    job = submitit.core.utils.DelayedSubmission.load(out / ".submitit" / pickles[2])
    assert job.function.run.name == said[2][2]


def again(out, cluster):
    """Gives the command of a figure; returns who was submitted now, who before."""
    cluster.unlink(missing_ok=True)
    done = call(
        *("--figure=3", "--size=tiny", "--seeds=1", "--tasks=mixed", f"--out={out}"),
        *("--run=slurm", "--only=moto", "--only=dreamer_v2"),
    )
    assert done.returncode == 0, done.stderr
    said = [line.split() for line in done.stdout.splitlines() if line.startswith("job")]
    assert cluster.exists() == any(len(words) == 3 for words in said)
    now = {words[2]: words[1] for words in said if len(words) == 3}
    return now, {words[2].strip(","): words[1] for words in said if len(words) > 3}


def squeue(cluster, line):
    program = cluster.parent / "bin" / "squeue"
    program.write_text(f"#!/bin/sh\n{line}\n")
    program.chmod(0o755)


def long_ago(path):
    os.utime(path, (1e9, 1e9))


def test_what_waits_in_the_queue_is_not_submitted_again(tmp_path, cluster):
    out = tmp_path / "figure"
    # The queue's books are behind: it knows nothing of any job, to begin with.
    squeue(cluster, "exit 0")
    both = {"mixed-moto-seed0": "12_0", "mixed-dreamer_v2-seed0": "12_1"}
    assert again(out, cluster) == (both, {})
    assert again(out, cluster) == ({}, both)
    for name in both:
        long_ago(out / f"{name}.job")
    squeue(cluster, "echo 7; echo 12_1")
    # The first was cancelled before it began, or its node is no more.
    now, before = again(out, cluster)
    assert now == {"mixed-moto-seed0": "12"}
    assert before == {"mixed-dreamer_v2-seed0": "12_1"}
    # It fails at once: that is known without the queue, which may still list it.
    squeue(cluster, "echo 12; echo 12_1")
    long_ago(out / "mixed-moto-seed0.job")
    (out / "mixed-moto-seed0.exit").write_text("1\n")
    now, before = again(out, cluster)
    assert list(now) == ["mixed-moto-seed0"]
    assert list(before) == ["mixed-dreamer_v2-seed0"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("echo slurm_load_jobs error: no controller >&2; exit 1", "no controller"),
        ("exit 1", "it failed"),
        (None, "squeue"),
    ],
)
def test_a_queue_that_cannot_be_asked_submits_nothing(tmp_path, cluster, line, reason):
    out = tmp_path / "figure"
    squeue(cluster, "exit 0")
    again(out, cluster)
    cluster.unlink()
    if line:
        squeue(cluster, line)
    else:
        (cluster.parent / "bin" / "squeue").unlink()
    done = call(
        *("--figure=3", "--size=tiny", "--seeds=1", "--tasks=mixed", f"--out={out}"),
        *("--run=slurm", "--only=moto"),
    )
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert f"{out / 'mixed-moto-seed0.job'} still waits" in sentence
    assert reason in sentence and "remove the file" in sentence
    assert not cluster.exists()


def test_a_job_may_use_up_its_time_often(tmp_path, cluster):
    resources = Resources("", 1, 16, 64, 24.0, 64)
    executor = slurm_executor(tmp_path / "jobs", "some", resources)
    assert "partition" not in executor.parameters
    submit(executor, [fake(tmp_path, "a")])
    (pickle,) = (tmp_path / "jobs").glob("*submitted.pkl")
    job = submitit.core.utils.DelayedSubmission.load(pickle)
    assert job._timeout_countdown >= 100 and job._timeout_min == 24 * 60


def test_a_job_does_without_jax():
    words = "import sys, launch.slurm; print('jax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", words], cwd=ROOT, capture_output=True, check=True
    )
    assert done.stdout.decode().strip() == "False"
