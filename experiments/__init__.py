"""Programs: train, evaluate, make datasets, draw figures."""

import os
import sys

from moto_jax import interruption

# What Python calls a program until it has found its file.
if sys.argv[:1] == ["-m"]:
    # Imports take seconds, in which nothing is held that would have to be given back.
    interruption.handle_with(interruption.end_at_once)
    # Pictures are drawn without windows. A notebook hands the backend of its own
    # windows to what it starts, where matplotlib may not have it.
    os.environ.pop("MPLBACKEND", None)
