"""The worlds by name; the only registry."""

from collections.abc import Callable

from moto_jax.types import Config
from moto_jax.worlds.kitchen.world import make_kitchen
from moto_jax.worlds.mini.world import make_minikitchen
from moto_jax.worlds.sources import check_source
from moto_jax.worlds.world import World

WORLDS: dict[str, Callable[[Config], World]] = {
    "kitchen": make_kitchen,
    "minikitchen": make_minikitchen,
}


def make_world(config: Config) -> World:
    """Returns the world that `config.env.name` names, without starting anything.

    Raises:
      ValueError: for a name that no world has, a task or a way of drawing that it has
        not, or an unknown source of demonstrations.
    """
    if config.env.name not in WORLDS:
        raise ValueError(
            f"unknown environment {config.env.name!r} in config.env.name: use one of "
            f"{', '.join(WORLDS)}"
        )
    world = WORLDS[config.env.name](config)
    check_source(config, world)
    return world
