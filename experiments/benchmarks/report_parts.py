"""What is worth knowing of a GPU at hand, a part at a time; see `gpu_report`.

Each part is a generator that yields a finding as soon as it is known, since whatever
runs it may stop it at any time.
"""

import collections
import itertools
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from experiments.benchmarks.frames import exchange
from experiments.benchmarks.measure import rate, seconds
from experiments.benchmarks.scale import Program, config_of
from experiments.benchmarks.update import flops_of, measured_peak
from moto_jax.acting.worker import Reset, Step
from moto_jax.acting.worker_pool import WorkerPool
from moto_jax.run_layout import RunError
from moto_jax.running.provenance import commit, describe, hardware, versions
from moto_jax.study.runs import read_run
from moto_jax.worlds.graphics import renderer_name
from moto_jax.worlds.kitchen import tasks
from moto_jax.worlds.kitchen.renderer import (
    RENDER_PROFILES,
    KitchenRenderer,
)
from moto_jax.worlds.kitchen.world import environment_maker

_TASK = "mixed"
# Largest kernels that are named.
_KERNELS = 12
_UPDATES_TOGETHER = 10


class Finding(NamedTuple):
    """One thing that was found.

    Attributes:
      name: of what was measured.
      value: a number, or words.
      unit: of a number.
    """

    name: str
    value: float | str
    unit: str = ""


Findings = Iterator[Finding]


def machine() -> Findings:
    """Yields what it runs on."""
    yield Finding("machine", describe(hardware()))
    yield Finding("drawn by", renderer_name())
    client = jax.devices()[0].client
    yield Finding("platform", " ".join(getattr(client, "platform_version", "").split()))
    yield Finding("commit", commit() or "none")
    for package, version in versions().items():
        yield Finding(package, version)


def drawing(
    workers: int, frames: int, profiles: Sequence[str] = RENDER_PROFILES
) -> Findings:
    """Yields frames a second of profiles, and steps a second of one worker and all.

    Args:
      workers: at once.
      frames: in a measurement of one process.
      profiles: of the renderer.
    """
    generator = np.random.default_rng(0)
    action = generator.uniform(-1, 1, tasks.NUM_ACTIONS).astype("f4")
    for profile in profiles:
        picture = KitchenRenderer(profile)
        qpos = np.zeros(30)
        picture.render(qpos)
        yield Finding(
            f"{profile}, this process",
            rate(lambda: picture.render(qpos), frames),  # noqa: B023
            "frames/s",
        )
        picture.close()
        for number in (1, workers):
            config = config_of("full", 1)
            config.env.update(render_profile=profile, workers=number)
            with WorkerPool(environment_maker(config), config.env.workers) as pool:
                slots = range(number)
                exchange(pool, {slot: Reset(slot) for slot in slots})
                step = {slot: Step(action) for slot in slots}
                exchange(pool, step)
                yield Finding(
                    f"{profile}, {number} workers",
                    number * rate(lambda: exchange(pool, step), frames),  # noqa: B023
                    "steps/s",
                )


def update(preset: str, seeds: int, rounds: int = 3, updates: int = 20) -> Findings:
    """Yields the seconds to compile MOTO's update, and the milliseconds that it takes.

    Args:
      preset: of the configuration.
      seeds: trained by the program.
      rounds: measurements, of which the median counts.
      updates: in each.
    """
    config = config_of(preset, seeds)
    programs: list[Program] = []
    took = seconds(lambda: programs.append(Program(config)))
    yield Finding("compiled", took, "s")
    (program,) = programs
    yield Finding("first update", program.seconds(1), "s")
    each = _seconds_of_an_update(program, rounds, updates)
    yield Finding("update", 1e3 * each, "ms")
    speed = seeds * flops_of(config) / each
    yield Finding("arithmetic", speed / 1e12, "TFLOP/s")
    peak = measured_peak(config.compute_dtype)()
    yield Finding("of the measured product's", speed / peak, "")
    memory = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in memory:
        yield Finding("memory at the peak", memory["peak_bytes_in_use"] / 1e9, "GB")


def together(preset: str, rounds: int = 3, updates: int = 20) -> Findings:
    """Yields the milliseconds of an update where one program does several."""
    program = Program(config_of(preset, 1), together=_UPDATES_TOGETHER)
    each = _seconds_of_an_update(program, rounds, updates)
    yield Finding(f"update, {_UPDATES_TOGETHER} a program", 1e3 * each, "ms")


def _seconds_of_an_update(program: Program, rounds: int, updates: int) -> float:
    """Returns the median over the rounds of so many updates."""
    # Recorded graphs are replayed from the second time on.
    for _ in range(2):
        program.seconds(updates)
    return statistics.median(program.seconds(updates) for _ in range(rounds))


def kernels(preset: str, updates: int = 3) -> Findings:
    """Yields the share of the time in which the device idles, and the largest kernels.

    Profiled programs launch their kernels one by one.
    """
    program = Program(config_of(preset, 1))
    program.seconds(2)
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            program.seconds(updates)
        (path, *_) = Path(directory).rglob("*.xplane.pb")
        profile = jax.profiler.ProfileData.from_file(str(path))
    events = [
        (event.name, event.start_ns, event.duration_ns)
        for plane in profile.planes
        for line in plane.lines
        if _is_of_device(plane.name, line.name)
        for event in line.events
    ]
    yield Finding("kernels", len(events) / updates, "an update")
    yield Finding("idle", idle_share([event[1:] for event in events]), "")
    spent = collections.Counter()
    for name, _, duration in events:
        spent[name] += duration
    whole = sum(spent.values())
    for name, duration in spent.most_common(_KERNELS):
        yield Finding(name[:60], 100 * duration / whole, "% of the kernels' time")


def _is_of_device(plane: str, line: str) -> bool:
    """Whether a line of a profile holds the kernels of a device, or of the CPU."""
    if jax.default_backend() == "cpu":
        return plane == "/host:CPU" and "XLA" in line
    return plane.startswith("/device:GPU") and line.startswith("Stream")


def idle_share(spans: Sequence[tuple[float, float]]) -> float:
    """Returns the share of the time from the first to the last in which none goes on.

    Args:
      spans: start and duration of each, in any order.
    """
    if not spans:
        return 1.0
    ordered = sorted((start, start + duration) for start, duration in spans)
    first = end = ordered[0][0]
    busy = 0.0
    for start, stop in ordered:
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return 1 - busy / (end - first)


def learning(preset: str, limit: float) -> Findings:
    """Yields the evaluations of a run of the preset, for as long as it may take.

    Args:
      preset: of the configuration.
      limit: seconds after which the run is asked to save and stop.
    """
    with (
        tempfile.TemporaryDirectory() as directory,
        # A pipe that nobody reads would stop the run once it is full.
        tempfile.TemporaryFile("w+") as said,
    ):
        workdir = Path(directory) / "run"
        run = subprocess.Popen(
            [
                *(sys.executable, "-m", "experiments.run", f"--workdir={workdir}"),
                f"--config=experiments/configs/{_TASK}.py:{preset}",
            ],
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        try:
            yield from _evaluations(workdir, run.poll, time.monotonic() + limit)
        finally:
            run.send_signal(signal.SIGTERM)
            run.wait()
        # What asks it to stop ends it at once while it compiles.
        if run.returncode not in (0, 128 + signal.SIGTERM, -signal.SIGTERM):
            said.seek(0)
            raise RuntimeError(
                f"the run ended with {run.returncode}: "
                f"{' '.join(said.read()[-300:].split())}; mend that, then report again"
            )


def _evaluations(
    workdir: Path, ended: Callable[[], int | None], until: float
) -> Findings:
    """Yields what a run evaluates as it goes on, and how far it has come."""
    seen, last, rows = 0, False, []
    while not last:
        # What a run that has ended wrote at last is read too.
        last = ended() is not None or time.monotonic() > until
        time.sleep(1)
        try:
            rows = read_run(workdir).rows
        # Not begun, or at its demonstrations.
        except RunError:
            continue
        for row in itertools.islice(rows, seen, None):
            if "mean/success" not in row:
                continue
            when = f"after {row['step']} updates, {row['wall_seconds']:.0f} s"
            for policy in ("mean", "sampled"):
                yield Finding(
                    f"{policy} policy {when}", row[f"{policy}/objects"], "objects"
                )
                yield Finding(
                    f"{policy} policy {when}", row[f"{policy}/success"], "success"
                )
        seen = len(rows)
    yield Finding("the run came to", rows[-1]["step"] if rows else 0, "updates")


def parts(
    rehearse: bool, workers: int
) -> dict[str, tuple[float, Callable[[float], Findings]]]:
    """Returns name -> (seconds that it may take, what does it), in order of worth.

    What does it is told how long it has: a run asks for as long as there is.

    Args:
      rehearse: with the smallest networks, and few of everything.
      workers: processes that draw at once.
    """
    if rehearse:
        return {
            "machine": (60, lambda limit: machine()),
            "drawing": (240, lambda limit: drawing(2, 2, ["fast", "shaded"])),
            "tiny, 1 seed": (240, lambda limit: update("tiny", 1, 1, 1)),
            "kernels of tiny": (240, lambda limit: kernels("tiny", 1)),
            "learning of tiny": (240, lambda limit: learning("tiny", limit)),
        }
    presets = ("gpu", "full", "cpu")
    return {
        "machine": (20, lambda limit: machine()),
        **_updates(presets, 1),
        "drawing": (90, lambda limit: drawing(workers, 100)),
        "learning of gpu": (240, lambda limit: learning("gpu", limit)),
        "kernels of gpu": (60, lambda limit: kernels("gpu")),
        "gpu, several updates a program": (60, lambda limit: together("gpu")),
        **_updates(presets, 2),
        **_updates(presets, 4),
    }


def _updates(
    presets: Sequence[str], seeds: int
) -> dict[str, tuple[float, Callable[[float], Findings]]]:
    plural = "s" if seeds > 1 else ""
    return {
        f"{preset}, {seeds} seed{plural}": (
            100,
            lambda limit, preset=preset: update(preset, seeds),
        )
        for preset in presets
    }
