"""launch.sweeps whose runs are fakes: the first word is what becomes of each."""

import functools
import sys

from experiments.command_line import run_program
from launch import sweeps, tables

if __name__ == "__main__":
    program = (sys.executable, "-m", "tests.fake_run", sys.argv.pop(1))
    sweeps.sweep_runs = functools.partial(tables.sweep_runs, program=program)
    run_program(sweeps.main)
