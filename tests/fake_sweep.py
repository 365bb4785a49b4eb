"""A launcher whose runs are fakes: `python -m tests.fake_sweep HOW MODULE --flags`.

The first word is what becomes of each run, the second the launcher, such as sweeps.
"""

import functools
import importlib
import sys

from experiments.command_line import run_program

# Of each launcher the function that makes its runs.
_MAKERS = {"sweeps": "sweep_runs", "stages": "stage_runs"}

if __name__ == "__main__":
    fakes = (sys.executable, "-m", "tests.fake_run", sys.argv.pop(1))
    name = sys.argv.pop(1)
    launcher = importlib.import_module(f"launch.{name}")
    make = getattr(launcher, _MAKERS[name])
    setattr(launcher, _MAKERS[name], functools.partial(make, program=fakes))
    run_program(launcher.main)
