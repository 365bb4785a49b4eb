"""What of each other system's numbers is tried in the miniature, five trials each.

As many for all: the preset's numbers, a third of the learning rates, and what each
system's authors vary themselves; DreamerV2's lower rates come with the discount that an
earlier trial took with them. What does best is to stand in the plan `mini` of
`launch.tables`; MOTO's numbers settled the environment that all share.
"""

from collections.abc import Mapping

# A third of the learning rates that `mini` has for agents without and with a model.
SLOWER = {
    "model_free.learning_rates.actor": "3e-4",
    "model_free.learning_rates.critic": "3e-4",
    "model_free.learning_rates.temperature": "3e-4",
}
SLOWER_WITH_MODEL = {
    "optimizer.learning_rates.model": "1e-3",
    "optimizer.learning_rates.actor": "7e-4",
    "optimizer.learning_rates.critic": "3e-4",
}
SLOWER_LATENT = {
    "optimizer.learning_rates.model": "1e-3",
    "latent.learning_rates.actor": "7e-4",
    "latent.learning_rates.critic": "3e-4",
}

_SHORT_SIGHTED = {"actor_critic.discount": "0.9"}
_NO_ENTROPY_IN_TARGETS = {"actor_critic.backup_entropy": "false"}

_CONSERVATIVE: Mapping[str, Mapping[str, str]] = {
    "preset": {},
    "slower": SLOWER,
    "weight_1": {"cql.weight": "1"},
    "discount_90": _SHORT_SIGHTED,
    "slower_weight_1": {**SLOWER, "cql.weight": "1"},
}

# Agent -> name of a trial -> what it has otherwise than the preset.
TRIALS: Mapping[str, Mapping[str, Mapping[str, str]]] = {
    "bc": {
        "preset": {},
        "slower": SLOWER,
        "successes": {"bc.rows": "behaviour"},
        "slower_successes": {**SLOWER, "bc.rows": "behaviour"},
        "no_shift": {"model_free.shift": "0"},
    },
    "iql": {
        "preset": {},
        "slower": SLOWER,
        "scale_half": {"iql.advantage_scale": "0.5"},
        "scale_10": {"iql.advantage_scale": "10"},
        "expectile_90": {"iql.expectile": "0.9"},
    },
    "sac": {
        "preset": {},
        "slower": SLOWER,
        "discount_90": _SHORT_SIGHTED,
        "cold": {"actor_critic.initial_temperature": "0.01"},
        "no_entropy_in_targets": _NO_ENTROPY_IN_TARGETS,
    },
    "cql": _CONSERVATIVE,
    "cal_ql": _CONSERVATIVE,
    "rlpd": {
        "preset": {},
        "slower": SLOWER,
        "discount_90": _SHORT_SIGHTED,
        "no_entropy_in_targets": _NO_ENTROPY_IN_TARGETS,
        "target_of_one": {"rlpd.target_critics": "1"},
    },
    "dreamer_v2": {
        "preset": {},
        "slower_discount_90": {**SLOWER_WITH_MODEL, "dreamer_v2.discount": "0.9"},
        "entropy_tenth": {"dreamer_v2.entropy_scale": "0.1"},
        "entropy_hundredth": {"dreamer_v2.entropy_scale": "0.01"},
        "entropy_tenth_discount_90": {
            "dreamer_v2.entropy_scale": "0.1",
            "dreamer_v2.discount": "0.9",
        },
    },
    "lompo": {
        "preset": {},
        "slower": SLOWER_LATENT,
        "penalty_1": {"lompo.penalty_scale": "1"},
        "penalty_0": {"lompo.penalty_scale": "0"},
        "discount_90": _SHORT_SIGHTED,
    },
    "combo": {
        "preset": {},
        "slower": SLOWER_LATENT,
        "weight_half": {"combo.weight": "0.5"},
        "weight_tenth": {"combo.weight": "0.1"},
        "discount_90": _SHORT_SIGHTED,
    },
}
