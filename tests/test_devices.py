import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs.base import get_config
from moto_jax.running import devices

ROOT = Path(__file__).parents[1]
PIXELS = 64 * 64 * 3


@pytest.fixture(scope="module")
def facts():
    """Runs an update on a mesh of forced CPU devices; returns what it tells."""
    told = {}

    def facts(groups, width, agent="moto"):
        key = agent, str(groups), str(width)
        if key not in told:
            done = subprocess.run(
                [sys.executable, "-m", "tests.device_program", *key],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                timeout=600,
            )
            assert done.returncode == 0, done.stderr
            told[key] = json.loads(done.stdout.splitlines()[-1])
        return told[key]

    return facts


# Compiling for one takes a minute; the last has seeds and batches spread, both at once.
MESHES = [
    pytest.param(2, 1, marks=pytest.mark.slow),
    pytest.param(1, 2, marks=pytest.mark.slow),
    (2, 2),
]


@pytest.mark.parametrize(("groups", "width"), MESHES)
def test_an_update_on_several_devices_is_that_on_one(facts, groups, width):
    one, several = facts(1, 1), facts(groups, width)
    assert several["mesh"] == [groups, width]
    for ours, theirs in zip(several["metrics"], one["metrics"], strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_allclose(ours[name], theirs[name], 1e-4, 1e-6, name)
    np.testing.assert_allclose(several["params"], one["params"], 1e-3, 2e-5)
    np.testing.assert_allclose(several["acting"], one["acting"], 1e-3, 2e-5)


@pytest.mark.parametrize(("groups", "width"), MESHES)
def test_images_stay_where_they_are(facts, groups, width):
    told = facts(groups, width)
    # Two seeds, six rows, four sequences.
    share = [2 // groups, 6, 4 // width, 64, 64, 3]
    assert told["image_shards"] == [share] * (groups * width)
    gathered = {
        kind: size for kind, size in told["collectives"].items() if kind != "all-reduce"
    }
    # The returns whose percentiles are taken, and nothing of an image's size.
    assert all(size < PIXELS / 4 for size in gathered.values()), gathered
    # Nor do images travel as a sum: those of one sequence are six times as large.
    assert all(size < 2 * PIXELS for size in told["collectives"].values())


@pytest.mark.parametrize(("groups", "width"), MESHES)
def test_gradients_are_summed_over_a_group_and_never_over_seeds(facts, groups, width):
    told = facts(groups, width)
    assert {shape[0] for shape in told["params_shards"]} == {2 // groups}
    assert len(told["params_shards"]) == groups * width
    if width > 1:
        # The sum of the decoder's largest kernel is among them.
        assert told["collectives"]["all-reduce"] > 100
    else:
        # Metrics alone are for every process to see: one number a seed.
        assert all(size <= 2 for size in told["collectives"].values())


@pytest.mark.slow
def test_stacks_of_frames_stay_where_they_are_too(facts):
    one, two = facts(1, 1, "cql"), facts(1, 2, "cql")
    for ours, theirs in zip(two["metrics"], one["metrics"], strict=True):
        for name in ours:
            np.testing.assert_allclose(ours[name], theirs[name], 1e-3, 1e-5, name)
    # Gradients of the encoder's largest kernel, of 16 x 32 channels at most.
    assert all(size < PIXELS / 2 for size in two["collectives"].values())


def laid(devices_, **changes):
    config = get_config("tiny")
    config.update_from_flattened_dict(changes)
    return devices.make_mesh(config, 12, devices_)


@dataclasses.dataclass(frozen=True)
class PretendedDevice:
    """A mesh asks little of its devices."""

    id: int
    process_index: int
    platform: str = "cpu"
    device_kind: str = "pretended"


def pretend(count, processes=1):
    return [
        PretendedDevice(number, number * processes // count) for number in range(count)
    ]


@pytest.mark.parametrize(
    ("count", "changes", "shape"),
    [
        (1, {}, (1, 1)),
        (1, {"seeds": (0, 1, 2)}, (1, 1)),
        (4, {"seeds": (0, 1, 2, 3)}, (4, 1)),
        (4, {"seeds": (0, 1)}, (2, 2)),
        (4, {}, (1, 4)),
        (4, {"seeds": (0, 1, 2, 3), "mesh.seed": 1}, (1, 4)),
        (4, {"seeds": (0, 1, 2, 3), "mesh.data": 2}, (2, 2)),
        # Five do not divide twelve sequences: one device serves.
        (5, {}, (1, 1)),
        (8, {}, (1, 4)),
        (8, {"mesh.seed": 1, "mesh.data": 2}, (1, 2)),
    ],
)
def test_a_mesh_takes_the_devices_that_divide(count, changes, shape):
    assert laid(pretend(count), **changes).devices.shape == shape


@pytest.mark.parametrize(
    ("count", "changes", "culprits"),
    [
        (4, {"mesh.data": -1}, ["config.mesh.data is -1"]),
        (4, {"mesh.seed": 2}, ["1 seeds", "config.seeds", "config.mesh.seed"]),
        (8, {"mesh.data": 8}, ["12", "config.replay.batch_size", "config.mesh.data"]),
        (4, {"mesh.data": 6}, ["config.mesh.data 6", "4 devices"]),
    ],
)
def test_what_does_not_divide_names_the_keys(count, changes, culprits):
    with pytest.raises(ValueError) as error:
        laid(pretend(count), **changes)
    assert all(culprit in str(error.value) for culprit in culprits)
    assert "\n" not in str(error.value)


class Sharding:
    """What a process with three of six devices holds, laid 3 x 2."""

    def addressable_devices_indices_map(self, shape):
        cells = [(0, 0), (0, 6), (1, 0)]
        return {
            number: (slice(row, row + 1), slice(None), slice(column, column + 6))
            for number, (row, column) in enumerate(cells)
        }


def test_what_a_process_holds_must_be_a_rectangle(monkeypatch):
    monkeypatch.setattr(devices, "batch_sharding", lambda mesh: Sharding())
    mesh = laid(pretend(6), seeds=(0, 1, 2), **{"mesh.data": 2})
    with pytest.raises(ValueError, match=r"config\.mesh\.data"):
        devices.own_share(mesh, 3, 12)


def test_a_copy_is_the_seeds_own_and_outlives_the_update():
    params = {"weight": jnp.arange(6.0).reshape(3, 2)}
    copied = devices.local_copy(params, [2, 0])
    # As donating them does.
    params["weight"].delete()
    np.testing.assert_array_equal(copied["weight"], [[4.0, 5.0], [0.0, 1.0]])
    assert copied["weight"].committed


def test_a_mesh_is_told_in_words(monkeypatch):
    mesh = laid(pretend(4), seeds=(0, 1))
    monkeypatch.setattr(jax, "device_count", lambda: 5)
    assert (
        devices.describe(mesh) == "2 groups of 2 x pretended; 1 of 5 devices stay idle"
    )
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    assert devices.describe(mesh) == "2 groups of 2 x pretended"


def test_a_placed_batch_outlives_the_buffer_it_came_from():
    """Even one aligned so that a CPU's arrays could be the buffer itself."""
    size = 2 * 3 * 4 * 64
    raw = np.zeros(size + 64, np.uint8)
    offset = -raw.ctypes.data % 64
    buffer = raw[offset : offset + size].reshape(2, 3, 4, 64)
    mesh = laid(None, seeds=(0, 1), **{"mesh.seed": 1, "mesh.data": 1})
    placed = jax.block_until_ready(devices.place_batch(buffer, 2, 4, mesh))
    buffer[:] = 1
    np.testing.assert_array_equal(placed, np.zeros((2, 3, 4, 64)))


def test_several_processes_must_all_take_part():
    with pytest.raises(ValueError, match="leaves 1 of 5 devices idle"):
        laid(pretend(5, processes=5), **{"mesh.data": 4})
    assert laid(pretend(4, processes=2)).devices.shape == (1, 4)
