r"""A stranger's way, timed: from a wheel in an empty environment to a report.

    python -m tests.wheel_check

Builds the wheel, makes an environment that holds nothing, installs the wheel with all
that it depends on from the package registry (about 1 GB), and runs the programs where
the checkout is not seen. The directory is removed first, and left for a look.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.programs import ROOT

_PACKAGES = ("moto_jax", "experiments", "launch")

# What a program is called with, and what it then says.
Step = tuple[tuple[str, ...], str]

TRAINING = ("--config=mixed:tiny",)


def build_wheel(directory: Path) -> Path:
    """Returns the wheel, built of a copy of the sources.

    A build leaves files beside its sources, and takes up those of an earlier one.
    """
    sources, out = directory / "sources", directory / "wheel"
    for name in _PACKAGES:
        shutil.copytree(
            ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    _pip(
        sys.executable,
        *("wheel", "--no-deps", "--no-build-isolation"),
        *(f"--wheel-dir={out}", str(sources)),
    )
    (path,) = out.glob("moto_jax-*.whl")
    return path


def install(python: str | Path, wheel: Path, *flags: str) -> None:
    """Installs a wheel; without flags with all that it depends on."""
    _pip(python, "install", *flags, str(wheel))


def _pip(python: str | Path, *words: str) -> None:
    subprocess.run(
        [str(python), "-m", "pip", words[0], "--quiet", *words[1:]], check=True
    )


def steps(doctor: Sequence[str], training: Sequence[str]) -> list[Step]:
    """Returns what a stranger runs after installing, but for `watch`.

    Args:
      doctor: its flags.
      training: those of the run.
    """
    return [
        ((), "usage: moto-jax PROGRAM"),
        (("doctor", *doctor), "a run would start"),
        (("train", *training, "--workdir=runs/small"), "wall time"),
        (("evaluate", "--checkpoint=runs/small", "--episodes=2"), "success"),
        (("figures", "--runs=runs", "--out=figures"), "figure2"),
        (
            ("report", "--runs=runs", "--figures=figures", "--out=report.html"),
            "written to report.html",
        ),
    ]


def take(
    several: Sequence[Step],
    command: Sequence[str],
    place: Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[tuple[str, float]]:
    """Takes the steps in a directory; yields each one's name and seconds.

    Args:
      several: steps.
      command: what stands for `moto-jax`.
      place: the directory; the checkout is not seen from it.
      environment: variables added to those of this process.

    Raises:
      RuntimeError: where a program fails, does not say what it should, or names a file
        of the checkout.
    """
    for words, expected in several:
        began = time.monotonic()
        done = subprocess.run(
            [*command, *words],
            cwd=place,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=3600,
        )
        said = done.stdout + done.stderr
        seen = any(str(ROOT / name) in said for name in _PACKAGES)
        if done.returncode or expected not in done.stdout or seen:
            raise RuntimeError(
                f"moto-jax {' '.join(words)} ended with {done.returncode}, without "
                f"{expected!r} or with a name from the checkout:\n{said}"
            )
        yield (words or ("usage",))[0], time.monotonic() - began


def main() -> None:
    """Goes the whole way; says the minutes of each step."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0][2:])
    parser.add_argument("--directory", type=Path, default="build/wheel-check")
    directory = parser.parse_args().directory.resolve()
    shutil.rmtree(directory, ignore_errors=True)
    place = directory / "elsewhere"
    place.mkdir(parents=True)

    began = time.monotonic()
    wheel = build_wheel(directory)
    _tell(f"build {wheel.name}", time.monotonic() - began)
    began = time.monotonic()
    empty = directory / "environment"
    subprocess.run([sys.executable, "-m", "venv", empty], check=True)
    install(empty / "bin" / "python", wheel)
    _tell("install", time.monotonic() - began)
    several = steps((), TRAINING)
    several.insert(2, (("watch", "--episodes=1"), "best episode"))
    # What is compiled for the first time, as a stranger's is.
    fresh = {"XDG_CACHE_HOME": str(directory / "cache"), "PYTHONPATH": ""}
    for name, seconds in take(several, [str(empty / "bin" / "moto-jax")], place, fresh):
        _tell(name, seconds)


def _tell(name: str, seconds: float) -> None:
    print(f"{name:<40} {seconds / 60:6.1f} minutes", flush=True)


if __name__ == "__main__":
    main()
