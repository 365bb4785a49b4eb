"""What cannot be written is told of in one sentence that names it."""

import contextlib
import resource
import subprocess
import sys

import pytest

from moto_jax.data.files import write_atomically
from moto_jax.running.metrics import MetricsWriter
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
    assert "Traceback" not in done.stderr and "orbax" not in done.stderr


@contextlib.contextmanager
def files_bounded(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    path = tmp_path / "000000.npz"
    path.write_bytes(b"before")
    with pytest.raises(OSError, match="File too large.*000000.npz"), files_bounded(9):
        write_atomically(path, bytes(1000))
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"before"]


def test_a_line_that_cannot_be_written_names_its_file(tmp_path):
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, "offline", {"loss": 0.5})
        whole = (tmp_path / "metrics.jsonl").read_bytes()
        with (
            pytest.raises(OSError, match=r"File too large.*metrics\.jsonl"),
            files_bounded(len(whole) + 9),
        ):
            writer.write(2, "offline", {"loss": 0.5})
        assert (tmp_path / "metrics.jsonl").read_bytes() == whole
        writer.write(2, "offline", {"loss": 0.5})
