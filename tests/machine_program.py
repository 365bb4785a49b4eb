"""One of several processes that do one run of fakes; tests start them.

    JAX_COORDINATOR_ADDRESS=localhost:PORT JAX_NUM_PROCESSES=2 JAX_PROCESS_ID=1 \
        python -m tests.machine_program WORKDIR GROUPS [SIGNAL PROCESS UPDATE [IDLE]]

Trains two seeds on as many devices as there are processes, in GROUPS groups. The
signal, if any, comes to one process at the end of an update; with IDLE the others sleep
then, and call a process dead that is silent for five seconds. The kitchens are never
drawn; everything else is the program's own.
"""

import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax

from experiments import run
from moto_jax.acting.worker_pool import WorkerPool
from moto_jax.running import machines
from tests.fake_kitchen import FakeKitchen
from tests.fake_training import install, on_update, small_config

SEEDS = (4, 0)


def config_of(groups: int, width: int, distributed: bool):
    config = small_config(offline_updates=22, checkpoint_every=10)
    config.seeds = SEEDS
    config.mesh.update(seed=groups, data=width)
    config.distributed = distributed
    return config


def main(workdir: str, groups: str, *interruption: str) -> None:
    counts = [os.environ.get(name) for name in ("JAX_NUM_PROCESSES", "SLURM_NTASKS")]
    processes = int(next(filter(None, counts), 1))
    config = config_of(int(groups), processes // int(groups), processes > 1)
    if interruption:
        number, process, update = map(int, interruption[:3])
        idle = len(interruption) > 3
        if idle:
            machines._HEARTBEAT_SECONDS = 5

        def interrupt(done: int) -> None:
            if done == update:
                if jax.process_index() == process:
                    os.kill(os.getpid(), number)
                elif idle:
                    time.sleep(60)

        on_update(setattr, interrupt)
    run._CONFIG = SimpleNamespace(value=config)
    run._WORKDIR = SimpleNamespace(value=workdir)
    run._ALLOW_VERSION_CHANGE = SimpleNamespace(value=False)
    run._INIT_FROM = SimpleNamespace(value=None)
    run._FRESH = SimpleNamespace(value=False)
    run.curves = lambda directories, path: Path(path).write_bytes(b"")
    with WorkerPool(FakeKitchen, num_workers=1) as pool:
        install(setattr, pool)
        run.main(["run.py"])


if __name__ == "__main__":
    # A shell's background jobs are started with interrupts ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(*sys.argv[1:])
