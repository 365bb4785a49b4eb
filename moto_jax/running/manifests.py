"""The checksums of a directory's files, and what is wrong with it by them."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

MANIFEST_NAME = "MANIFEST.sha256"
_LINE = re.compile(r"([0-9a-f]{64}) +(\d+) +(.+)")


def files(directory: Path) -> Iterator[Path]:
    """Yields every file but the manifest, in a fixed order."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path != directory / MANIFEST_NAME:
            yield path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def has_manifest(directory: Path) -> bool:
    """Returns whether there is one, whatever it says."""
    return (directory / MANIFEST_NAME).is_file()


def write_manifest(directory: Path) -> None:
    """Writes checksum, size and path of every other file."""
    lines = [
        f"{_sha256(path)} {path.stat().st_size} {path.relative_to(directory)}\n"
        for path in files(directory)
    ]
    (directory / MANIFEST_NAME).write_text("".join(lines))


def fault(directory: Path) -> str | None:
    """Returns what is wrong with the files, naming one; None if all are intact."""
    try:
        text = (directory / MANIFEST_NAME).read_text()
    except (OSError, UnicodeDecodeError):
        return f"{MANIFEST_NAME} is missing or unreadable"
    expected: dict[str, tuple[int, str]] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            return f"{MANIFEST_NAME} has an unreadable line"
        expected[match[3]] = (int(match[2]), match[1])
    present = {str(path.relative_to(directory)): path for path in files(directory)}
    for name in sorted(expected.keys() | present.keys()):
        if name not in present:
            return f"{name} is missing"
        if name not in expected:
            return f"{name} is not in {MANIFEST_NAME}"
        size, checksum = expected[name]
        if present[name].stat().st_size != size:
            return f"{name} has {present[name].stat().st_size} of {size} bytes"
        if _sha256(present[name]) != checksum:
            return f"{name} differs from its checksum"
    return None if expected else f"{MANIFEST_NAME} is empty"
