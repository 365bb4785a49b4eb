"""Sweeps: the paper's figures as tables of runs, here or on a cluster."""

import sys

from moto_jax import interruption

# As in experiments/__init__.py.
if sys.argv[:1] == ["-m"]:
    interruption.handle_with(interruption.end_at_once)
