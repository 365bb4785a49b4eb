"""Stands in for experiments.run: the same files, signals and statuses, in no time.

    python -m tests.fake_run HOW --config=... --config.seeds=0,1 --workdir=DIR

HOW is what becomes of it, in words separated by commas (see `_ACTS`). It adds the lines
"NAME begins" and "NAME ends" to DIR/../journal. Of the standard library alone, so that
it starts at once.
"""

import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

DEADLINE_SECONDS = 30

# Four updates.
TRAINING = {"offline_updates": 2, "online_episodes": 2, "updates_per_episode": 1}

# What a table of runs wants to know besides.
WHAT = {
    **{"task": "mixed", "size": "tiny", "evaluation": {"episodes": 1}},
    "env": {"episode_steps": 3},
}


def main():
    how, *words = sys.argv[1:]
    flags = dict(word.removeprefix("--").split("=", 1) for word in words)
    workdir = Path(flags["workdir"])
    workdir.mkdir(parents=True, exist_ok=True)
    lock = (workdir / ".lock").open("a")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    config = {
        key.removeprefix("config."): literal(value)
        for key, value in flags.items()
        if key.startswith("config.")
    }
    seeds = [int(seed) for seed in flags["config.seeds"].split(",")]
    training = {
        key: config.pop(f"training.{key}", value) for key, value in TRAINING.items()
    }
    config |= {"seeds": seeds, "training": training, **WHAT}
    (workdir / "config.json").write_text(json.dumps(config))
    write(workdir, seeds, step=2)
    journal(workdir, "begins")
    for act in how.split(","):
        name, _, argument = act.partition(":")
        _ACTS[name](workdir, argument)
    write(workdir, seeds, step=4, complete=True)
    journal(workdir, "ends")


def literal(text):
    try:
        return json.loads(text)
    except ValueError:
        return text


def write(workdir, seeds, step, complete=False):
    """Writes what a run has written after so many updates."""
    for seed in seeds:
        directory = workdir / f"seed{seed}" if len(seeds) > 1 else workdir
        directory.mkdir(exist_ok=True)
        if len(seeds) > 1:
            config = json.loads((workdir / "config.json").read_text())
            (directory / "config.json").write_text(
                json.dumps({**config, "seeds": [seed]})
            )
        row = {"step": step, "phase": "online", "wall_seconds": 30.0 * step}
        with (directory / "metrics.jsonl").open("a") as metrics:
            metrics.write(json.dumps(row) + "\n")
        if complete:
            (directory / "summary.json").write_text("{}")


def journal(workdir, what):
    line = f"{workdir.name} {what}\n".encode()
    file = os.open(workdir.parent / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line)
    os.close(file)


def until(condition):
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            sys.exit("error: waited in vain")
        time.sleep(0.01)


def linger(workdir, seconds):
    """Takes its time."""
    time.sleep(float(seconds))


def meet(workdir, number):
    """Goes on once so many runs have begun."""
    path = workdir.parent / "journal"
    until(lambda: path.read_text().count("begins") >= int(number))


def stop(workdir, seconds):
    """Waits for SIGTERM, saves for so long and leaves; once saved, goes on."""
    saved = workdir / "saved"
    if saved.exists():
        return
    received = []
    signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    listens = workdir / "listens"
    listens.with_suffix(".tmp").write_text(f"{os.getpid()} {os.getppid()}")
    listens.with_suffix(".tmp").replace(listens)
    until(lambda: received)
    # A second signal ends what the first has asked for.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    (workdir / "saving").touch()
    time.sleep(float(seconds or 0))
    saved.touch()
    journal(workdir, "saves")
    sys.exit(128 + received[0])


def refuse(workdir, unused):
    """Leaves as the programs here do where something is wrong."""
    print("error: of an earlier line")
    print("half a li", end="")
    sys.exit("\nerror: the [kettle] is cold")


def crash(workdir, unused):
    raise ZeroDivisionError("no [hob]")


def die(workdir, number):
    os.kill(os.getpid(), int(number))


def leave(workdir, status):
    """Says nothing and leaves."""
    os._exit(int(status))


def unlucky(workdir, part):
    """Fails if its name has the part, the first time."""
    if part not in workdir.name:
        return
    if not (workdir / "failed").exists():
        (workdir / "failed").touch()
        sys.exit("error: the first time")


_ACTS = {
    function.__name__: function
    for function in (linger, meet, stop, refuse, crash, die, leave, unlucky)
} | {"do": lambda workdir, argument: None}

if __name__ == "__main__":
    main()
