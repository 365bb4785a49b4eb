"""The processes of one run: one of them is killed, stopped or cut off."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from experiments.soak.runs import (
    Program,
    World,
    metrics,
    require_one_sentence,
    require_same_end,
)
from experiments.soak.trials import CannotTryError, Lost, Outcome, shared

# What comes to one of the two.
FAULTS: tuple[str, ...] = ("killed", "stopped (SIGSTOP)", "cut off")

_END_WITHIN_S = 60.0
_SEEDS = (0, 1)
_FLAGS = ("--config.distributed=true", "--config.seeds=0,1", "--config.mesh.seed=2")

# Of the two ends of a cable between two network namespaces.
_ADDRESSES = ("10.83.0.1", "10.83.0.2")

# Waits for its end of the cable, then becomes the program. JAX's collectives look for
# their own address under the machine's name.
_BEHIND_A_CABLE = """
mount --bind "$1" /etc/hosts && ip link set lo up || exit 9
until ip link set "$2" up 2>/dev/null; do sleep 0.05; done
ip address add "$3/24" dev "$2" || exit 9
shift 3
exec "$@"
"""


class Pair:
    """Two processes of one run, as a context: both are killed where it is left."""

    def __init__(self, world: World, workdir: Path, cable: bool = False):
        """Starts them.

        Args:
          world: where they learn.
          workdir: theirs.
          cable: whether each has a network of its own, with a cable between the two;
            else they find each other on this machine.

        Raises:
          CannotTryError: if this user cannot lay a cable.
        """
        self._ends = [f"moto{os.getpid() % 100_000}{end}" for end in "ab"]
        self._open = contextlib.ExitStack()
        host, port = (_ADDRESSES[0] if cable else "localhost"), _free_port()
        with self._open:
            folder = self._open.enter_context(tempfile.TemporaryDirectory())
            if cable:
                _lay(*self._ends)
                self._open.callback(_pull, self._ends[0])
            self.programs = [
                self._open.enter_context(
                    Program(
                        world,
                        workdir,
                        *_FLAGS,
                        environment={
                            "JAX_COORDINATOR_ADDRESS": f"{host}:{port}",
                            "JAX_NUM_PROCESSES": "2",
                            "JAX_PROCESS_ID": str(number),
                        },
                        through=self._through(number, Path(folder)) if cable else (),
                        name=f"-{number}",
                    )
                )
                for number in range(2)
            ]
            if cable:
                for end, program in zip(self._ends, self.programs, strict=True):
                    _plug(end, program.process.pid)
            self._open = self._open.pop_all()

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, *unused: object) -> None:
        self._open.close()

    def cut(self, number: int) -> None:
        """Takes the link of a process down."""
        process = self.programs[number].process.pid
        _ip("link", "set", self._ends[number], "down", inside=process)

    def _through(self, number: int, folder: Path) -> list[str]:
        hosts = folder / f"hosts{number}"
        address = _ADDRESSES[number]
        hosts.write_text(f"127.0.0.1 localhost\n{address} {socket.gethostname()}\n")
        return [
            *("unshare", "--net", "--mount", "--"),
            *("sh", "-c", _BEHIND_A_CABLE, "sh"),
            *(str(hosts), self._ends[number], address),
        ]


def unbroken(world: World, directory: Path) -> Path:
    """Returns the directory of such a run that nothing interrupted, made once."""

    def make(place: Path) -> None:
        _finish(world, place / "run")

    return shared(directory, f"unbroken-pair-{world.name}", make) / "run"


def broken(world: World, number: int, directory: Path) -> Outcome:
    """One of two meets a fault: the rest says so, and all go on to the same end."""
    fault, struck = FAULTS[number % 3], number // 3 % 2
    whole = unbroken(world, directory)
    workdir = directory / "run"
    shutil.copytree(whole / "dataset", workdir / "dataset")
    record = f"seed{_SEEDS[0]}"
    generator = np.random.default_rng([16, number])
    lines = int(generator.integers(1, len(metrics(whole / record)) - 1))
    with Pair(world, workdir, cable=fault == FAULTS[2]) as pair:
        hit, other = pair.programs[struck], pair.programs[1 - struck]
        if not other.until(lambda: len(metrics(workdir / record)) >= lines):
            raise Lost(f"ended before the fault: {other.last_words}", fault)
        time.sleep(generator.uniform(0.0, 0.5))
        start = time.monotonic()
        _strike(pair, struck, fault)
        said = _require_end(other, fault)
        seconds = time.monotonic() - start
        if fault != FAULTS[0]:
            # Woken, it learns what became of the others.
            hit.process.send_signal(signal.SIGCONT)
            _require_end(hit, fault)
    _finish(world, workdir)
    require_same_end(workdir, whole)
    return Outcome(f"process {struck} {fault}: {seconds:.0f} s, {said}", fault)


def _strike(pair: Pair, struck: int, fault: str) -> None:
    if fault == FAULTS[2]:
        pair.cut(struck)
    else:
        number = signal.SIGKILL if fault == FAULTS[0] else signal.SIGSTOP
        pair.programs[struck].process.send_signal(number)


def _require_end(program: Program, fault: str) -> str:
    try:
        return require_one_sentence(program, program.wait(_END_WITHIN_S), 1)
    except Lost as error:
        raise Lost(f"{fault}: {error}", fault) from None


def _finish(world: World, workdir: Path) -> None:
    with Pair(world, workdir) as pair:
        for program in pair.programs:
            if status := program.wait():
                raise Lost(
                    f"the same command ended with {status}: {program.last_words}"
                )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def _lay(one: str, other: str) -> None:
    if shutil.which("unshare") is None or os.geteuid() != 0:
        raise CannotTryError("a network of one's own takes root and `unshare`")
    _pull(one)
    _ip("link", "add", one, "type", "veth", "peer", "name", other)


def _pull(end: str) -> None:
    with contextlib.suppress(CannotTryError):
        _ip("link", "delete", end)


def _plug(end: str, process: int) -> None:
    """Gives an end of the cable to a process, once its network is its own."""
    ours = os.readlink("/proc/self/ns/net")
    while os.readlink(f"/proc/{process}/ns/net") == ours:
        time.sleep(0.01)
    _ip("link", "set", end, "netns", str(process))


def _ip(*words: str, inside: int | None = None) -> None:
    """Calls `ip`, in the network of a process where one is given."""
    enter = ["nsenter", f"--target={inside}", "--net"] if inside else []
    done = subprocess.run([*enter, "ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise CannotTryError(f"ip {' '.join(words)}: {done.stderr.strip()}")
