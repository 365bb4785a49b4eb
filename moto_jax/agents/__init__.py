"""The agents by name; the only registry."""

from collections.abc import Callable

from moto_jax.agents.bc import make_bc
from moto_jax.agents.cal_ql import make_cal_ql
from moto_jax.agents.combo import make_combo
from moto_jax.agents.cql import make_cql
from moto_jax.agents.dreamer_v2 import make_dreamer_v2
from moto_jax.agents.iql import make_iql
from moto_jax.agents.lompo import make_lompo
from moto_jax.agents.moto import make_moto
from moto_jax.agents.rlpd import make_rlpd
from moto_jax.agents.sac import make_sac
from moto_jax.types import Agent

AGENTS: dict[str, Callable[..., Agent]] = {
    "moto": make_moto,
    "dreamer_v2": make_dreamer_v2,
    "lompo": make_lompo,
    "combo": make_combo,
    "cql": make_cql,
    "iql": make_iql,
    "sac": make_sac,
    "bc": make_bc,
    "rlpd": make_rlpd,
    "cal_ql": make_cal_ql,
}


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
