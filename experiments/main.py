"""The command `moto-jax`: the programs of this folder by one name.

moto-jax train --config=mixed:cpu
moto-jax evaluate --checkpoint=runs/mixed-cpu-moto-seed0
moto-jax watch

Each is `python -m` of its module, with its flags; `moto-jax NAME --help` tells them.
"""

import runpy
import sys

# Name -> module, and what it does.
PROGRAMS = {
    "train": ("experiments.run", "demonstrations, offline and online training"),
    "evaluate": ("experiments.evaluate", "plays a run's checkpoint or a policy's file"),
    "watch": ("experiments.watch", "plays the trained policy, counts, makes a video"),
    "export": ("experiments.export", "writes a run's policy as one small file"),
    "data": ("experiments.data", "converts, checks and shows demonstrations"),
    "figures": ("experiments.figures", "draws the paper's figures from runs"),
    "report": ("experiments.report", "one page about runs: curves, videos, times"),
    "sweep": ("launch.sweeps", "a figure's runs, here or on a cluster"),
    "benchmark": ("experiments.benchmark", "speed and memory, beside references"),
    "compare": ("experiments.compare", "a run within the band of committed ones"),
    "doctor": ("experiments.doctor", "whether a run would start on this machine"),
}


def usage() -> str:
    """Returns what there is."""
    width = max(map(len, PROGRAMS))
    lines = [f"  {name:<{width}}  {what}" for name, (_, what) in PROGRAMS.items()]
    return "\n".join(["usage: moto-jax PROGRAM [--flags]", "", *lines])


def main() -> None:
    """Hands the rest of the command line to the program that its first word names."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "help"):
        print(usage())
        return
    if name not in PROGRAMS:
        sys.exit(
            f"error: moto-jax has no program {name!r}: use one of {', '.join(PROGRAMS)}"
        )
    module, _ = PROGRAMS[name]
    sys.argv = [f"moto-jax {name}", *rest]
    runpy.run_module(module, run_name="__main__", alter_sys=False)


if __name__ == "__main__":
    main()
