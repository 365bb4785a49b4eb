"""The checksums of a directory's files, and what is wrong with it by them.

Files that a manifest does not name are nobody's business: file managers, network disks
and synchronisers leave theirs everywhere.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

MANIFEST_NAME = "MANIFEST.sha256"
_LINE = re.compile(r"([0-9a-f]{64}) +(\d+) +(.+)")
# The last line: one that was cut off after a line names no file too few.
_END = re.compile(r"(\d+) files")


def files(directory: Path) -> Iterator[Path]:
    """Yields every file but the manifest and hidden ones, in a fixed order.

    Ours are not hidden. What NFS keeps of an open file that was removed is, and may be
    gone before the manifest is written.
    """
    for path in sorted(directory.rglob("*")):
        hidden = path.name.startswith(".")
        if path.is_file() and not hidden and path != directory / MANIFEST_NAME:
            yield path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def has_manifest(directory: Path) -> bool:
    """Returns whether there is one, whatever it says."""
    return (directory / MANIFEST_NAME).is_file()


def write_manifest(directory: Path) -> None:
    """Writes checksum, size and path of every other file, and how many they are."""
    lines = [
        f"{_sha256(path)} {path.stat().st_size} {path.relative_to(directory)}\n"
        for path in files(directory)
    ]
    text = "".join([*lines, f"{len(lines)} files\n"])
    (directory / MANIFEST_NAME).write_text(text)


def fault(directory: Path) -> str | None:
    """Returns what is wrong with the files, naming one; None if all are intact."""
    try:
        text = (directory / MANIFEST_NAME).read_text()
    except (OSError, UnicodeDecodeError):
        return f"{MANIFEST_NAME} is missing or unreadable"
    lines = text.splitlines()
    end = _END.fullmatch(lines[-1]) if lines else None
    if end and int(end[1]) != len(lines) - 1:
        return f"{MANIFEST_NAME} has {len(lines) - 1} of {end[1]} lines"
    expected: dict[str, tuple[int, str]] = {}
    for line in lines[: len(lines) - bool(end)]:
        match = _LINE.fullmatch(line)
        if match is None:
            return f"{MANIFEST_NAME} has an unreadable line"
        expected[match[3]] = (int(match[2]), match[1])
    present = {str(path.relative_to(directory)): path for path in files(directory)}
    # One without an end is from before there was one, or was cut off.
    unnamed = set() if end else present.keys() - expected.keys()
    for name in sorted(expected.keys() | unnamed):
        if name not in present:
            return f"{name} is missing"
        if name in unnamed:
            return f"{name} is not in {MANIFEST_NAME}"
        size, checksum = expected[name]
        if present[name].stat().st_size != size:
            return f"{name} has {present[name].stat().st_size} of {size} bytes"
        if _sha256(present[name]) != checksum:
            return f"{name} differs from its checksum"
    return None if expected else f"{MANIFEST_NAME} is empty"
