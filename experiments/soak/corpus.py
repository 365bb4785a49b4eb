"""Forty data sets that are wrong, each in one way, and what must be said of each."""

import functools
import hashlib
import io
import itertools
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from experiments.soak.reading import PROFILE, SIZE

ROWS, ACTIONS = 7, 9
FILE = "000000.npz"
D4RL_FILE, MINARI_FILE = "kitchen.hdf5", "main_data.hdf5"
# What a bomb unpacks to.
_GIGABYTE = 10**9

Fields = dict[str, Any]


class Malformed(NamedTuple):
    """A data set with a fault.

    Attributes:
      name: of the fault.
      reader: by which it is read, of `reading.READERS`.
      make: (an empty directory) -> what is read.
      told: words that the error must hold: the file, and the field where there is one.
    """

    name: str
    reader: str
    make: Callable[[Path], Path]
    told: tuple[str, ...]


def valid_fields() -> Fields:
    """Returns the fields of an episode of ours."""
    generator = np.random.default_rng(0)
    return {
        "image": generator.integers(0, 256, (ROWS, SIZE, SIZE, 3), np.uint8),
        "action": generator.uniform(-1, 1, (ROWS - 1, ACTIONS)).astype(np.float32),
        "reward": np.arange(ROWS, dtype=np.float32),
    }


def npz(fields: Mapping[str, Any]) -> bytes:
    """Returns an archive of the fields.

    A field may be the member's bytes, or what yields them piece by piece.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in fields.items():
            if isinstance(value, np.ndarray):
                member = io.BytesIO()
                np.lib.format.write_array(member, value, (1, 0))
                value = member.getvalue()
            pieces: Any = value() if callable(value) else [value]
            with archive.open(f"{name}.npy", "w") as file:
                for piece in pieces:
                    file.write(piece)
    return buffer.getvalue()


def header(text: str, length: int | None = None) -> bytes:
    """Returns how an npy member begins whose header is the text."""
    encoded = text.encode()
    size = len(encoded) if length is None else length
    return b"\x93NUMPY\x01\x00" + size.to_bytes(2, "little") + encoded


def claim(shape: tuple[int, ...], descr: str = "|u1") -> bytes:
    """Returns a header that promises an array, with no data behind it."""
    text = {"descr": descr, "fortran_order": False, "shape": shape}
    return header(f"{text}\n")


def write_dataset(directory: Path, contents: bytes, **manifest: Any) -> Path:
    """Writes a dataset of ours of one file, whose checksum is right."""
    dataset = directory / "dataset"
    dataset.mkdir()
    (dataset / FILE).write_bytes(contents)
    record = {
        "file": FILE,
        "sha256": hashlib.sha256(contents).hexdigest(),
        "rows": ROWS,
        "objects": [],
        "attempts": 1,
    }
    record |= manifest.pop("record", {})
    described = {
        "format": 1,
        "source": "soak",
        "render_profile": PROFILE,
        "image_size": SIZE,
        "mujoco_version": "",
        "request": {},
        "episodes": [record],
    }
    (dataset / "manifest.json").write_text(json.dumps(described | manifest))
    return dataset


def flip(contents: bytes, place: float, bit: int = 3) -> bytes:
    """Returns the contents with one bit flipped, at a share of their length."""
    changed = bytearray(contents)
    changed[int(place * len(changed))] ^= 1 << bit
    return bytes(changed)


def bomb(shape: tuple[int, ...]) -> Iterator[bytes]:
    """Yields an npy member of zeros that take a gigabyte."""
    yield claim(shape)
    yield from itertools.repeat(bytes(10**6), _GIGABYTE // 10**6)


def dataset_of(change: Callable[[Fields], Any], directory: Path) -> Path:
    """Writes a dataset of a valid episode that is changed, or is what that gives."""
    fields = valid_fields()
    changed = change(fields)
    contents = changed if isinstance(changed, bytes) else npz(fields)
    return write_dataset(directory, contents)


def pixels_of(change: Callable[[Fields], Any], directory: Path) -> Path:
    """Writes a folder of one episode as others write it, changed."""
    fields = valid_fields()
    fields["action"] = np.concatenate([np.zeros((1, ACTIONS)), fields["action"]])
    changed = change(fields)
    folder = directory / "pixels"
    folder.mkdir()
    contents = changed if isinstance(changed, bytes) else npz(fields)
    (folder / FILE).write_bytes(contents)
    return folder


def d4rl_of(change: Callable[[h5py.File, Path], Any], directory: Path) -> Path:
    """Writes a file of D4RL's layout, changed."""
    path = directory / D4RL_FILE
    with h5py.File(path, "w") as file:
        file["observations"] = np.zeros((8, 60), np.float32)
        file["actions"] = np.zeros((8, ACTIONS), np.float32)
        file["terminals"] = np.arange(8) == 7
        change(file, directory)
    return path


def minari_of(change: Callable[[h5py.Group], Any], directory: Path) -> Path:
    """Writes a file of Minari's layout, changed."""
    path = directory / MINARI_FILE
    with h5py.File(path, "w") as file:
        group = file.create_group("episode_0")
        group["observations/observation"] = np.zeros((8, 59))
        group["actions"] = np.zeros((7, ACTIONS), np.float32)
        change(group)
    return path


def _put(name: str, value: Any) -> Callable[..., None]:
    """Returns what replaces a field, of a dictionary or of a file."""

    def change(fields: Any, *unused: Any) -> None:
        if name in fields:
            del fields[name]
        if value is not None:
            fields[name] = value

    return change


def _set(name: str, place: Any, value: Any) -> Callable[[Fields], None]:
    """Returns what changes one number of a field."""

    def change(fields: Fields) -> None:
        fields[name][place] = value

    return change


def _shortened(name: str) -> Callable[[Fields], None]:
    def change(fields: Fields) -> None:
        fields[name] = fields[name][:-1]

    return change


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Fields], bytes]:
    """Returns what changes the archive itself."""
    return lambda fields: change(npz(fields))


def _twice(contents: bytes) -> bytes:
    """Returns an archive with a second member of a name that it has."""
    buffer = io.BytesIO(contents)
    with zipfile.ZipFile(buffer, "a") as archive:
        # Under another name first, for Python warns of one that is there.
        archive.writestr("reward.npz", b"x")
    return buffer.getvalue().replace(b"reward.npz", b"reward.npy")


def _outside(contents: bytes) -> bytes:
    buffer = io.BytesIO(contents)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("../../outside.npy", b"x")
    return buffer.getvalue()


def _dead_link(directory: Path) -> Path:
    dataset = write_dataset(directory, npz(valid_fields()))
    (dataset / FILE).rename(directory / "elsewhere.npz")
    (dataset / FILE).symlink_to(directory / "elsewhere.npz")
    return dataset


def _rotten(directory: Path) -> Path:
    dataset = write_dataset(directory, npz(valid_fields()))
    (dataset / FILE).write_bytes(flip((dataset / FILE).read_bytes(), 0.5))
    return dataset


def _manifest(text: str, directory: Path) -> Path:
    dataset = write_dataset(directory, npz(valid_fields()))
    (dataset / "manifest.json").write_text(text)
    return dataset


def _manifest_of(changes: Mapping[str, Any], directory: Path) -> Path:
    return write_dataset(directory, npz(valid_fields()), **changes)


def _external_storage(file: h5py.File, directory: Path) -> None:
    (directory / "raw").write_bytes(bytes(8 * 60 * 4))
    del file["observations"]
    file.create_dataset(
        "observations", (8, 60), "f4", external=[(str(directory / "raw"), 0, 8 * 240)]
    )


def _virtual(file: h5py.File, directory: Path) -> None:
    layout = h5py.VirtualLayout((8, 60), np.float32)
    layout[:] = h5py.VirtualSource(str(directory / "other.hdf5"), "x", (8, 60))
    del file["observations"]
    file.create_virtual_dataset("observations", layout)


def _large(file: h5py.File, _: Path) -> None:
    # None of it is stored: it would be a gigabyte of zeros once it is read.
    del file["observations"]
    rows = _GIGABYTE // 240
    file.create_dataset("observations", (rows, 60), "f4", chunks=(1000, 60))


def _cut_d4rl(directory: Path) -> Path:
    path = d4rl_of(lambda *unused: None, directory)
    os.truncate(path, path.stat().st_size // 2)
    return path


def _dataset(name: str, change: Callable[[Fields], Any], *told: str) -> Malformed:
    make = functools.partial(dataset_of, change)
    return Malformed(f"{name}, ours", "dataset", make, (FILE, *told))


def _described(name: str, make: Callable[[Path], Path], *told: str) -> Malformed:
    return Malformed(f"{name}, ours", "dataset", make, told)


def _pixels(name: str, change: Callable[[Fields], Any], *told: str) -> Malformed:
    make = functools.partial(pixels_of, change)
    return Malformed(f"{name}, pixels", "pixels", make, (FILE, *told))


def _d4rl(name: str, change: Callable[[h5py.File, Path], Any], *told: str) -> Malformed:
    make = functools.partial(d4rl_of, change)
    return Malformed(f"{name}, D4RL", "d4rl", make, (D4RL_FILE, *told))


def _minari(name: str, change: Callable[[h5py.Group], Any], *told: str) -> Malformed:
    make = functools.partial(minari_of, change)
    return Malformed(f"{name}, Minari", "minari", make, (MINARI_FILE, *told))


_FRAMES = (ROWS, SIZE, SIZE, 3)
_DEEP = 100_000 * "["
_BIG = (_GIGABYTE // (3 * SIZE * SIZE), SIZE, SIZE, 3)
_MANIFEST = "manifest.json"
_LONG_HEADER = header(f"{'{'}{60_000 * ' '}{'}'}\n")

CORPUS = (
    _dataset("missing field", _put("action", None), "action"),
    _dataset("another dtype", _put("image", np.zeros(_FRAMES, np.float32)), "image"),
    _dataset("another shape", _put("image", np.zeros(_FRAMES[:3], np.uint8)), "image"),
    _dataset("NaN", _set("reward", 3, np.nan), "reward"),
    _dataset("infinite", _set("action", (0, 0), np.inf), "action"),
    _dataset("out of range", _set("action", (2, 1), 1.5), "action"),
    _dataset("lengths differ", _shortened("reward"), "reward"),
    _dataset("no rows", _put("reward", np.zeros(0, np.float32)), "reward"),
    _dataset("unknown field", _put("extra", np.zeros(3)), "extra"),
    _dataset("truncated", _bytes(lambda contents: contents[:-400])),
    _dataset("bit flip in data", _bytes(lambda contents: flip(contents, 0.4))),
    _dataset("empty file", lambda fields: b""),
    _dataset("field twice", _bytes(_twice), "reward"),
    _dataset("path in the archive", _bytes(_outside), "outside"),
    _dataset("long header", _put("image", _LONG_HEADER), "image"),
    _dataset("header of no array", _put("image", header("__import__('os')")), "image"),
    _dataset("shape beyond the data", _put("image", claim(_FRAMES)), "image"),
    _dataset("shape beyond memory", _put("image", claim((2**40, 9, 9, 3))), "image"),
    _dataset("1 GB bomb", _put("image", lambda: bomb(_BIG)), "image"),
    _dataset("field of objects", _put("reward", claim((ROWS,), "|O")), "reward"),
    _described("rotten file", _rotten, FILE, "sha256"),
    _described("symbolic link", _dead_link, FILE),
    _described("no JSON", functools.partial(_manifest, "{"), _MANIFEST),
    _described("nested deep", functools.partial(_manifest, _DEEP), _MANIFEST),
    _described(
        "path in the manifest",
        functools.partial(_manifest_of, {"record": {"file": "../000000.npz"}}),
        *(_MANIFEST, "file"),
    ),
    _described(
        "text for a number",
        functools.partial(_manifest_of, {"image_size": "16"}),
        *(_MANIFEST, "image_size"),
    ),
    _pixels("missing reward", _put("reward", None), "reward"),
    _pixels("NaN", _set("action", (3, 0), np.nan), "action"),
    _pixels("lengths differ", _shortened("action"), "action"),
    _pixels("action before the first", _set("action", (0, 0), 0.5), "action"),
    _pixels("starts twice", _put("is_first", np.arange(ROWS) % 4 == 0), "is_first"),
    _pixels("field of objects", _put("reward", claim((ROWS,), "|O")), "reward"),
    _pixels("1 GB bomb", _put("image", lambda: bomb(_BIG)), "image"),
    _d4rl("59 columns", _put("observations", np.zeros((8, 59))), "observations"),
    _d4rl("link", _put("actions", h5py.ExternalLink("x.hdf5", "/a")), "actions"),
    _d4rl("external storage", _external_storage, "observations"),
    _d4rl("virtual dataset", _virtual, "observations"),
    _d4rl("1 GB of nothing", _large, "observations"),
    Malformed("truncated, D4RL", "d4rl", _cut_d4rl, (D4RL_FILE,)),
    _minari("60 columns", _put("observations", np.zeros((8, 60))), "observations"),
)
