"""The command that does a run again, from its files."""

import importlib
import shlex
from pathlib import Path
from typing import Any

from moto_jax.run_layout import LATER_KEYS, flat_config, program_directory
from moto_jax.study.runs import RunFiles, read_config

# Tasks with a file of their own under experiments/configs; others are set by a flag.
_CONFIG_FILES = ("mixed", "partial")


def run_command(run: RunFiles) -> str:
    """Returns the command that does the run again: its preset and what differs from it.

    The preset is today's: what a run did without, since the key came later, is told
    too. Of a run of several seeds it does all. It makes its own demonstrations, equal
    to those that lay elsewhere.

    Raises:
      ValueError: for a size that no longer exists.
    """
    path = program_directory(run.path)
    several = path != run.path.resolve()
    config = read_config(path) if several else run.config
    task = config["task"]
    file = task if task in _CONFIG_FILES else _CONFIG_FILES[0]
    module = importlib.import_module(f"experiments.configs.{file}")
    size = config["size"]
    preset = flat_config(module.get_config(size).to_dict())
    words = [
        *("python", "-m", "experiments.run"),
        f"--config=experiments/configs/{file}.py:{size}",
        f"--workdir={run.path.parent if several else run.path}",
    ]
    for key, value in sorted((LATER_KEYS | dict(config)).items()):
        if key == "init_from" and Path(value).is_absolute():
            value = parent_place(value)
        if key == "data.path":
            value = data_place(value)
        # A key that is no more cannot be given.
        known = key in preset and key != "data.directory"
        if known and as_flag(preset[key]) != as_flag(value):
            words.append(f"--config.{key}={as_flag(value)}")
    return shlex.join(words)


def parent_place(init_from: str) -> str:
    """Returns where the run that another began from lies for whoever does it again.

    Args:
      init_from: of the configuration: a run, or one step of its checkpoints, wherever
        the machine had it; or nothing.
    """
    if not init_from:
        return ""
    path = Path(init_from)
    of_one_step = path.parent.name == "checkpoints"
    return str(Path("runs", *path.parts[-3 if of_one_step else -1 :]))


def data_place(path: str) -> str:
    """Returns the same of data that a run read: the name alone of what lay elsewhere.

    Args:
      path: `config.data.path`, or nothing.
    """
    return Path(path).name if Path(path).is_absolute() else path


def as_flag(value: Any) -> str:
    """Returns a configuration value as the command line takes it."""
    several = isinstance(value, list | tuple)
    return ",".join(map(str, value)) if several else str(value)
