"""What of a machine and a configuration would stop a run, part by part."""

import importlib.metadata
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.command_line import prepare_jax
from moto_jax.types import Agent, Config

if TYPE_CHECKING:
    from moto_jax.worlds.world import World

# Packages, the first version that works here, the first that is known to fail or has
# not been tried, and why.
_KNOWN_BAD = (
    ("mujoco", "3.1.6", "3.12", "others turn the camera, or compare joints otherwise"),
    ("orbax-checkpoint", "0.12.3", "0.13", "others write checkpoints otherwise"),
    ("jax", "0.10", "0.13", "others have not been tried"),
)

# Of a pair both must be of one version: JAX leaves the other unused, and a run goes on
# without the card.
_PAIRS = (
    ("jax-cuda12-plugin", "jaxlib"),
    ("jax-cuda13-plugin", "jaxlib"),
)

# What a part of the examination found: its lines, and what is wrong, if anything.
Finding = tuple[str, list[str], str | None]


def examine(
    config: Config, workdir: str, frame: str, compile_update: bool = False
) -> Iterator[Finding]:
    """Yields what each part found; a part that fails is a fault, not an error.

    Args:
      config: of the run that would start.
      workdir: where it would write.
      frame: of a picture that shows what is drawn here.
      compile_update: whether what an update takes is counted in place of estimated.
    """
    parts: tuple[tuple[str, Callable[[], tuple[list[str], str | None]]], ...] = (
        ("versions", _versions),
        ("JAX", _devices),
        ("values", lambda: _values(config)),
        ("frames", lambda: _frames(config, Path(frame))),
        ("caches", _caches),
        ("plan", lambda: _plan(config, workdir)),
        ("update", lambda: _update(config, compile_update)),
    )
    for title, part in parts:
        try:
            lines, fault = part()
        except SystemExit as error:
            lines, fault = [], str(error.code).removeprefix("error: ")
        except Exception as error:
            lines, fault = [], " ".join(str(error).split()) or type(error).__name__
        yield title, lines, fault


def _versions() -> tuple[list[str], str | None]:
    from moto_jax.running.provenance import versions

    found = versions()
    lines = [", ".join(f"{name} {version}" for name, version in found.items())]
    for package, least, first_bad, reason in _KNOWN_BAD:
        version = importlib.metadata.version(package)
        if not _numbers(least) <= _numbers(version) < _numbers(first_bad):
            mend = f"pip install '{package}>={least},<{first_bad}'"
            return lines, f"{package} is {version}, and {reason}: {mend}"
    for package, other in _PAIRS:
        version, wanted = _version(package), _version(other)
        if version and wanted and _numbers(version) != _numbers(wanted):
            return lines, (
                f"{package} is {version} and {other} {wanted}, so JAX leaves the card "
                f"unused: pip install '{package}=={wanted}'"
            )
    return lines, None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", version)[:3])


def _devices() -> tuple[list[str], str | None]:
    prepare_jax()
    import jax

    from moto_jax.running.provenance import describe, hardware

    kinds = ", ".join(str(device) for device in jax.devices())
    return [f"{kinds} ({describe(hardware())})"], None


def _values(config: Config) -> tuple[list[str], str | None]:
    from experiments.configs.keys import check_values

    check_values(config)
    return [f"{config.task}, {config.size}, {config.agent}: in their ranges"], None


def _frames(config: Config, path: Path) -> tuple[list[str], str | None]:
    import imageio.v3

    from moto_jax.worlds.graphics import software_warning
    from moto_jax.worlds.registry import make_world

    world = make_world(config)
    world.prepare()
    name = world.renderer_name()
    if name is None:
        return ["drawn in JAX"], None
    episode = world.demonstrate(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    imageio.v3.imwrite(path, episode.image[0])
    lines = [f"drawn by {name}; one is in {path}"]
    if episode.image[0].std() < 1:
        return lines, f"the frame {path} is of one colour: the driver draws nothing"
    warning = software_warning(name)
    return [*lines, warning] if warning else lines, None


def _caches() -> tuple[list[str], str | None]:
    from moto_jax.running.plan import nearest
    from moto_jax.running.run_control import keep_compiled_programs

    directory = keep_compiled_programs()
    size = sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
    lines = [f"compiled programs in {directory}: {size / 1e6:.0f} MB"]
    place = nearest(directory)
    if not (place.is_dir() and os.access(place, os.W_OK)):
        return lines, f"{directory} cannot be written to: set XDG_CACHE_HOME"
    return lines, None


def _plan(config: Config, workdir: str) -> tuple[list[str], str | None]:
    from moto_jax.running import plan

    planned = plan.make_plan(config, _agent(config)[0])
    memory, disk = plan.free_memory(), plan.free_disk(workdir)
    lines = plan.describe_plan(planned, memory, disk)
    return lines, plan.shortage(planned, memory, disk)


def _agent(config: Config) -> tuple[Agent, "World"]:
    from moto_jax.agents import make_agent
    from moto_jax.worlds.registry import make_world

    world = make_world(config)
    agent = make_agent(
        config, action_size=world.action_size, image_size=world.image_size
    )
    return agent, world


def _update(config: Config, compiled: bool) -> tuple[list[str], str | None]:
    import jax

    from experiments import update_memory
    from moto_jax.running import plan

    agent, world = _agent(config)
    batch = update_memory.abstract_batch(agent, world.action_size, world.image_size)
    count = update_memory.compiled_bytes if compiled else update_memory.traced_bytes
    needed = count(agent, batch)
    how = (
        "as compiled for this device"
        if compiled
        else "estimated from its operations; --compile counts it"
    )
    length, size = agent.batch_shape
    lines = [
        f"on {size} x {length} rows: {needed / 1e9:.2f} GB beside the state, {how}"
    ]
    # A device of its own has its own memory.
    stats = jax.devices()[0].memory_stats() or {}
    free = stats.get("bytes_limit", plan.free_memory())
    if free is not None and needed > free:
        return lines, (
            f"an update takes {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free: "
            "lower config.replay.batch_size or config.replay.sequence_length, or set "
            "config.moto.rematerialise"
        )
    return lines, None
