"""Reads one file that nobody trusts, in a process that is measured and may crash.

    python -m experiments.soak.reading READER PATH

prints what came of it as JSON: class and text of the error, seconds, peak memory.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moto_jax.data.episodes import load_dataset

SIZE = 16
PROFILE = "fast"


def read_dataset(path: Path) -> Any:
    """Reads a dataset of ours."""
    return load_dataset(path, PROFILE, SIZE)


def read_pixels(path: Path) -> Any:
    """Reads a folder of others' npz files, and makes a dataset of it."""
    from moto_jax.worlds.pixel_source import pixel_episodes

    converted = path.with_name(f"{path.name}-converted")
    return pixel_episodes(
        converted, path=path, events=("one",), image_size=SIZE, num_workers=1
    )


def read_d4rl(path: Path) -> Any:
    """Reads a file of D4RL's kitchen."""
    from moto_jax.worlds.kitchen import d4rl

    return d4rl.read_d4rl(path)


def read_minari(path: Path) -> Any:
    """Reads a file of Minari's kitchen."""
    from moto_jax.worlds.kitchen import minari

    return minari.read_minari(minari.minari_file(path))


READERS: dict[str, Callable[[Path], Any]] = {
    "dataset": read_dataset,
    "pixels": read_pixels,
    "d4rl": read_d4rl,
    "minari": read_minari,
}


def peak_memory() -> int:
    """Returns the most bytes that this process has had resident.

    Not by `getrusage`, whose number begins with that of the process that started it.
    """
    status = Path("/proc/self/status").read_text()
    (line,) = [one for one in status.splitlines() if one.startswith("VmHWM")]
    return 1024 * int(line.split()[1])


def main(reader: str, path: str) -> None:
    """Reads; prints what came of it."""
    error = said = ""
    start = time.monotonic()
    try:
        READERS[reader](Path(path))
    # The class is what the caller judges.
    except BaseException as raised:
        error, said = type(raised).__name__, str(raised)
    seconds = time.monotonic() - start
    report = {"error": error, "said": said, "seconds": seconds, "rss": peak_memory()}
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
