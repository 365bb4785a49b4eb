"""Every key of a run's configuration with its meaning, at the paper's sizes.

The paper prints its step counts only. The other values are those of its authors' family
of configurations, where one is known, and DreamerV2's otherwise.
"""

from ml_collections import ConfigDict

from moto_jax.worlds.kitchen.labels import BEHAVIOUR_ROWS_AFTER
from moto_jax.worlds.kitchen.tasks import EPISODE_STEPS


def paper_config() -> ConfigDict:
    """The paper's sizes: hours on one large GPU."""
    config = ConfigDict()
    config.size = "full"
    # Which algorithm learns: a name in moto_jax.agents.AGENTS; each reads its own
    # section and those that it shares with others.
    config.agent = "moto"
    # "mixed", "partial", or any of the seven objects in order, separated by commas.
    config.task = "mixed"
    # In [0, 2**32). Each trains an agent of its own; all at once, in one program.
    config.seeds = (0,)
    # Directory of a run whose newest checkpoint this one starts from, with the same
    # networks and demonstrations (moto_jax/running/branching.py); empty: anew.
    config.init_from = ""
    # Devices: `seed` groups, between which the seeds are split, of `data` devices, over
    # which a group's batches are split; 0: as many as divide seeds and batch.
    config.mesh = ConfigDict({"seed": 0, "data": 0})
    # Whether this is one of several processes of the run, which find each other as
    # moto_jax/running/machines.py says.
    config.distributed = False
    # Dtype of the networks' arithmetic, "float32" or "bfloat16"; parameters, losses and
    # optimisers are float32 always. DreamerV2 computes in half precision too.
    config.compute_dtype = "bfloat16"

    config.env = ConfigDict(
        {
            # "kitchen", the real one; "minikitchen", a flat one on the device;
            # "metaworld"; or "gym:" and the name of any Gymnasium environment.
            "name": "kitchen",
            # Of "gym:" alone: modules to import first, as they register it, separated
            # by commas, and a JSON object of arguments to make it with.
            "modules": "",
            "options": "",
            # "paper": shadows, reflections, multisampling; "shaded": much the same look
            # for a seventh of the work; "fast": a baked background under simplified
            # moving parts, 280 times faster on a CPU. Data and run must agree.
            "render_profile": "shaded",
            # Side of the square image, pixels; the networks take 64, 32 and 16.
            "image_size": 64,
            # Noise that the simulator adds to what its controller and it observe.
            "robot_noise_ratio": 0.01,
            "object_noise_ratio": 0.0005,
            # Control steps an episode, 0.08 s each in the kitchen; then a truncation.
            "episode_steps": EPISODE_STEPS,
            # Reward with which an episode is a success where nothing tells of objects;
            # 0: of a kitchen, as much as its task has objects.
            "success_reward": 0.0,
            # Processes that step environments, for each process of the run; results
            # depend on their number only in the last bits.
            "workers": 10,
        }
    )
    config.data = ConfigDict(
        {
            # In every world: "directory", a dataset that is already there; "pixels", a
            # folder of npz episodes; "random", episodes of random actions. In a world
            # with a demonstrator "scripted"; in the real kitchen "d4rl" and "minari",
            # hdf5 files whose joint positions are drawn. Or several, "d4rl+scripted".
            "source": "scripted",
            # What source "d4rl", "minari" or "pixels" reads: the hdf5 file, or the
            # folder. It is never written to.
            "path": "",
            # Of source "directory" the dataset, which is only read. Of others where it
            # is made, or shared between runs; empty: RUN/dataset, or that of the run in
            # init_from.
            "directory": "",
            # Demonstrations of source "scripted", of which the cleaned human data have
            # 581, or episodes of source "random".
            "episodes": 581,
            # Share of them that does the whole task; negative: as in the human data,
            # 19 of 581 for mixed and none for partial.
            "complete_share": -1.0,
            # Standard deviation of the noise on the demonstrator's actions.
            "action_noise": 0.1,
            # Of the demonstrations, in [0, 2**32); apart from the run's, so that seeds
            # share them.
            "seed": 0,
        }
    )
    config.replay = ConfigDict(
        {
            # Sequences a batch (B) and rows a sequence (T); agents without a model have
            # config.model_free.batch_size instead.
            "batch_size": 64,
            "sequence_length": 50,
            # Share of sequences from online episodes; negative: uniform over stored
            # rows.
            "online_share": -1.0,
            # Rows after the last object of the success filter that are cloned too.
            "behaviour_rows_after": BEHAVIOUR_ROWS_AFTER,
            # Share of sequences drawn around a row that is cloned; 0: as any other.
            "behaviour_share": 0.0,
            # What is cloned of a demonstration: the "executed" action, as of the human
            # data, or the one that was "intended" before the demonstrator's noise,
            # where that is recorded. The model learns from what was executed always.
            "cloned_action": "executed",
        }
    )
    config.world_model = ConfigDict(
        {
            "deter": 400,  # D
            "hidden": 400,  # width of the recurrent model's dense layers
            "groups": 32,  # S
            "classes": 32,  # K
            "members": 7,  # E
            "depth": 48,  # channels of the first convolution
            # Weight of colour beside brightness in what the networks see and in the
            # errors of what they draw; 1: red, green and blue as they are.
            "colour_scale": 1.0,
            "reward_layers": 4,
            "reward_units": 400,
            "layer_norm": False,  # in the reward head
        }
    )
    config.actor = ConfigDict(
        {"layers": 4, "units": 400, "min_std": 0.1, "layer_norm": False}
    )
    config.critic = ConfigDict(
        {"critics": 5, "layers": 4, "units": 400, "layer_norm": False}
    )
    config.optimizer = ConfigDict(
        {
            "learning_rates": {"model": 3e-4, "actor": 8e-5, "critic": 8e-5},
            "epsilon": 1e-5,
            "clip_norm": 100.0,
            "weight_decay": 1e-6,
            # Cosine decay over this many updates (0: none) to this share of the rate.
            "decay_steps": 0,
            "final_share": 1.0,
            # Learning rate of weight matrices under Muon, in multiples of the rates
            # above; 0: AdamW for everything.
            "muon_scale": 0.0,
        }
    )
    config.moto = ConfigDict(
        {
            "horizon": 15,  # H, imagined steps
            "discount": 0.99,
            "lambda_": 0.95,
            # Weight of the disagreement penalty (Eq. 3); 0 is the paper's "No Unc.".
            "alpha": 2.5,
            # Weight of filtered behaviour cloning (Eq. 10); 0, and so the behaviour
            # term of the model below, is "No Reg.".
            "beta": 10.0,
            # Weight of the value term in the actor loss; the paper has 1.
            "value_scale": 1.0,
            # Share of it that is left after a linear decay: the updates before it, and
            # those that it takes (0: none).
            "value_final_share": 1.0,
            "value_decay_begin": 0,
            "value_decay_steps": 0,
            "entropy_scale": 0.0,
            # Weight of the behaviour term in the world model's loss. The paper does not
            # say; one configuration of its authors has 10.
            "behaviour_model_scale": 10.0,
            "kl_scale": 1.0,
            # Share of the KL's gradient that goes to the prior.
            "kl_balance": 0.8,
            "free_nats": 1.0,
            # Updates between hard copies of the critics to their targets.
            "target_period": 100,
            # Eq. 4-7 over target critics: "min" (the paper's text) or one "random"
            # critic an update (the authors' code).
            "target_reduction": "min",
            # u of Eq. 2 from "log_prob_std" or, to the letter, "logit_std".
            "disagreement": "log_prob_std",
            # What the value term is divided by: "one" (the paper), or the running 5 to
            # 95 % "return_range", which keeps beta's meaning while values grow.
            "value_divisor": "one",
            "return_range_decay": 0.99,
            # Weights of imagined rows: "uniform" (the paper) or "cumulative_discount"
            # (the authors' code).
            "row_weights": "uniform",
            # Whether the actor's gradient computes imagined steps again instead of
            # keeping them: room for larger batches, for a tenth more arithmetic.
            "rematerialise": False,
            # Shares of a batch's rows, drawn anew each update, that rollouts start from
            # and that are decoded; the paper: all.
            "starts_share": 1.0,
            "decoded_share": 1.0,
            # Hidden layers of MOTO's critics, and their learning rate; -1 and 0: as in
            # config.critic and config.optimizer, which are the other agents' too.
            "critic_layers": -1,
            "critic_learning_rate": 0.0,
        }
    )
    config.dreamer_v2 = ConfigDict(
        {
            # As in config.moto.
            "horizon": 15,
            "discount": 0.99,
            "lambda_": 0.95,
            "entropy_scale": 1e-4,
            "kl_scale": 1.0,
            "kl_balance": 0.8,
            "free_nats": 1.0,
            "target_period": 100,
        }
    )
    # LOMPO and COMBO: model first, then an actor-critic on stored latents.
    config.latent = ConfigDict(
        {
            # Share of the offline updates that train the model alone.
            "model_share": 0.5,
            "horizon": 5,  # H of rollouts
            # Updates of the actor-critic between rollouts from a batch's states.
            "rollout_every": 200,
            # Transitions a batch from the recorded rows, and as many from rollouts.
            "batch_size": 256,
            "critics": 2,  # C; their sizes are config.critic's
            # Rows kept: of the replay (beyond that, new rows take old ones' places) and
            # of rollouts (a multiple of T * B * (H + 1)).
            "recorded_rows": 600_000,
            "imagined_rows": 96_000,
            "kl_scale": 1.0,
            "kl_balance": 0.8,
            "free_nats": 1.0,
        }
    )
    # Weight of the deviation of log-densities over members in the reward.
    config.lompo = ConfigDict({"penalty_scale": 5.0})
    # The paper tunes the weight within 0.5 to 5.
    config.combo = ConfigDict(
        {"weight": 1.0, "policy_actions": 4, "uniform_actions": 4}
    )
    # Without a model: SAC, CQL, IQL, BC.
    config.model_free = ConfigDict(
        {
            "frames": 3,  # in a stack
            "batch_size": 256,  # transitions
            "shift": 4,  # largest random shift, pixels
            "depth": 32,  # channels of the first convolution, doubled three times
            "projection": 50,  # units between the embedding and each head
            "layers": 2,
            "units": 256,
            "critics": 2,  # C
            "min_std": 0.1,
            "layer_norm": False,  # in the heads
            # IQL's V learns at the critics' rate.
            "learning_rates": {"actor": 3e-4, "critic": 3e-4, "temperature": 3e-4},
            # Updates of a cosine decay of the actor's rate to zero, here the budget's
            # 10,000 + 1,326 * 50; 0: constant.
            "actor_decay_steps": 76_300,
        }
    )
    # SAC, CQL, LOMPO, COMBO; IQL takes the first two.
    config.actor_critic = ConfigDict(
        {
            "discount": 0.99,
            "tau": 0.005,  # share of the critics in their targets, each update
            "initial_temperature": 1.0,
            # Nats an action dimension; -A/2 in all, as DrQ has it.
            "target_entropy_per_action": -0.5,
            # Whether targets hold the next state's entropy.
            "backup_entropy": True,
        }
    )
    # Weight of the conservative gap, and actions a state to estimate it with.
    config.cql = ConfigDict({"weight": 5.0, "policy_actions": 4, "uniform_actions": 4})
    config.iql = ConfigDict(
        {
            "expectile": 0.7,  # the paper's 0.5 to 0.7 for the kitchen
            # The weights are exp(advantage_scale * advantage), at most max_weight.
            "advantage_scale": 3.0,
            "max_weight": 100.0,
        }
    )
    # What is cloned: "all" stored actions, or those of the success-filtered set,
    # "behaviour", alone.
    config.bc = ConfigDict({"rows": "all"})
    # Decay of the averaged parameters that policies act with; 0: the live ones.
    config.acting_average = 0.0
    config.training = ConfigDict(
        {
            "offline_updates": 10_000,
            # One episode an iteration, then so many updates. "500 thousand steps" in
            # the paper counts the dataset's 129 thousand. Several a round are played
            # at once, with the same parameters, and so many updates for each follow.
            "online_episodes": 1_326,
            "updates_per_episode": 50,
            "episodes_per_round": 1,
            # Updates that the device does without asking the host in between; what is
            # due after one of them ends a program early. A run that is asked to stop
            # stops after a program.
            "updates_per_program": 1,
            # Updates between log lines, evaluations and checkpoints. The last two fall
            # on multiples, and at the end of each phase, always; 0: then alone.
            "log_every": 100,
            "evaluate_every": 2_500,
            # Updates between evaluations of the online phase, counted from its start;
            # 0: as offline.
            "evaluate_online_every": 0,
            "checkpoint_every": 2_500,
            "keep_checkpoints": 3,
            # Which policy gathers online episodes: "sampled", "mean", or
            # "mean_with_noise", normal noise of a standard deviation around the mean.
            "collect_with": "sampled",
            "collect_noise_std": 0.05,
            # Non-finite updates in a row after which the run stops.
            "max_skipped": 10,
        }
    )
    config.evaluation = ConfigDict(
        {
            # Episodes an evaluation plays with each of the mean and the sampled policy.
            "episodes": 20,
            # The same at the end of a phase, where it is more; 0: as many.
            "phase_end_episodes": 0,
        }
    )
    # What shows the numbers besides metrics.jsonl: "tensorboard", "wandb", or both with
    # a comma between them (moto_jax.running.sinks.SINKS); empty: nothing.
    config.sinks = ""
    return config
