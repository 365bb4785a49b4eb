"""The agents by name; the only registry."""

from collections.abc import Callable

from moto_jax.agents.moto import make_moto
from moto_jax.types import Agent

AGENTS: dict[str, Callable[..., Agent]] = {"moto": make_moto}


def make_agent(config, *, action_size: int, image_size: int) -> Agent:
    """Builds the agent that `config.agent` names.

    Raises:
      ValueError: for a name that no agent has.
    """
    if config.agent not in AGENTS:
        raise ValueError(
            f"unknown agent {config.agent!r}: set config.agent to one of "
            f"{', '.join(AGENTS)}"
        )
    return AGENTS[config.agent](config, action_size=action_size, image_size=image_size)
