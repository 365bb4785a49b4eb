"""The first update of a fresh process: with an empty cache of programs, and after.

As a program it is that process:

    python -m experiments.benchmarks.compilation PRESET
"""

import json
import os
import subprocess
import sys
import tempfile
import time

from experiments.benchmarks.measure import Part, figure_of


def measure_compilation(preset: str = "cpu", rounds: int = 2) -> Part:
    """Yields seconds to the end of the first update, before and with the cache."""
    pairs, counts = [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as home:
            first, second = (_first_update(preset, home) for _ in range(2))
        pairs.append((second["seconds"], first["seconds"]))
        counts = [(run["compiled"], run["from_cache"]) for run in (first, second)]
    yield figure_of(
        f"compile/{preset}/cached",
        "s to the first update",
        "with an empty cache",
        pairs,
        less_is_better=True,
    )
    # The target of the empty cache is its own line: under 40 seconds on two cores.
    yield figure_of(
        f"compile/{preset}",
        "s to the first update",
        "the goal on two cores",
        [(empty, 40.0) for _, empty in pairs],
        less_is_better=True,
    )
    yield (
        f"compile/{preset}: {counts[0][0]} programs compiled by the first process; "
        f"{counts[1][0]} by the second, which took {counts[1][1]} from the cache"
    )


def _first_update(preset: str, home: str) -> dict[str, float]:
    environment = {**os.environ, "XDG_CACHE_HOME": home}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-m", "experiments.benchmarks.compilation", preset],
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(
            f"the process that compiles ended with status {done.returncode}: "
            f"{' '.join(done.stderr.strip().splitlines()[-1:])}; mend that, or measure "
            "the others with --part"
        )
    return json.loads(done.stdout.splitlines()[-1])


def main(preset: str) -> None:
    """Does one update of the preset; prints seconds and programs as JSON."""
    from experiments.command_line import prepare_jax

    prepare_jax()
    import jax

    from experiments.benchmarks.scale import Program, config_of

    events: list[str] = []
    jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
    jax.devices()
    start = time.perf_counter()
    Program(config_of(preset, 1)).seconds()
    result = {
        "seconds": time.perf_counter() - start,
        "compiled": sum(name.endswith("/cache_misses") for name in events),
        "from_cache": sum(name.endswith("/cache_hits") for name in events),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
