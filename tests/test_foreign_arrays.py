"""Npz files that others wrote: what NumPy may write is read, and nothing is trusted."""

import io
import os
import zipfile

import numpy as np
import pytest

from moto_jax.data.files import DatasetError, array_names, read_foreign_arrays
from tests.test_episodes import Canary, write_npz

BOUND = 2**20
WANTED = {"reward": ("fiub", 1), "image": ("u", 4)}


def archive(**fields) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **fields)
    return buffer.getvalue()


def member(name, contents) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(f"{name}.npy", contents)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "reward",
    [
        np.arange(3, dtype=np.float64),
        np.arange(3, dtype=np.float16),
        np.arange(3, dtype=">f4"),
        np.arange(3, dtype=np.int64),
        np.array([False, True, True]),
    ],
)
def test_any_numbers_are_read_and_other_members_are_not(reward):
    contents = archive(reward=reward, log_note="words", proprio=np.zeros((3, 60)))
    fields = read_foreign_arrays(contents, WANTED, BOUND)
    assert fields.keys() == {"reward"}
    np.testing.assert_array_equal(fields["reward"], reward)
    assert sorted(array_names(contents)) == ["log_note", "proprio", "reward"]


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_every_version_and_order_of_an_array_is_read(version):
    image = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    for ordered in (image, np.asfortranarray(image)):
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, ordered, version)
        contents = member("image", buffer.getvalue())
        found = read_foreign_arrays(contents, WANTED, BOUND)["image"]
        np.testing.assert_array_equal(found, image)


@pytest.mark.parametrize(
    ("reward", "fault"),
    [
        (np.array(["a", "b"]), "instead of float or int or uint or bool"),
        (np.zeros((2, 1)), r"float64\[2, 1\] instead of"),
        (np.zeros(0), r"float64\[0\] instead of"),
        (np.zeros(2, np.complex64), "instead of"),
        (np.zeros(2, [("a", "f4")]), "instead of"),
        (np.zeros(BOUND, np.float32), "over the bound of 1 MiB"),
    ],
)
def test_a_field_of_another_kind_is_named(reward, fault):
    with pytest.raises(DatasetError, match=f"'reward'.*{fault}"):
        read_foreign_arrays(archive(reward=reward), WANTED, BOUND)


def test_no_pickle_is_opened_wanted_or_not(tmp_path):
    canary = tmp_path / "canary"
    objects = np.array([Canary(canary)] * 3, object)
    write_npz(tmp_path / "a.npz", {"reward": objects}, allow_pickle=True)
    with pytest.raises(DatasetError, match="'reward'"):
        read_foreign_arrays((tmp_path / "a.npz").read_bytes(), WANTED, BOUND)
    fields = {"reward": np.zeros(3), "more": objects}
    write_npz(tmp_path / "b.npz", fields, allow_pickle=True)
    found = read_foreign_arrays((tmp_path / "b.npz").read_bytes(), WANTED, BOUND)
    assert found.keys() == {"reward"}
    assert not canary.exists()


def test_a_header_that_lies_takes_no_memory():
    header = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (10**12,)}
    np.lib.format.write_array_header_2_0(header, shape)
    with pytest.raises(DatasetError, match="'reward'.*over the bound"):
        read_foreign_arrays(member("reward", header.getvalue()), WANTED, BOUND)
    header = io.BytesIO()
    shape["shape"] = (5,)
    np.lib.format.write_array_header_1_0(header, shape)
    for data in (bytes(2**22), bytes(19)):
        contents = member("reward", header.getvalue() + data)
        with pytest.raises(DatasetError, match="'reward' ends after .* or goes on"):
            read_foreign_arrays(contents, WANTED, BOUND)


@pytest.mark.parametrize("damage", ["text", "truncated", "flipped", "no array"])
def test_damage_is_found(damage):
    contents = archive(reward=np.random.default_rng(0).random(1000))
    if damage == "text":
        contents = b"<html>too many downloads</html>"
    elif damage == "truncated":
        contents = contents[: len(contents) // 2]
    elif damage == "flipped":
        middle = len(contents) // 2
        contents = (
            contents[:middle] + bytes([contents[middle] ^ 4]) + contents[middle + 1 :]
        )
    else:
        contents = member("reward", os.urandom(100))
    with pytest.raises(DatasetError):
        read_foreign_arrays(contents, WANTED, BOUND)
