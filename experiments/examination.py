"""What of a machine and a configuration would stop a run, part by part."""

import importlib.metadata
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from experiments.command_line import prepare_jax
from moto_jax.types import Config

# Packages, the first version with which something here is known to fail, the mend.
_KNOWN_BAD = (
    ("mujoco", "3.12", "its joints compare otherwise: pip install 'mujoco<3.12'"),
    ("orbax-checkpoint", "0.13", "pip install 'orbax-checkpoint<0.13'"),
    ("jax", "0.13", "not tried yet: pip install 'jax<0.13'"),
)

# What a part of the examination found: its lines, and what is wrong, if anything.
Finding = tuple[str, list[str], str | None]


def examine(config: Config, workdir: str, frame: str) -> Iterator[Finding]:
    """Yields what each part found; a part that fails is a fault, not an error.

    Args:
      config: of the run that would start.
      workdir: where it would write.
      frame: of a picture that shows what is drawn here.
    """
    parts: tuple[tuple[str, Callable[[], tuple[list[str], str | None]]], ...] = (
        ("versions", _versions),
        ("JAX", _devices),
        ("values", lambda: _values(config)),
        ("frames", lambda: _frames(config, Path(frame))),
        ("caches", _caches),
        ("plan", lambda: _plan(config, workdir)),
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
    for package, first_bad, mend in _KNOWN_BAD:
        version = importlib.metadata.version(package)
        if _numbers(version) >= _numbers(first_bad):
            return lines, f"{package} is {version}: {mend}"
    return lines, None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", version)[:2])


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
    from moto_jax.agents import make_agent
    from moto_jax.running import plan
    from moto_jax.worlds.registry import make_world

    world = make_world(config)
    agent = make_agent(
        config, action_size=world.action_size, image_size=world.image_size
    )
    planned = plan.make_plan(config, agent)
    memory, disk = plan.free_memory(), plan.free_disk(workdir)
    lines = plan.describe_plan(planned, memory, disk)
    return lines, plan.shortage(planned, memory, disk)
