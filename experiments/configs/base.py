"""The sizes of a run's configuration: the paper's, and five smaller ones."""

from collections.abc import Callable

from ml_collections import ConfigDict

from experiments.configs.keys import paper_config

# A logarithm moves by at most this an update: it can fall tenfold in some hundred.
_TEMPERATURE = 1e-2


def _cpu() -> ConfigDict:
    """The real kitchen with small networks, for two CPU cores."""
    config = paper_config()
    config.size = "cpu"
    # CPUs have no fast bfloat16.
    config.compute_dtype = "float32"
    # One more worker than cores: while one waits for its action the others compute.
    config.env.update(render_profile="fast", workers=3)
    config.data.update(episodes=200, complete_share=0.2)
    config.replay.update(
        batch_size=12,
        sequence_length=24,
        # Twice as many rows that are cloned, of which a third of the data are.
        behaviour_share=0.5,
        cloned_action="intended",
    )
    config.world_model.update(
        deter=200,
        hidden=200,
        groups=16,
        classes=16,
        members=4,
        depth=16,
        reward_layers=2,
        reward_units=200,
        layer_norm=True,
    )
    config.actor.update(layers=2, units=200, min_std=0.05, layer_norm=True)
    config.critic.update(critics=2, layers=2, units=200, layer_norm=True)
    config.optimizer.update(
        learning_rates={"model": 1e-3, "actor": 1e-3, "critic": 3e-4},
        decay_steps=700,
        final_share=0.1,
        # Half as long again an update, and a quarter of the updates
        # (results/kitchen_tuning.md).
        muon_scale=10.0,
    )
    # Half the rollouts and half the pictures: a third more updates a minute, each as
    # good (results/kitchen_tuning.md).
    config.moto.update(
        horizon=8, value_divisor="return_range", starts_share=0.5, decoded_share=0.5
    )
    config.dreamer_v2.horizon = 8
    config.latent.update(
        rollout_every=20,
        batch_size=128,
        recorded_rows=60_000,
        imagined_rows=8_640,
        learning_rates={"actor": 1e-3, "critic": 3e-4, "temperature": _TEMPERATURE},
    )
    # Rates raised, and heads normalised, as those of the agents with a model.
    config.model_free.update(
        batch_size=64,
        min_std=0.05,
        layer_norm=True,
        learning_rates={"actor": 1e-3, "critic": 1e-3, "temperature": _TEMPERATURE},
    )
    # Follows the other, so that a shorter budget is one override.
    decay_steps = config.optimizer.get_ref("decay_steps")
    config.model_free.actor_decay_steps = decay_steps
    config.acting_average = 0.98
    config.training.update(
        offline_updates=600,
        online_episodes=10,
        updates_per_episode=10,
        # The mean policy does what it has learnt; the sampled one strays from it.
        collect_with="mean_with_noise",
        log_every=50,
        evaluate_every=0,
        checkpoint_every=500,
    )
    config.evaluation.episodes = 10
    return config


def _desktop() -> ConfigDict:
    """The real kitchen solved in an hour and a half, on two CPU cores."""
    config = _cpu()
    config.size = "desktop"
    # As many demonstrations as human ones: 200 are known by heart too soon.
    config.data.episodes = 581
    config.training.update(
        offline_updates=2_000,
        online_episodes=50,
        updates_per_episode=20,
        evaluate_every=1_000,
        evaluate_online_every=140,
    )
    config.optimizer.decay_steps = 3_000
    # The evaluations of the online phase are then of 200 episodes together.
    config.evaluation.update(episodes=20, phase_end_episodes=60)
    return config


def _gpu() -> ConfigDict:
    """Larger networks and batches for one GPU with 16 CPU cores beside it.

    Rates, weights and collection are those that solved the kitchen on a CPU; the budget
    is meant for a quarter of an hour, and has not been run to its end.
    """
    config = _desktop()
    config.size = "gpu"
    # The other core trains.
    config.env.workers = 15
    config.replay.update(batch_size=32, sequence_length=32)
    config.world_model.update(
        deter=400,
        hidden=400,
        groups=32,
        classes=32,
        members=5,
        depth=32,
        reward_units=400,
    )
    config.actor.units = 400
    config.critic.units = 400
    config.moto.horizon = 10
    config.dreamer_v2.horizon = 10
    config.latent.update(imagined_rows=30_720, batch_size=256)
    config.training.update(
        offline_updates=4_000,
        online_episodes=100,
        # As many at once leave no worker idle for long, and the ratio as it was.
        episodes_per_round=10,
        evaluate_online_every=400,
    )
    config.optimizer.decay_steps = 6_000
    return config


def _mini() -> ConfigDict:
    """The kitchen in miniature: the paper's figures in minutes, on two CPU cores."""
    config = _cpu()
    config.size = "mini"
    config.env.update(
        name="minikitchen",
        render_profile="mini",
        image_size=32,
        episode_steps=64,
        workers=1,
    )
    # As many demonstrations as human ones, in their proportions.
    config.data.update(episodes=581, complete_share=-1.0, action_noise=0.2)
    config.replay.update(
        batch_size=12,
        sequence_length=16,
        # There are few online episodes beside 581 demonstrations.
        online_share=0.5,
        # Objects leave the gripper by themselves: nothing is left to be cloned.
        behaviour_rows_after=0,
        behaviour_share=0.0,
        cloned_action="executed",
    )
    config.world_model.update(
        deter=128,
        hidden=128,
        groups=12,
        classes=12,
        members=4,
        depth=12,
        # A deeper or a normalised head takes four objects for little more than three.
        reward_layers=1,
        reward_units=96,
        layer_norm=False,
    )
    config.actor.update(units=96)
    config.critic.update(units=96)
    # The discount sees as far, in shares of an episode, as the kitchen's; a small
    # picture's likelihood, a sum over pixels, weighs less beside the KL.
    shared = {"horizon": 8, "discount": 0.965, "target_period": 20, "kl_scale": 0.3}
    # More of the cloning's gradient blinds so small a model to the gripper; critics of
    # a longer discount do not tell the fourth object from the third.
    config.moto.update(
        shared, discount=0.9, alpha=1.0, beta=1.0, behaviour_model_scale=2.0
    )
    config.moto.update(starts_share=1.0, decoded_share=1.0)
    config.dreamer_v2.update(shared)
    config.actor_critic.discount = 0.965
    config.latent.update(
        rollout_every=20,
        batch_size=128,
        recorded_rows=60_000,
        imagined_rows=11_520,
        kl_scale=0.3,
        learning_rates={"actor": 2e-3, "critic": 1e-3, "temperature": _TEMPERATURE},
    )
    config.model_free.update(batch_size=64, shift=2, depth=16, units=128)
    config.optimizer.update(
        learning_rates={"model": 3e-3, "actor": 2e-3, "critic": 1e-3},
        decay_steps=1_000,
        final_share=0.2,
        muon_scale=0.0,
    )
    config.acting_average = 0.99
    config.training.update(
        offline_updates=500,
        online_episodes=100,
        updates_per_episode=5,
        collect_with="sampled",
        log_every=100,
        evaluate_every=100,
        # Figure 5 has a point a checkpoint.
        checkpoint_every=100,
        keep_checkpoints=12,
    )
    # The last five evaluations, all of the online phase, are of 200 together.
    config.evaluation.episodes = 40
    return config


def _tiny() -> ConfigDict:
    """A smoke test: everything runs, nothing is learnt."""
    config = _cpu()
    config.size = "tiny"
    config.env.update(episode_steps=20, workers=1)
    config.data.update(episodes=3, complete_share=0.34)
    config.replay.update(batch_size=2, sequence_length=6)
    config.world_model.update(
        deter=8, hidden=8, groups=4, classes=4, members=2, depth=2, reward_units=8
    )
    config.actor.update(units=8)
    config.critic.update(units=8)
    config.moto.update(horizon=2)
    config.dreamer_v2.horizon = 2
    config.latent.update(
        horizon=2, rollout_every=2, batch_size=4, recorded_rows=400, imagined_rows=72
    )
    config.model_free.update(batch_size=4, depth=2, projection=4, units=8)
    # Tests compile often, and its iterations take long to.
    config.optimizer.muon_scale = 0.0
    config.training.update(
        offline_updates=4,
        online_episodes=2,
        updates_per_episode=2,
        log_every=1,
        checkpoint_every=2,
    )
    config.evaluation.episodes = 1
    return config


SIZES: dict[str, Callable[[], ConfigDict]] = {
    "full": paper_config,
    "gpu": _gpu,
    "desktop": _desktop,
    "cpu": _cpu,
    "mini": _mini,
    "tiny": _tiny,
}


def get_config(size: str = "full") -> ConfigDict:
    """Returns the configuration of a size.

    Raises:
      ValueError: for a size that does not exist.
    """
    size = size or "full"
    if size not in SIZES:
        raise ValueError(
            f"unknown size {size!r}: write --config=FILE.py:SIZE with one of "
            f"{', '.join(SIZES)}"
        )
    return SIZES[size]()
