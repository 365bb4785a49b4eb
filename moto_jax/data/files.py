"""Files that are written whole or not at all, and npz archives read without trust.

A dataset may have been downloaded, copied half, or damaged on its disk. Whatever is
wrong with it, a reader meets a `DatasetError` that says where, and nothing else: no
pickle is opened, headers decide before memory is taken, and sizes are bounded.
"""

import contextlib
import io
import math
import os
import stat
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

# Field -> dtype and shape, in which 0 stands for any positive size.
ArraySchema = Mapping[str, tuple[np.dtype, tuple[int, ...]]]

# NumPy's own header of a plain array takes 128 bytes.
_MAX_HEADER_BYTES = 1024


class _Header(NamedTuple):
    """What an npy file says of its array before the data."""

    version: tuple[int, int]
    fortran_order: bool
    dtype: np.dtype
    shape: tuple[int, ...]


class DatasetError(ValueError):
    """A dataset that cannot be used as it is; the message names file and field.

    It is one line, also where it quotes a library that has more to say.
    """

    def __init__(self, message: object):
        super().__init__(" ".join(str(message).splitlines()))


def write_atomically(path: Path, contents: bytes) -> None:
    """Writes beside the target, then renames: readers see the old file or the new.

    Raises:
      OSError: if it cannot be written; names the target.
    """
    # Of this process: another may be writing the same.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise of_file(error, path) from None
    finally:
        temporary.unlink(missing_ok=True)


def of_file(error: OSError, path: Path) -> OSError:
    """Returns an error that names a file: what a write raises names none."""
    return OSError(error.errno, error.strerror, str(path))


def read_regular_file(path: Path, max_bytes: int) -> bytes:
    """Reads a whole file.

    Raises:
      DatasetError: for a link, a device or a file over the bound, none of them opened,
        and for what cannot be read.
    """
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise DatasetError(f"{path}: not a regular file: put the file itself there")
        if status.st_size > max_bytes:
            raise DatasetError(
                f"{path}: {status.st_size} bytes are over the bound of {max_bytes}: "
                "give a smaller file"
            )
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read ({error.strerror}): mend the path or its rights"
        ) from None


def npz_bytes(fields: Mapping[str, np.ndarray]) -> bytes:
    """Returns a compressed npz archive; equal fields give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in fields.items():
            # Opened by its name a member is dated 1980, not now.
            with archive.open(f"{name}.npy", "w") as member:
                array = np.ascontiguousarray(array)
                np.lib.format.write_array(member, array, (1, 0), allow_pickle=False)
    return buffer.getvalue()


def read_arrays(
    contents: bytes,
    schema: ArraySchema,
    max_bytes: int,
    optional: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """Reads the fields of an npz archive, which must be exactly those of the schema.

    Args:
      contents: the archive.
      schema: what each field must be.
      max_bytes: bound on each field's uncompressed size.
      optional: fields of the schema that may be missing.

    Returns:
      The fields; the arrays are read-only.

    Raises:
      DatasetError: for anything else than a whole archive of these fields.
    """
    with _opened(contents) as archive:
        members = sorted(archive.namelist())
        here = [
            name for name in schema if name not in optional or f"{name}.npy" in members
        ]
        if members != sorted(f"{name}.npy" for name in here):
            required = [name for name in schema if name not in optional]
            raise DatasetError(
                f"holds {', '.join(members)[:200] or 'nothing'} instead of the "
                f"fields {', '.join(required)}"
            )
        return {
            name: _read_field(archive, name, _strict(name, schema, max_bytes))
            for name in here
        }


def array_names(contents: bytes) -> list[str]:
    """Returns the names of the arrays in an npz archive, in the archive's order.

    Raises:
      DatasetError: for what is no archive.
    """
    with _opened(contents) as archive:
        members = archive.namelist()
    return [name.removesuffix(".npy") for name in members if name.endswith(".npy")]


def read_foreign_arrays(
    contents: bytes, wanted: Mapping[str, tuple[str, int]], max_bytes: int
) -> dict[str, np.ndarray]:
    """Reads some fields of an npz archive that others wrote, and nothing else of it.

    NumPy's other ways to write an array are taken too: any width and byte order of
    numbers, column-major order, later npy versions.

    Args:
      contents: the archive.
      wanted: field -> kinds of dtype that it may be, in NumPy's letters such as "fiu",
        and number of axes, each of which has a positive size.
      max_bytes: bound on each field's uncompressed size.

    Returns:
      Those of the fields that the archive has.

    Raises:
      DatasetError: for what is no archive, or a field that is not as wanted.
    """
    with _opened(contents) as archive:
        here = [name for name in wanted if f"{name}.npy" in archive.namelist()]
        return {
            name: _read_field(archive, name, _lenient(name, wanted[name], max_bytes))
            for name in here
        }


def read_bytes_field(contents: bytes, name: str, max_bytes: int) -> bytes:
    """Reads one field uint8 [*] of an npz archive, whatever others it has.

    Args:
      contents: the archive.
      name: of the field.
      max_bytes: bound on its uncompressed size.

    Raises:
      DatasetError: unless the archive has such a field, whole.
    """
    schema = {name: (np.dtype(np.uint8), (0,))}
    with _opened(contents) as archive:
        if f"{name}.npy" not in archive.namelist():
            raise DatasetError(f"has no field '{name}'")
        check = _strict(name, schema, max_bytes)
        return _read_field(archive, name, check).tobytes()


@contextlib.contextmanager
def _opened(contents: bytes) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(io.BytesIO(contents)) as archive:
            yield archive
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise DatasetError(f"not a whole npz archive ({error})") from None


def check_header(
    name: str,
    dtype: np.dtype,
    shape: tuple[int, ...],
    schema: ArraySchema,
    max_bytes: int,
) -> None:
    """Raises DatasetError unless a field's dtype, shape and size fit the schema."""
    wanted_dtype, wanted_shape = schema[name]
    fits = len(shape) == len(wanted_shape) and all(
        size == wanted if wanted else size > 0
        for size, wanted in zip(shape, wanted_shape, strict=True)
    )
    if dtype != wanted_dtype or not fits:
        wanted = ", ".join(str(size) if size else "*" for size in wanted_shape)
        raise DatasetError(
            f"field '{name}' is {dtype}{list(shape)} instead of "
            f"{wanted_dtype}[{wanted}]"
        )
    _check_size(name, dtype, shape, max_bytes)


def _check_size(
    name: str, dtype: np.dtype, shape: tuple[int, ...], max_bytes: int
) -> None:
    if math.prod(shape) * dtype.itemsize > max_bytes:
        raise DatasetError(
            f"field '{name}' of shape {list(shape)} is over the bound of "
            f"{max_bytes // 2**20} MiB"
        )


def _strict(
    name: str, schema: ArraySchema, max_bytes: int
) -> Callable[[_Header], None]:
    """Returns what takes an array as we write it alone."""

    def check(header: _Header) -> None:
        if header.version != (1, 0):
            raise ValueError(f"npy version {header.version}")
        check_header(name, header.dtype, header.shape, schema, max_bytes)
        if header.fortran_order:
            raise ValueError("column-major order")

    return check


def _lenient(
    name: str, wanted: tuple[str, int], max_bytes: int
) -> Callable[[_Header], None]:
    """Returns what takes any array of numbers of some kinds, with so many axes."""
    kinds, axes = wanted
    names = {"f": "float", "i": "int", "u": "uint", "b": "bool"}

    def check(header: _Header) -> None:
        dtype, shape = header.dtype, header.shape
        if dtype.kind not in kinds or len(shape) != axes or not all(shape):
            raise DatasetError(
                f"field '{name}' is {dtype}{list(shape)} instead of "
                f"{' or '.join(names[kind] for kind in kinds)}"
                f"[{', '.join('*' * axes)}]"
            )
        _check_size(name, dtype, shape, max_bytes)

    return check


def _read_field(
    archive: zipfile.ZipFile, name: str, check: Callable[[_Header], None]
) -> np.ndarray:
    """Reads an array whose header passes the check; it is read-only."""
    try:
        with archive.open(f"{name}.npy") as member:
            version = np.lib.format.read_magic(member)
            # The third version differs from the second in names of structured fields.
            read_header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, fortran_order, dtype = read_header(
                member, max_header_size=_MAX_HEADER_BYTES
            )
            check(_Header(version, fortran_order, dtype, shape))
            num_bytes = math.prod(shape) * dtype.itemsize
            # One byte more than wanted: only a read that meets the end of the member
            # compares its checksum.
            data = member.read(num_bytes + 1)
    except DatasetError:
        raise
    # A damaged header or stream raises whatever the parser met first (SyntaxError,
    # zlib.error, EOFError, NotImplementedError, ...): to the user it is one fact.
    except Exception as error:
        raise DatasetError(f"field '{name}' cannot be read ({error})") from None
    if len(data) != num_bytes:
        raise DatasetError(
            f"field '{name}' ends after {len(data)} of {num_bytes} bytes or goes on "
            f"beyond its shape {list(shape)}"
        )
    return np.frombuffer(data, dtype).reshape(
        shape, order="F" if fortran_order else "C"
    )
