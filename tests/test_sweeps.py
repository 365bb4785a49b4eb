import errno
import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from launch.local import core_sets, run_all
from launch.runs import InUseError, Session, SweepRun
from launch.status import STATES, Status, read_status, status_table

ROOT = Path(__file__).parents[1]

# Of launch.stages, whose flags are others' too.
STAGES = ("explore", "prefer", "clone", "clone_more")


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    """Commands name the configurations' files from here; output is buffered as ever."""
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def fake(out, name, how="do", seeds="0"):
    """A run of the fake program."""
    return SweepRun(
        workdir=Path(out) / name,
        config="experiments/configs/mixed.py:tiny",
        overrides={"agent": "moto", "seeds": seeds},
        program=(sys.executable, "-m", "tests.fake_run", how),
    )


def journal(out):
    return (Path(out) / "journal").read_text().splitlines()


def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Status.


def begin(run, seeds=(0,), **files):
    """Writes a run's files: the configuration, then those given by name."""
    run.workdir.mkdir(parents=True)
    training = {"offline_updates": 10, "online_episodes": 2, "updates_per_episode": 5}
    config = {"seeds": list(seeds), "training": training}
    (run.workdir / "config.json").write_text(json.dumps(config))
    for seed in seeds:
        directory = run.workdir / f"seed{seed}" if len(seeds) > 1 else run.workdir
        directory.mkdir(exist_ok=True)
        for name, text in files.items():
            (directory / f"{name}.json").write_text(text)


def test_a_run_of_which_there_is_nothing_waits(tmp_path):
    assert read_status(fake(tmp_path, "a")) == Status("waiting")


@pytest.mark.parametrize("status", [143, 130, -15, -2, None])
def test_a_run_that_was_asked_to_stop_or_that_nobody_saw_end_is_stopped(
    tmp_path, status
):
    run = fake(tmp_path, "a")
    begin(run)
    run.log.write_text("error: of a library, which did not matter\n")
    if status is not None:
        run.exit_file.write_text(f"{status}\n")
    assert read_status(run).state == "stopped"
    assert read_status(run).error == ""


def test_a_run_that_was_stopped_before_its_configuration_was_kept(tmp_path):
    run = fake(tmp_path, "a")
    run.exit_file.write_text("143\n")
    assert read_status(run) == Status("stopped")


@pytest.mark.parametrize("how", ["log", "directory"])
def test_a_run_whose_lock_is_held_is_running(tmp_path, how):
    run = fake(tmp_path, "a")
    begin(run)
    # Of an earlier session.
    run.exit_file.write_text("1\n")
    path = run.log if how == "log" else run.workdir / ".lock"
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert read_status(run).state == "running"
    assert read_status(run).state == "failed"


def test_a_run_on_a_file_system_without_locks_is_done_all_the_same(
    tmp_path, monkeypatch
):
    def flock(file, how):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", flock)
    said = []
    run = fake(tmp_path, "a")
    assert run_all([run], 1, said.append) is None
    assert [line.split()[0] for line in said] == ["started", "done"]
    assert read_status(run).state == "done"


@pytest.mark.parametrize(
    ("log", "status", "reason"),
    [
        ("$ a\nerror: wrong\n", 1, "error: wrong"),
        ("$ a\nerror: wrong\nflushed late\n\n", 1, "error: wrong"),
        ("$ a\nerror: earlier\n$ a\nerror: later\n", 1, "error: later"),
        ("$ a\nerror: earlier\n$ a\n", 1, "ended with status 1"),
        ("$ a\n  File x\nValueError: no\n", 1, "ValueError: no"),
        ("$ a\njaxlib.XlaRuntimeError: full\n----\n", 1, "jaxlib.XlaRuntimeError"),
        ("$ a\nwhatever\n", 3, "whatever"),
        ("$ a\nerror: not of this\n", -9, "killed by signal 9: Killed"),
        ("", 0, "ended with status 0"),
        ("$ a\n" + "x" * 100_000, 1, "x" * 300),
        ("$ a\n\N{BULLET} \xff error\n", 1, "\N{BULLET} \xff error"),
    ],
)
def test_a_failed_run_says_why(tmp_path, log, status, reason):
    run = fake(tmp_path, "a")
    run.log.write_text(log)
    run.exit_file.write_text(f"{status}\n")
    found = read_status(run)
    assert found.state == "failed"
    assert found.error.startswith(reason) and len(found.error) <= 300


def test_a_run_is_done_when_every_seed_is(tmp_path):
    run = fake(tmp_path, "a")
    begin(run, seeds=(0, 3), summary="{}")
    assert read_status(run).state == "done"
    (run.workdir / "seed3/summary.json").unlink()
    assert read_status(run).state == "stopped"


def test_a_run_of_one_seed_is_done_in_its_own_directory(tmp_path):
    run = fake(tmp_path, "a")
    begin(run, seeds=(3,), summary="{}")
    assert read_status(run).state == "done"


def test_progress_is_the_slowest_seeds(tmp_path):
    run = fake(tmp_path, "a")
    begin(run, seeds=(0, 1))
    assert read_status(run)[2:] == (0, 20, 0.0)
    for seed, step in ((0, 15), (1, 5)):
        row = {"step": step, "phase": "offline", "wall_seconds": 6.0 * step}
        text = "\n".join([json.dumps(row), '{"step": 16, "pha'])
        (run.workdir / f"seed{seed}" / "metrics.jsonl").write_text(text)
    assert read_status(run)[2:] == (5, 20, 1.5)


def test_a_damaged_run_is_failed_and_says_where(tmp_path):
    run = fake(tmp_path, "a")
    begin(run)
    (run.workdir / "config.json").write_text('{"seeds": [')
    status = read_status(run)
    assert status.state == "failed" and "config.json" in status.error


def test_the_table_has_every_run_whole_and_counts_the_states(tmp_path):
    statuses = [(fake(tmp_path, f"run-{state}"), Status(state)) for state in STATES]
    failed = Status("failed", "error: the [kettle] is cold", 1234, 5678, 90.04)
    statuses.append((fake(tmp_path, "another-run"), failed))
    file = io.StringIO()
    Console(file=file, width=120).print(status_table("figure 3", statuses))
    text = file.getvalue()
    assert (
        "figure 3: 1 done, 1 running, 2 failed, 1 stopped, 1 waiting"
        in text.splitlines()[0]
    )
    (row,) = (line for line in text.splitlines() if "another-run" in line)
    for cell in ("failed", "1,234 / 5,678", "90.0", "error: the [kettle] is cold"):
        assert cell in row
    assert all(run.name in text for run, _ in statuses)


# On this machine.


def do(runs, jobs=1):
    """Does the runs; returns the stopping signal and the lines said."""
    lines = []
    return run_all(runs, jobs, lines.append), lines


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="there are no cores to share out",
)
def test_runs_at_once_have_cores_of_their_own(tmp_path):
    cores = os.sched_getaffinity(0)
    first, second = core_sets(2)
    assert first | second == cores and not first & second
    assert core_sets(1) == [cores]
    # More jobs than cores go wherever there is room.
    assert core_sets(len(cores) + 1) == [set()] * (len(cores) + 1)
    words = "import os, time; print(sorted(os.sched_getaffinity(0))); time.sleep(1)"
    runs = [
        SweepRun(tmp_path / name, "any.py:tiny", {}, (sys.executable, "-c", words))
        for name in ("a", "b")
    ]
    do(runs, jobs=2)
    used = [run.log.read_text().splitlines()[-1] for run in runs]
    assert used == [str(sorted(first)), str(sorted(second))]
    assert os.sched_getaffinity(0) == cores


def test_runs_are_done_in_order_and_one_at_a_time(tmp_path):
    runs = [fake(tmp_path, name) for name in "cab"]
    stopped_by, lines = do(runs)
    assert stopped_by is None
    assert journal(tmp_path) == [
        f"{name} {what}" for name in "cab" for what in ("begins", "ends")
    ]
    assert [line.split()[:2] for line in lines] == [
        [what, name] for name in "cab" for what in ("started", "done")
    ]
    assert all(read_status(run) == Status("done", "", 4, 4, 2.0) for run in runs)


def test_so_many_runs_go_on_at_once_and_no_more(tmp_path):
    # The first two wait for each other.
    runs = [fake(tmp_path, name, "meet:2,linger:0.1") for name in "abcde"]
    _, lines = do(runs, jobs=2)
    assert sum(line.startswith("done") for line in lines) == 5
    under_way, most = 0, 0
    for line in journal(tmp_path):
        under_way += 1 if line.endswith("begins") else -1
        most = max(most, under_way)
    assert most == 2


def test_a_run_that_fails_stops_no_other(tmp_path):
    nowhere = SweepRun(tmp_path / "nowhere", "", {}, (str(tmp_path / "no-program"),))
    runs = [
        fake(tmp_path, "refused", "refuse"),
        fake(tmp_path, "crashed", "crash"),
        nowhere,
        fake(tmp_path, "killed", "die:9"),
        fake(tmp_path, "silent", "leave:7"),
        fake(tmp_path, "fine", seeds="0,1"),
    ]
    stopped_by, lines = do(runs, jobs=2)
    assert stopped_by is None
    states = {run.name: read_status(run) for run in runs}
    assert states["fine"].state == "done"
    for name, reason in {
        "refused": "error: the [kettle] is cold",
        "crashed": "ZeroDivisionError: no [hob]",
        "killed": "killed by signal 9: Killed",
        "silent": "ended with status 7 and nothing in its log",
    }.items():
        assert (states[name].state, states[name].error) == ("failed", reason)
        (line,) = (line for line in lines if line.startswith(f"failed   {name} "))
        assert line.endswith(reason)
    assert [line for line in lines if line.startswith("skipped  nowhere: ")]
    # In the order of writing, although one went to stdout.
    assert runs[0].log.read_text().split("\n")[-3:-1] == [
        "half a li",
        "error: the [kettle] is cold",
    ]


def test_a_run_that_failed_is_done_again_and_its_log_goes_on(tmp_path):
    run = fake(tmp_path, "a", "unlucky:a")
    do([run])
    assert read_status(run).error == "error: the first time"
    do([run])
    assert read_status(run).state == "done"
    log = run.log.read_text()
    assert log.count("$ ") == 2 and "error: the first time" in log


def test_a_run_has_one_session_at_a_time(tmp_path):
    run = fake(tmp_path, "a", "linger:0.3")
    # Of an earlier session, which is no longer how it stands.
    run.exit_file.write_text("1\n")
    session = Session(run)
    assert not run.exit_file.exists()
    with pytest.raises(InUseError, match=f"another process trains {run.workdir}"):
        Session(run)
    assert read_status(run).state == "running"
    _, lines = do([run, fake(tmp_path, "b")])
    assert lines[0].startswith("skipped  a: another process trains")
    assert read_status(fake(tmp_path, "b")).state == "done"
    assert session.finish() == 0


def signal_when(number, *conditions):
    """Sends this process a signal from a thread, each time that something is so."""

    def send():
        for condition in conditions:
            until(condition)
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_runs_save_and_they_go_on_later(tmp_path, number):
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    runs = [fake(tmp_path, name, "stop") for name in "abc"]
    thread = signal_when(
        number, lambda: all((tmp_path / name / "listens").exists() for name in "ab")
    )
    stopped_by, _ = do(runs, jobs=2)
    thread.join()
    assert stopped_by == number
    assert sorted(journal(tmp_path)[2:]) == ["a saves", "b saves"]
    assert [read_status(run).state for run in runs] == ["stopped", "stopped", "waiting"]
    assert [run.exit_file.exists() for run in runs] == [True, True, False]
    (tmp_path / "c").mkdir()
    (tmp_path / "c/saved").touch()
    assert do(runs)[0] is None
    assert all(read_status(run).state == "done" for run in runs)
    assert handlers == [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]


def test_a_second_signal_is_handed_on_too(tmp_path):
    run = fake(tmp_path, "a", "stop:30")
    marks = [run.workdir / name for name in ("listens", "saving")]
    thread = signal_when(signal.SIGINT, *(mark.exists for mark in marks))
    assert do([run])[0] == signal.SIGINT
    thread.join()
    assert not (run.workdir / "saved").exists()
    assert run.exit_file.read_text() == f"{-signal.SIGTERM}\n"
    assert read_status(run).state == "stopped"


def test_no_run_is_left_alone_by_an_error(tmp_path):
    runs = [fake(tmp_path, name, "stop") for name in "ab"]

    def say(line):
        if "b" in line.split():
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run_all(runs, 2, say)
    # Asked before it listened, or after.
    assert [read_status(run).state for run in runs] == ["stopped", "stopped"]


# The program.


def program(*words, how="do", launcher="sweeps"):
    return [sys.executable, str(ROOT / "tests/fake_sweep.py"), how, launcher, *words]


def call(*words, how="do", env=None, launcher="sweeps"):
    return subprocess.run(
        program(*words, how=how, launcher=launcher),
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **(env or {})},
    )


@pytest.mark.parametrize(
    ("words", "culprit"),
    [
        (["--figure=4"], "--figure=4"),
        (["--figure=2", "--size=huge"], "huge"),
        (["--figure=2", "--override=moto.alpa=1", "--run=local"], "moto.alpa"),
        (["--figure=2", "--run=slurm"], "sbatch"),
    ],
)
def test_a_wrong_command_is_answered_in_one_sentence(tmp_path, words, culprit):
    done = call(*words, f"--out={tmp_path / 'out'}", env={"PATH": "/nowhere"})
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert culprit in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_miniatures_plan_holds_until_tasks_are_named(tmp_path):
    sweep = ["--figure=all", "--size=mini", f"--out={tmp_path}"]
    planned = call(*sweep, "--commands")
    assert planned.returncode == 0, planned.stderr
    # Ten systems and three ablations on both tasks.
    assert "26 waiting" in planned.stdout
    assert planned.stdout.count("configs/mixed.py:mini") == 13
    seeds, workdir = "--config.seeds=0,1,2", f"--workdir={tmp_path}/mixed-moto-seeds0-2"
    assert f"--config.agent=moto {seeds} {workdir}\n" in planned.stdout
    # What was tuned for a system, unless the command says otherwise.
    tuned = "--config.model_free.learning_rates.actor="
    assert planned.stdout.count(f"{tuned}3e-4") == 4
    other = call(*sweep, "--commands", "--override=model_free.learning_rates.actor=7")
    assert f"{tuned}7 " in other.stdout and f"{tuned}3e-4" not in other.stdout
    named = call(*sweep, "--tasks=mixed")
    assert "13 waiting" in named.stdout and "mixed-bc-seeds0-1" in named.stdout


def test_a_figure_is_listed_done_and_taken_up(tmp_path):
    figure = ["--figure=3", "--size=tiny", "--seeds=2", f"--out={tmp_path}"]
    listed = call(*figure, "--commands")
    assert listed.returncode == 0
    assert "10 waiting" in listed.stdout
    assert "--config.moto.alpha=0 --config.moto.beta=0" in listed.stdout
    assert not list(tmp_path.iterdir())
    one_task = call(*figure, "--tasks=partial")
    assert "5 waiting" in one_task.stdout

    how = "unlucky:mixed-moto-no_prior"
    first = call(*figure, "--run=local", "--jobs=2", how=how)
    assert first.returncode == 1, first.stderr
    assert "9 done, 1 failed" in first.stdout
    assert "mixed-moto-no_prior-seeds0-1" in first.stdout
    assert "error: the first time" in first.stdout
    begun = len(journal(tmp_path))

    second = call(*figure, "--run=local", how=how)
    assert second.returncode == 0, second.stderr
    assert "10 done" in second.stdout
    table = (tmp_path / "table.md").read_text()
    assert table.startswith("Figure 3, tiny\n")
    assert "partial-dreamer_v2-seeds0-1/seed1" in table
    assert journal(tmp_path)[begun:] == [
        f"mixed-moto-no_prior-seeds0-1 {what}" for what in ("begins", "ends")
    ]


def test_ctrl_c_in_a_terminal_lets_the_runs_save(tmp_path):
    words = ["--figure=3", "--size=tiny", "--seeds=1", f"--out={tmp_path}"]
    command = program(*words, "--run=local", "--jobs=1", how="stop")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, process_group=0
    ) as process:
        until((tmp_path / "mixed-moto-seed0/listens").exists)
        os.killpg(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert "1 stopped, 9 waiting" in output
    assert journal(tmp_path)[-1] == "mixed-moto-seed0 saves"


def test_a_run_is_running_as_long_as_its_process_is_though_the_launcher_is_killed(
    tmp_path,
):
    run = fake(tmp_path, "a", "stop")
    launcher = (
        "import pathlib, sys, launch.local, tests.test_sweeps as here;"
        "here.do([here.fake(sys.argv[1], 'a', 'stop')])"
    )
    with subprocess.Popen([sys.executable, "-c", launcher, str(tmp_path)]) as process:
        until((run.workdir / "listens").exists)
        process.kill()
    (run.workdir / ".lock").unlink()
    assert read_status(run).state == "running"
    child, _ = map(int, (run.workdir / "listens").read_text().split())
    os.kill(child, signal.SIGTERM)
    until(lambda: read_status(run).state != "running")
    assert read_status(run).state == "stopped"


# Runs that follow one another.


def test_stages_begin_with_what_the_one_before_left(tmp_path):
    done = call(
        f"--out={tmp_path}",
        "--seed=3",
        "--override=actor_critic.tau=0.5",
        launcher="stages",
    )
    assert done.returncode == 0, done.stderr
    assert "4 done" in done.stdout
    begun = [line.split()[0] for line in journal(tmp_path) if line.endswith("begins")]
    assert begun == [f"partial-{name}-seed3" for name in STAGES]
    ended = [line.split()[0] for line in journal(tmp_path)[1::2]]
    assert ended == begun
    configs = [
        json.loads((tmp_path / name / "config.json").read_text()) for name in begun
    ]
    assert [one.get("init_from") for one in configs] == [
        None,
        *(str(tmp_path / name) for name in begun[:-1]),
    ]
    assert all(
        one["seeds"] == [3] and one["actor_critic.tau"] == 0.5 for one in configs
    )
    assert [one.get("moto.value_scale") for one in configs] == [None, 0.25, 0.01, 0.01]
    # The first has the offline phase.
    offline = [one["training"]["offline_updates"] for one in configs]
    assert offline[0] > 0 and offline[1:] == [0, 0, 0]


def test_a_stage_that_fails_ends_the_chain_which_goes_on_with_the_same_command(
    tmp_path,
):
    words = [f"--out={tmp_path}"]
    how = "unlucky:partial-prefer-seed0"
    first = call(*words, how=how, launcher="stages")
    assert first.returncode == 1
    assert "1 done, 1 failed, 2 waiting" in first.stdout
    assert "error: the first time" in first.stdout
    begun = len(journal(tmp_path))
    second = call(*words, how=how, launcher="stages")
    assert second.returncode == 0, second.stderr
    again = [line for line in journal(tmp_path)[begun:] if line.endswith("begins")]
    assert again == [f"partial-{name}-seed0 begins" for name in STAGES[1:]]


@pytest.mark.parametrize("key", ["critic.taus", "moto.value_scale", "init_from"])
def test_stages_refuse_a_key_that_is_none_or_their_own(tmp_path, key):
    out = tmp_path / "out"
    done = call(f"--out={out}", f"--override={key}=1", launcher="stages")
    assert done.returncode == 1 and not out.exists()
    assert done.stderr.startswith("error: ") and key in done.stderr
