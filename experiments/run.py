r"""Trains an agent: demonstrations, offline updates, online episodes, evaluation.

    python -m experiments.run --config=experiments/configs/mixed.py:cpu
    python -m experiments.run --config=experiments/configs/partial.py --config.seed=1

The same command with the same --workdir takes up a run that was interrupted. Ctrl-C and
SIGTERM end the update under way, save, and leave with status 128 + the signal's number.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "File of the configuration and its size, such as "
    "experiments/configs/mixed.py:cpu. It is Python code, and is run.",
    lock_config=True,
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run; runs/TASK-SIZE-AGENT-sSEED where not given."
)
_ALLOW_VERSION_CHANGE = flags.DEFINE_bool(
    "allow_version_change",
    False,
    "Resume although packages that decide numbers have other versions.",
)


def main(argv: Sequence[str]) -> None:
    """Does the run and reports it; what is wrong is said in one sentence."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown argument {argv[1]!r}")
    from moto_jax.envs.graphics import GraphicsError, choose_backend

    try:
        choose_backend()
        _run()
    except (ValueError, GraphicsError, RuntimeError) as error:
        sys.exit(f"error: {error}")


def _run() -> None:
    import jax

    from moto_jax.training import train

    config = _CONFIG.value
    task = config.task.replace(",", "+").replace(" ", "_")
    workdir = Path(
        _WORKDIR.value or f"runs/{task}-{config.size}-{config.agent}-s{config.seed}"
    )
    jax.config.update(
        "jax_compilation_cache_dir", str(Path.home() / ".cache/moto_jax/xla")
    )
    stopped_by = train(config, workdir, _ALLOW_VERSION_CHANGE.value)
    if stopped_by is not None:
        print(f"stopped; the same command goes on from here: {workdir}")
        sys.exit(128 + stopped_by)


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    app.run(main)
