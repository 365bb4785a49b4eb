"""Valid files changed at random: a reader takes them or says what is wrong.

    python -m experiments.soak.fuzzing READER SEED COUNT DIRECTORY

tries COUNT files in one process and prints what was found as JSON. Anything but an
answer or the reader's own kind of error is a find, a crash of the process included.
"""

import functools
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.soak import corpus, reading
from experiments.soak.trials import Outcome

BATCH = 1000
_SECONDS_EACH = 1.0

# What JSON and its like may be made to hold.
_WORDS = (
    *(b"null", b"-1", b"1e999", b"NaN", b"[]", b"{}", b'""', b"true", b"0.5"),
    *(b"\x00", b"\xff\xfe", b"\\ud800", b"9" * 400, b"[" * 2000, b'"a":', b"\n"),
)


def mutate(contents: bytes, generator: np.random.Generator) -> bytes:
    """Returns contents with some of their bytes changed, moved, cut out or repeated."""
    changed = bytearray(contents)
    for _ in range(int(generator.integers(1, 5))):
        if not changed:
            return bytes(changed)
        start = int(generator.integers(len(changed)))
        length = int(generator.integers(1, 32))
        match int(generator.integers(7)):
            case 0:
                changed[start] ^= 1 << int(generator.integers(8))
            case 1:
                changed[start : start + length] = generator.bytes(length)
            case 2:
                del changed[start : start + length]
            case 3:
                changed[start:start] = changed[start : start + length]
            case 4:
                word = _WORDS[generator.integers(len(_WORDS))]
                changed[start : start + len(word)] = word
            case 5:
                word = _WORDS[generator.integers(len(_WORDS))]
                changed[start:start] = word
            case _:
                del changed[start:]
    return bytes(changed)


class Target(NamedTuple):
    """A reader to be tried.

    Attributes:
      make: (directory) -> (what is read, the file of it that is changed).
      read: takes what is read.
      errors: the classes that it may raise.
    """

    make: Callable[[Path], tuple[Path, Path]]
    read: Callable[[Path], Any]
    errors: tuple[type[Exception], ...]


def _unchanged(*unused: Any) -> None:
    """Changes nothing."""


def _episode(directory: Path) -> tuple[Path, Path]:
    contents = corpus.npz(corpus.valid_fields())
    path = directory / corpus.FILE
    path.write_bytes(contents)
    return path, path


def _pixels(directory: Path) -> tuple[Path, Path]:
    folder = corpus.pixels_of(_unchanged, directory)
    return folder, folder / corpus.FILE


def _manifest(directory: Path) -> tuple[Path, Path]:
    dataset = corpus.write_dataset(directory, corpus.npz(corpus.valid_fields()))
    return dataset, dataset / "manifest.json"


def _hdf5(make: Callable[..., Path], directory: Path) -> tuple[Path, Path]:
    path = make(_unchanged, directory)
    return path, path


def _metrics(directory: Path) -> tuple[Path, Path]:
    path = directory / "metrics.jsonl"
    line = {"step": 1, "phase": "offline", "loss": 0.5, "wall_seconds": 1.0}
    path.write_text("".join(json.dumps({**line, "step": n}) + "\n" for n in range(5)))
    return directory, path


def _checkpoint(directory: Path) -> tuple[Path, Path]:
    """A step whose manifest is right: the description itself is not trusted."""
    step = directory / "checkpoints" / "4"
    step.mkdir(parents=True)
    leaves = {"['step']": ["int32", []], "['weight']": ["float32", [9]]}
    description = {"step": 4, "metadata": {"updates": 4}, "leaves": leaves}
    (step / "metadata.json").write_text(json.dumps(description))
    return directory, step / "metadata.json"


def _sums(directory: Path) -> tuple[Path, Path]:
    from moto_jax.running import manifests

    run, path = _checkpoint(directory)
    manifests.write_manifest(path.parent)
    return run, path.with_name(manifests.MANIFEST_NAME)


def _configuration(directory: Path) -> tuple[Path, Path]:
    from experiments.configs import base

    path = directory / "config.json"
    path.write_text(json.dumps(base.get_config("tiny").to_dict()))
    return directory, path


def _run(name: str, directory: Path) -> tuple[Path, Path]:
    """A finished run, of whose files the named one is changed."""
    from experiments.configs import base

    rows = [
        {"step": step, "phase": f"evaluation {phase}", "wall_seconds": 1.0 + step}
        | {f"mean/{figure}": 0.5 for figure in ("objects", "success", "return")}
        | {f"sampled/{figure}": 0.5 for figure in ("objects", "success", "return")}
        for step, phase in ((0, "before"), (4, "offline"), (8, "online"))
    ]
    summary = {
        "wall_seconds": {"offline updates": 1.0, "total": 2.0},
        "peak_rss_bytes": 1,
        "hardware": {"cpu": "abacus", "cores": 2, "memory_gb": 1.5},
        "versions": {"jax": "0.10.2"},
    }
    contents = {
        "config.json": json.dumps(base.get_config("tiny").to_dict()),
        "metrics.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "summary.json": json.dumps(summary),
    }
    for file, text in contents.items():
        (directory / file).write_text(text)
    return directory, directory / name


def _report(directory: Path) -> Any:
    from experiments.report_page import make_report

    return make_report([directory])


def _read_episode(path: Path) -> Any:
    from moto_jax.data.episodes import read_episode

    return read_episode(path)


def _read_metrics(directory: Path) -> Any:
    from moto_jax.running.metrics import MetricsWriter, last_step

    last_step(directory / "metrics.jsonl")
    with MetricsWriter(directory) as writer:
        writer.truncate_after(2)
        writer.write(3, "offline", {"loss": 0.5})


def _read_checkpoint(directory: Path) -> Any:
    from moto_jax.running import checkpoints, manifests
    from moto_jax.running.checkpoint_leaves import require_same_leaves

    step = directory / "checkpoints" / "4"
    manifests.write_manifest(step)
    checkpoints.read_metadata(directory)
    state = {"step": np.zeros((), np.int32), "weight": np.zeros(9, np.float32)}
    require_same_leaves(step, state)


def _read_sums(directory: Path) -> Any:
    from moto_jax.running import checkpoints

    return checkpoints.read_metadata(directory)


def _read_configuration(directory: Path) -> Any:
    from experiments.configs import base
    from moto_jax.running.run_directory import check_config

    check_config(directory, base.get_config("tiny").to_dict())


# Whatever is wrong is a ValueError of ours; those of Python's parsers are no sentences.
def _ours() -> tuple[type[Exception], ...]:
    from moto_jax.data.files import DatasetError
    from moto_jax.run_layout import RunError
    from moto_jax.running.checkpoints import CheckpointError

    return DatasetError, RunError, CheckpointError


def targets() -> dict[str, Target]:
    """Returns the readers by name."""
    ours = _ours()
    d4rl = functools.partial(_hdf5, corpus.d4rl_of)
    minari = functools.partial(_hdf5, corpus.minari_of)
    return {
        "episode": Target(_episode, _read_episode, ours),
        "manifest": Target(_manifest, reading.read_dataset, ours),
        "pixels": Target(_pixels, _convert, ours),
        "d4rl": Target(d4rl, reading.read_d4rl, ours),
        "minari": Target(minari, reading.read_minari, ours),
        "metrics": Target(_metrics, _read_metrics, (*ours, ValueError)),
        "checkpoint": Target(_checkpoint, _read_checkpoint, ours),
        "checksums": Target(_sums, _read_sums, ours),
        "configuration": Target(_configuration, _read_configuration, ours),
        # The page of a run, of whose files one is changed.
        "report": Target(functools.partial(_run, "config.json"), _report, ours),
        "summary": Target(functools.partial(_run, "summary.json"), _report, ours),
        "curves": Target(functools.partial(_run, "metrics.jsonl"), _report, ours),
    }


def _convert(folder: Path) -> Any:
    """Reads a folder of pixels as its conversion does, without writing."""
    from moto_jax.worlds.pixel_source import PixelJob

    (path,) = folder.glob("*.npz")
    return PixelJob(0, path, ("reward",), reading.SIZE).run()


NAMES = (
    *("episode", "manifest", "pixels", "d4rl", "minari"),
    *("metrics", "checkpoint", "checksums", "configuration"),
    *("report", "summary", "curves"),
)


def find(name: str, seed: int, count: int, directory: Path) -> list[str]:
    """Tries so many changed files; returns what was found.

    Args:
      name: of the reader.
      seed: of the changes.
      count: of files.
      directory: of the files; the one that was tried last stays.
    """
    target = targets()[name]
    read_from, path = target.make(directory)
    valid = path.read_bytes()
    found = []
    for number in range(count):
        contents = mutate(valid, np.random.default_rng([seed, number]))
        path.write_bytes(contents)
        try:
            target.read(read_from)
        except target.errors as error:
            if "\n" in str(error):
                found.append(f"file {number}: several lines: {error!r}")
        except Exception as error:
            found.append(f"file {number}: {type(error).__name__}: {error}")
    return found


def fuzz(name: str, number: int, directory: Path) -> Outcome:
    """Tries a batch of files in a process of its own."""
    seed = 1000 * NAMES.index(name) + number
    command = [sys.executable, "-W", "ignore", "-m", __name__, name]
    try:
        done = subprocess.run(
            [*command, str(seed), str(BATCH), str(directory)],
            capture_output=True,
            text=True,
            timeout=60 + _SECONDS_EACH * BATCH,
        )
    except subprocess.TimeoutExpired:
        return Outcome(f"seed {seed}: does not end", tried=BATCH, lost=1)
    if done.returncode:
        said = f"seed {seed}: status {done.returncode}: {done.stderr[-200:]}"
        return Outcome(said, tried=BATCH, lost=1)
    found = json.loads(done.stdout.splitlines()[-1])
    said = f"seed {seed}: {'; '.join(found[:2])}" if found else ""
    return Outcome(said, tried=BATCH, lost=len(found))


def main(name: str, seed: str, count: str, directory: str) -> None:
    """Tries files; prints what was found."""
    warnings.simplefilter("ignore")
    print(json.dumps(find(name, int(seed), int(count), Path(directory))))


if __name__ == "__main__":
    main(*sys.argv[1:])
