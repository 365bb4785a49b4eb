"""What an update takes at other sizes: time where it runs, arithmetic and memory."""

from collections.abc import Mapping
from typing import Any

import jax

from experiments.benchmarks.measure import Part, figure_of
from experiments.benchmarks.scale import Program, compile_program, config_of
from experiments.benchmarks.update import flops_of, peak_bytes
from moto_jax.types import Config

_LATENT = ("world_model.deter", "world_model.hidden", "world_model.groups")

# Name -> the keys of a configuration that are multiplied.
_DIMENSIONS: Mapping[str, tuple[str, ...]] = {
    "batch": ("replay.batch_size",),
    "sequence": ("replay.sequence_length",),
    "horizon": ("moto.horizon",),
    "latent": _LATENT,
}


def measure_sizes(preset: str, rounds: int = 3, factor: float = 2.0) -> Part:
    """Yields the time of an update as one size after another is multiplied."""
    configs = _configs(preset, factor)
    programs = {name: Program(config) for name, config in configs.items()}
    spent = [
        {name: program.seconds(2) for name, program in programs.items()}
        for _ in range(2 + rounds)
    ][2:]
    for name in list(programs)[1:]:
        yield figure_of(
            f"scale/{preset}/{name}",
            "s an update",
            "the preset's sizes",
            [(times[name], times["preset"]) for times in spent],
            less_is_better=True,
        )
    for name, config in configs.items():
        yield _demand(preset, name, config, programs[name].update)


def measure_plan(preset: str = "full", factor: float = 0.5) -> Part:
    """Yields the memory of one update of a preset by its sizes; nothing is run."""
    held, notes = {}, []
    for name, config in _configs(preset, factor).items():
        update = compile_program(config).update
        held[name] = peak_bytes(update) / 1e9
        notes.append(_demand(preset, name, config, update))
    for name in list(held)[1:]:
        yield figure_of(
            f"plan/{preset}/{name}",
            "GB",
            "the preset's sizes",
            [(held[name], held["preset"])],
            less_is_better=True,
        )
    yield from notes


def _configs(preset: str, factor: float) -> dict[str, Config]:
    """Returns the preset and one variant a dimension."""
    configs = {"preset": config_of(preset, 1)}
    for name, keys in _DIMENSIONS.items():
        config = config_of(preset, 1)
        values = {key: max(1, int(factor * _value(config, key))) for key in keys}
        config.update_from_flattened_dict(values)
        configs[f"{factor:g}x {name}"] = config
    return configs


def _value(config: Config, key: str) -> int:
    section, name = key.split(".")
    return config[section][name]


def _demand(preset: str, name: str, config: Config, update: Any) -> str:
    section, gigabytes = config.replay, peak_bytes(update) / 1e9
    return (
        f"{preset}, {name}: batch {section.batch_size} x {section.sequence_length}, "
        f"H = {config.moto.horizon}, D = {config.world_model.deter}: "
        f"{flops_of(config) / 1e9:,.1f} GFLOP, {gigabytes:.2f} GB on "
        f"{jax.default_backend()}"
    )
