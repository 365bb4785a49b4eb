"""A checkpoint that cannot be written is told of in one sentence, and nothing else."""

import subprocess
import sys

import pytest

from tests.programs import ROOT

PROGRAM = """
import resource, sys
import numpy as np
from absl import logging
from moto_jax.running import checkpoints
logging.set_verbosity(logging.WARNING)
state = {f"weight{number}": np.zeros(9, np.float32) for number in range(60)}
checkpoints.save(sys.argv[1], 1, state, {})
bound = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (bound, resource.RLIM_INFINITY))
try:
    checkpoints.save(sys.argv[1], 2, state, {})
except checkpoints.CheckpointError as error:
    print(error)
assert checkpoints.latest(sys.argv[1]) == 1
"""


@pytest.mark.parametrize("bound", [0, 3000, 8000])
def test_a_bound_on_files_is_told_of_once(tmp_path, bound):
    """The larger the bound, the later orbax meets it, and in another thread."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path), str(bound)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("checkpoint 2 could not be saved in ")
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
