"""What a result was made with: package versions, machine, memory used."""

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

# Packages whose version decides numbers: a resumed run must have the same.
DECISIVE = ("jax", "jaxlib", "flax", "optax", "mujoco", "gymnasium-robotics", "numpy")

# All that are told of.
_PACKAGES = (
    "moto-jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "distrax",
    "orbax-checkpoint",
    "numpy",
    "mujoco",
    "gymnasium",
    "gymnasium-robotics",
)


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Returns the commit of the sources, "-dirty" behind it where they differ from it.

    None where they are no git repository's own, as in an installed package.
    """
    root = Path(__file__).resolve().parents[2]
    # Installed inside another project's tree it would be that project's commit.
    if _git(root, "rev-parse", "--show-toplevel") != str(root):
        return None
    return _git(root, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")


def _git(directory: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *words], cwd=directory, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip() or None


def hardware() -> dict[str, str | int | float]:
    """Returns the machine as a result's reader needs to know it.

    Keys: `cpu` (model), `cores` (those this process may use), `memory_gb` (10^9 bytes)
    and, where JAX runs on one, `accelerator` (kind) and `accelerators` (how many).
    """
    facts: dict[str, str | int | float] = {
        "cpu": _cpu_model(),
        "cores": _usable_cores(),
        "memory_gb": round(
            os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1
        ),
    }
    devices = jax.devices()
    if devices[0].platform != "cpu":
        facts["accelerator"] = devices[0].device_kind
        facts["accelerators"] = len(devices)
    return facts


def peak_rss_bytes(process_ids: Sequence[int] = ()) -> int:
    """Returns the most memory this process and some others that still run have held.

    The sum of their resident sets at their highest: an upper bound, since those moments
    may differ and pages that two share are counted twice. Where there is no /proc only
    this process counts.

    Args:
      process_ids: of the others.
    """
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return own + sum(_status_bytes(str(number), "VmHWM") for number in process_ids)


def rss_bytes() -> int:
    """Returns the memory this process holds now, 0 where there is no /proc."""
    return _status_bytes("self", "VmRSS")


def describe(hardware: Mapping[str, str | int | float]) -> str:
    """Returns what `hardware` returned as a line of text."""
    plural = "s" if hardware["cores"] != 1 else ""
    line = f"{hardware['cpu']}, {hardware['cores']} core{plural}"
    line += f", {hardware['memory_gb']} GB of memory"
    if "accelerator" in hardware:
        line += f", {hardware['accelerators']} x {hardware['accelerator']}"
    return line


def _status_bytes(process: str, field: str) -> int:
    """Returns a size in /proc/PROCESS/status, 0 where it is not told."""
    try:
        with open(f"/proc/{process}/status", encoding="utf-8") as file:
            for line in file:
                if line.startswith(f"{field}:"):
                    return 1024 * int(line.split()[1])
    except OSError:
        pass
    return 0


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
