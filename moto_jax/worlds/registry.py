"""The worlds by name; the only registry."""

from collections.abc import Callable

from moto_jax.types import Config
from moto_jax.worlds.gym.world import PREFIX, make_gym
from moto_jax.worlds.kitchen.world import make_kitchen
from moto_jax.worlds.metaworld.world import make_metaworld
from moto_jax.worlds.mini.world import make_minikitchen
from moto_jax.worlds.sources import with_sources
from moto_jax.worlds.world import World

WORLDS: dict[str, Callable[[Config], World]] = {
    "kitchen": make_kitchen,
    "minikitchen": make_minikitchen,
    "metaworld": make_metaworld,
}


def make_world(config: Config) -> World:
    """Returns the world that `config.env.name` names, without starting anything.

    Names that begin with `gym:` are Gymnasium's.

    Raises:
      ValueError: for a name that no world has, a task or a way of drawing that it has
        not, or an unknown source of demonstrations.
    """
    name = config.env.name
    make = make_gym if name.startswith(PREFIX) else WORLDS.get(name)
    if make is None:
        raise ValueError(
            f"unknown environment {name!r} in config.env.name: use one of "
            f"{', '.join(WORLDS)}, or {PREFIX} and the name of a Gymnasium environment"
        )
    return with_sources(config, make(config))
