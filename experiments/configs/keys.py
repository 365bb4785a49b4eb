"""Every key of a run's configuration: the paper's value, what it may be, what it is.

The paper prints its step counts only. The other values are those of its authors' family
of configurations, where one is known, and DreamerV2's otherwise.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments.configs.ranges import (
    BELOW_ONE,
    NAME,
    NOT_NEGATIVE,
    NUMBER,
    POSITIVE,
    POSITIVE_SHARE,
    SEED,
    SEEDS,
    SHARE,
    SHARE_OR_NEGATIVE,
    SWITCH,
    TEXT,
    Range,
    at_least,
    one_of,
)
from moto_jax.run_layout import flat_config
from moto_jax.worlds.kitchen.labels import BEHAVIOUR_ROWS_AFTER
from moto_jax.worlds.kitchen.tasks import EPISODE_STEPS


class Key(NamedTuple):
    """A key of the configuration.

    Attributes:
      value: at the paper's sizes.
      range: what it may be.
      meaning: what it is.
    """

    value: Any
    range: Range
    meaning: str


# What MOTO, DreamerV2, and the models of LOMPO and COMBO have alike.
_KL = {
    "kl_scale": Key(1.0, NOT_NEGATIVE, "weight of the KL in the model's loss"),
    "kl_balance": Key(0.8, SHARE, "share of the KL's gradient that the prior gets"),
    "free_nats": Key(1.0, NOT_NEGATIVE, "mean KL below which it has no gradient"),
}
_VALUES = {
    "horizon": Key(15, at_least(1), "H, imagined steps"),
    "discount": Key(0.99, BELOW_ONE, "gamma"),
    "lambda_": Key(0.95, SHARE, "lambda of the returns"),
    "target_period": Key(
        100, at_least(1), "updates between hard copies of the critics to their targets"
    ),
}
_GAP = {
    "policy_actions": Key(4, at_least(1), "actions a state drawn from the policy"),
    "uniform_actions": Key(4, at_least(1), "and drawn uniformly"),
    "backup_entropy": Key(
        False, SWITCH, "whether targets hold the next state's entropy"
    ),
}
_RATE = Key(3e-4, POSITIVE, "learning rate")

_TREE: dict[str, Any] = {
    "size": Key("full", NAME, "name of the preset"),
    "agent": Key(
        "moto",
        NAME,
        "which algorithm learns, a name in moto_jax.agents.AGENTS; each reads its own "
        "section and those that it shares",
    ),
    "task": Key(
        "mixed",
        NAME,
        '"mixed", "partial", or any of the seven objects in order, separated by '
        "commas; in MetaWorld one of its tasks",
    ),
    "seeds": Key(
        (0,), SEEDS, "each trains an agent of its own, all at once, in one program"
    ),
    "init_from": Key(
        "",
        TEXT,
        "directory of a run whose newest checkpoint this one starts from, with the "
        "same networks and demonstrations; empty: anew",
    ),
    "mesh": {
        "seed": Key(
            0,
            at_least(0),
            "groups of devices, between which seeds are split; 0: as many as divide "
            "them",
        ),
        "data": Key(
            0,
            at_least(0),
            "devices a group, over which a batch is split; 0: as many as divide it",
        ),
    },
    "distributed": Key(
        False,
        SWITCH,
        "whether this is one of several processes of the run, which find each other "
        "as moto_jax/running/machines.py says",
    ),
    "compute_dtype": Key(
        "bfloat16",
        one_of("float32", "bfloat16"),
        "of the networks' arithmetic; parameters, losses and optimisers are float32",
    ),
    "env": {
        "name": Key(
            "kitchen",
            NAME,
            '"kitchen", the real one; "minikitchen", a flat one on the device; '
            '"metaworld"; or "gym:" and the name of any Gymnasium environment',
        ),
        "modules": Key(
            "",
            TEXT,
            'of "gym:": modules to import first, as they register it, separated by '
            "commas",
        ),
        "options": Key("", TEXT, 'of "gym:": a JSON object of arguments'),
        "render_profile": Key(
            "shaded",
            NAME,
            'of a kitchen "paper" (shadows, reflections, multisampling), "shaded" '
            '(much the same look for a seventh of the work) or "fast" (a baked '
            "background, 280 times faster on a CPU); data and run must agree",
        ),
        "image_size": Key(
            64,
            at_least(1),
            "side of the square image, pixels; the networks take 64, 32 and 16",
        ),
        "robot_noise_ratio": Key(
            0.01, NOT_NEGATIVE, "noise on what the simulator's controller observes"
        ),
        "object_noise_ratio": Key(0.0005, NOT_NEGATIVE, "the same of the objects"),
        "episode_steps": Key(
            EPISODE_STEPS,
            at_least(1),
            "control steps an episode, 0.08 s each in the kitchen; then a truncation",
        ),
        "success_reward": Key(
            0.0,
            NUMBER,
            "reward with which an episode is a success where nothing tells of objects; "
            "0: of a kitchen, as much as its task has objects",
        ),
        "workers": Key(
            10,
            at_least(1),
            "processes that step environments, for each process of the run; results "
            "depend on their number only in the last bits",
        ),
    },
    "data": {
        "source": Key(
            "scripted",
            NAME,
            '"directory" (a dataset that is already there), "pixels" (a folder of npz '
            'episodes), "random" (random actions), "scripted" where there is a '
            'demonstrator, "d4rl" and "minari" (hdf5) in the real kitchen; or several, '
            '"d4rl+scripted"',
        ),
        "path": Key(
            "", TEXT, "file or folder that d4rl, minari or pixels read, and never write"
        ),
        "directory": Key(
            "",
            TEXT,
            "of source directory the dataset, which is only read; of others where it "
            "is made, or shared between runs; empty: RUN/dataset, or that of the run "
            "in init_from",
        ),
        "episodes": Key(
            581,
            at_least(1),
            "demonstrations of source scripted (the cleaned human data have 581), or "
            "episodes of source random",
        ),
        "complete_share": Key(
            -1.0,
            SHARE_OR_NEGATIVE,
            "share of them that does the whole task; negative: as in the human data, "
            "19 of 581 for mixed and none for partial",
        ),
        "action_noise": Key(
            0.1, BELOW_ONE, "standard deviation of the demonstrator's noise"
        ),
        "seed": Key(
            0, SEED, "of the demonstrations, apart from the run's, so that seeds share"
        ),
    },
    "replay": {
        "batch_size": Key(
            64,
            at_least(1),
            "B, sequences a batch; agents without a model have model_free.batch_size",
        ),
        "sequence_length": Key(50, at_least(2), "T, rows a sequence"),
        "online_share": Key(
            -1.0,
            SHARE_OR_NEGATIVE,
            "share of sequences from online episodes; negative: uniform over stored "
            "rows",
        ),
        "behaviour_rows_after": Key(
            BEHAVIOUR_ROWS_AFTER,
            at_least(0),
            "rows after the last object of the success filter that are cloned too",
        ),
        "behaviour_share": Key(
            0.0,
            SHARE,
            "share of sequences drawn around a row that is cloned; 0: as any other",
        ),
        "prefer_successes": Key(
            False,
            SWITCH,
            "whether that share is drawn from episodes that did the whole task, once "
            "there are any: of the demonstrations and of the online ones apart",
        ),
        "cloned_action": Key(
            "executed",
            one_of("executed", "intended"),
            "what is cloned of a demonstration: the action executed, as of the human "
            "data, or the one meant before the demonstrator's noise, where that is "
            "recorded; the model learns from what was executed",
        ),
    },
    "world_model": {
        "deter": Key(400, at_least(1), "D, deterministic state"),
        "hidden": Key(400, at_least(1), "width of the recurrent model's dense layers"),
        "groups": Key(32, at_least(1), "S, groups of classes in the stochastic state"),
        "classes": Key(32, at_least(2), "K, classes a group"),
        "members": Key(7, at_least(1), "E, prior heads"),
        "depth": Key(48, at_least(1), "channels of the first convolution"),
        "colour_scale": Key(
            1.0,
            POSITIVE,
            "weight of colour beside brightness in what the networks see and in the "
            "errors of what they draw; 1: red, green and blue as they are",
        ),
        "reward_layers": Key(4, at_least(0), "hidden layers of the reward head"),
        "reward_units": Key(400, at_least(1), "their width"),
        "layer_norm": Key(False, SWITCH, "whether the reward head normalises them"),
    },
    "actor": {
        "layers": Key(4, at_least(0), "hidden layers"),
        "units": Key(400, at_least(1), "their width"),
        "min_std": Key(0.1, POSITIVE_SHARE, "smallest standard deviation of an action"),
        "layer_norm": Key(False, SWITCH, "whether layers are normalised"),
    },
    "critic": {
        "critics": Key(5, at_least(1), "C"),
        "layers": Key(4, at_least(0), "hidden layers"),
        "units": Key(400, at_least(1), "their width"),
        "layer_norm": Key(False, SWITCH, "whether layers are normalised"),
    },
    "optimizer": {
        "learning_rates": {
            "model": _RATE,
            "actor": _RATE._replace(value=8e-5),
            "critic": _RATE._replace(value=8e-5),
        },
        "epsilon": Key(1e-5, POSITIVE, "Adam's"),
        "clip_norm": Key(100.0, POSITIVE, "largest norm of a gradient"),
        "weight_decay": Key(1e-6, NOT_NEGATIVE, "AdamW's"),
        "decay_steps": Key(
            0, at_least(0), "updates of a cosine decay of the rates; 0: none"
        ),
        "final_share": Key(1.0, SHARE, "share of the rates that it leaves"),
        "muon_scale": Key(
            0.0,
            NOT_NEGATIVE,
            "learning rate of weight matrices under Muon, in multiples of the rates; "
            "0: AdamW for everything",
        ),
    },
    "moto": {
        **_VALUES,
        "alpha": Key(
            2.5, NOT_NEGATIVE, 'weight of the penalty (Eq. 3); 0 is "No Unc."'
        ),
        "beta": Key(
            10.0,
            NOT_NEGATIVE,
            "weight of filtered behaviour cloning (Eq. 10); 0, and so "
            'behaviour_model_scale, is "No Reg."',
        ),
        "value_scale": Key(
            1.0,
            NUMBER,
            "weight of the value term in the actor's loss; the paper has 1",
        ),
        "value_final_share": Key(
            1.0, NOT_NEGATIVE, "share of it that is left after a linear decay"
        ),
        "value_decay_begin": Key(0, at_least(0), "updates before that decay"),
        "value_decay_steps": Key(0, at_least(0), "updates that it takes; 0: none"),
        "entropy_scale": Key(0.0, NOT_NEGATIVE, "weight of the policy's entropy"),
        "behaviour_model_scale": Key(
            10.0,
            NOT_NEGATIVE,
            "weight of the behaviour term in the world model's loss; the paper does "
            "not say, one configuration of its authors has 10",
        ),
        **_KL,
        "target_reduction": Key(
            "min",
            one_of("min", "random"),
            "Eq. 4-7 over target critics: their least (the paper's text) or one an "
            "update (the authors' code)",
        ),
        "disagreement": Key(
            "log_prob_std",
            one_of("log_prob_std", "logit_std", "jensen_shannon"),
            "u of Eq. 2; logit_std is the letter, jensen_shannon a divergence that "
            "does not grow as the members sharpen, of a tenth of the others' size",
        ),
        "value_divisor": Key(
            "one",
            one_of("one", "return_range"),
            "what the value term is divided by: nothing (the paper), or the running 5 "
            "to 95 % range of returns, which keeps beta's meaning while values grow",
        ),
        "return_range_decay": Key(0.99, BELOW_ONE, "of that range"),
        "row_weights": Key(
            "uniform",
            one_of("uniform", "cumulative_discount"),
            "weights of imagined rows: the paper's, or those of the authors' code",
        ),
        "rematerialise": Key(
            False,
            SWITCH,
            "whether the actor's gradient computes imagined steps again instead of "
            "keeping them: room for larger batches, for a tenth more arithmetic",
        ),
        "starts_share": Key(
            1.0,
            POSITIVE_SHARE,
            "share of a batch's rows, drawn anew each update, that rollouts start "
            "from; the paper: all",
        ),
        "decoded_share": Key(1.0, POSITIVE_SHARE, "the same of those that are decoded"),
        "critic_layers": Key(
            -1, at_least(-1), "hidden layers of MOTO's critics; -1: as in critic"
        ),
        "critic_learning_rate": Key(
            0.0, NOT_NEGATIVE, "their learning rate; 0: as in optimizer"
        ),
    },
    "dreamer_v2": {
        **_VALUES,
        "entropy_scale": Key(1e-4, NOT_NEGATIVE, "weight of the policy's entropy"),
        **_KL,
    },
    # LOMPO and COMBO: model first, then an actor-critic on stored latents.
    "latent": {
        "model_share": Key(
            0.5, BELOW_ONE, "share of the offline updates that train the model alone"
        ),
        "horizon": Key(5, at_least(1), "H of rollouts"),
        "rollout_every": Key(
            200,
            at_least(1),
            "updates of the actor-critic between rollouts from a batch's states",
        ),
        "batch_size": Key(
            256,
            at_least(1),
            "transitions a batch from the recorded rows, and as many from rollouts",
        ),
        "critics": Key(2, at_least(1), "C; their sizes are those of critic"),
        "recorded_rows": Key(
            600_000,
            at_least(1),
            "rows kept of the replay; beyond that, new ones take old ones' places",
        ),
        "imagined_rows": Key(
            96_000,
            at_least(1),
            "rows kept of rollouts, a multiple of T * B * (H + 1)",
        ),
        "learning_rates": {"actor": _RATE, "critic": _RATE, "temperature": _RATE},
        **_KL,
    },
    "lompo": {
        "penalty_scale": Key(
            5.0,
            NOT_NEGATIVE,
            "weight in the reward of the deviation of log-densities over members",
        ),
        "entropy_scale": Key(
            0.0,
            NOT_NEGATIVE,
            "weight of the entropy, in multiples of its temperature; its authors have "
            "no such term",
        ),
    },
    "combo": {
        "weight": Key(
            1.0,
            NOT_NEGATIVE,
            "weight of the conservative gap; the paper tunes it within 0.5 to 5",
        ),
        **_GAP,
    },
    # Without a model: SAC, CQL, IQL, BC, RLPD, Cal-QL.
    "model_free": {
        "frames": Key(3, at_least(1), "in a stack"),
        "batch_size": Key(256, at_least(1), "transitions"),
        "shift": Key(4, at_least(0), "largest random shift, pixels"),
        "depth": Key(
            32, at_least(1), "channels of the first convolution, doubled three times"
        ),
        "projection": Key(50, at_least(1), "units between embedding and each head"),
        "layers": Key(2, at_least(0), "hidden layers of the heads"),
        "units": Key(256, at_least(1), "their width"),
        "critics": Key(2, at_least(1), "C"),
        "min_std": Key(0.1, POSITIVE_SHARE, "smallest standard deviation of an action"),
        "layer_norm": Key(False, SWITCH, "whether heads' layers are normalised"),
        "learning_rates": {
            "actor": _RATE,
            "critic": _RATE._replace(meaning="learning rate, of IQL's V too"),
            "temperature": _RATE,
        },
        "actor_decay_steps": Key(
            76_300,
            at_least(0),
            "updates of a cosine decay of the actor's rate to zero, here the budget's "
            "10,000 + 1,326 * 50; 0: constant",
        ),
    },
    # SAC, CQL, Cal-QL, RLPD, LOMPO, COMBO; IQL takes the first two.
    "actor_critic": {
        "discount": Key(0.99, BELOW_ONE, "gamma"),
        "tau": Key(
            0.005, POSITIVE_SHARE, "share of the critics in their targets, each update"
        ),
        "initial_temperature": Key(0.1, POSITIVE, "of the entropy term"),
        "target_entropy_per_action": Key(
            -0.5, NUMBER, "nats an action dimension; -A/2 in all, as DrQ has it"
        ),
        "backup_entropy": Key(
            True,
            SWITCH,
            "whether targets hold the next state's entropy; CQL, Cal-QL and COMBO have "
            "a key of their own",
        ),
    },
    "cql": {
        "weight": Key(5.0, NOT_NEGATIVE, "weight of the conservative gap"),
        **_GAP,
    },
    "rlpd": {
        "critics": Key(10, at_least(1), "C, in place of model_free.critics"),
        "target_critics": Key(
            2, at_least(1), "of them drawn an update, whose least is the target"
        ),
    },
    "iql": {
        "expectile": Key(0.7, BELOW_ONE, "the paper's 0.5 to 0.7 for the kitchen"),
        "advantage_scale": Key(
            3.0,
            NOT_NEGATIVE,
            "the weights are exp(advantage_scale * advantage)",
        ),
        "max_weight": Key(100.0, POSITIVE, "and at most this"),
    },
    "bc": {
        "rows": Key(
            "all",
            one_of("all", "behaviour"),
            "what is cloned: all stored actions, or those of the success-filtered set",
        )
    },
    "acting_average": Key(
        0.0,
        BELOW_ONE,
        "decay of the averaged parameters that policies act with; 0: the live ones",
    ),
    "training": {
        "offline_updates": Key(10_000, at_least(0), "on the demonstrations"),
        "online_episodes": Key(
            1_326,
            at_least(0),
            'after them; "500 thousand steps" in the paper counts the dataset\'s 129 '
            "thousand",
        ),
        "updates_per_episode": Key(50, at_least(0), "for each online episode"),
        "episodes_per_round": Key(
            1,
            at_least(1),
            "episodes played at once, with the same parameters, before their updates",
        ),
        "updates_per_program": Key(
            1,
            at_least(1),
            "updates that the device does without asking the host in between; what is "
            "due after one of them ends a program early, and a run that is asked to "
            "stop stops after a program",
        ),
        "log_every": Key(100, at_least(0), "updates between log lines"),
        "evaluate_every": Key(
            2_500,
            at_least(0),
            "updates between evaluations, which fall on multiples, and at the end of "
            "each phase always; 0: then alone",
        ),
        "evaluate_online_every": Key(
            0,
            at_least(0),
            "the same of the online phase, counted from its start; 0: as offline",
        ),
        "checkpoint_every": Key(
            2_500, at_least(0), "updates between checkpoints, as evaluate_every"
        ),
        "keep_checkpoints": Key(3, at_least(1), "newest checkpoints that are kept"),
        "collect_with": Key(
            "sampled",
            one_of("sampled", "mean", "mean_with_noise"),
            "which policy gathers online episodes; mean_with_noise is normal noise "
            "around the mean",
        ),
        "collect_noise_std": Key(
            0.05, POSITIVE_SHARE, "standard deviation of that noise"
        ),
        "max_skipped": Key(
            10, at_least(1), "non-finite updates in a row after which the run stops"
        ),
    },
    "evaluation": {
        "episodes": Key(
            20,
            at_least(1),
            "episodes an evaluation plays with each of the mean and the sampled policy",
        ),
        "phase_end_episodes": Key(
            0,
            at_least(0),
            "the same at the end of a phase, where it is more; 0: as many",
        ),
    },
    "sinks": Key(
        "",
        TEXT,
        'what shows the numbers besides metrics.jsonl: "tensorboard", "wandb", or '
        "both with a comma between them; empty: nothing",
    ),
}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Key]]:
    for name, branch in tree.items():
        if isinstance(branch, Key):
            yield prefix + name, branch
        else:
            yield from _flat(branch, f"{prefix}{name}.")


# Dotted name, as a flag has it -> key.
KEYS = dict(_flat(_TREE))


def paper_config() -> ConfigDict:
    """The paper's sizes: hours on one large GPU."""
    return ConfigDict(_values(_TREE))


def _values(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: branch.value if isinstance(branch, Key) else _values(branch)
        for name, branch in tree.items()
    }


def check_values(config: ConfigDict) -> None:
    """Looks at each value by itself; what several must be together, others look at.

    Raises:
      ValueError: for the first that is missing or out of its range; names the key and
        the mend.
    """
    values = flat_config(config.to_dict())
    for name, key in KEYS.items():
        if name not in values:
            raise ValueError(
                f"config.{name} is missing: begin with a preset of "
                "experiments/configs/base.py"
            )
        value = values[name]
        if not key.range.holds(value):
            raise ValueError(f"config.{name} is {value!r}: use {key.range.says}")
