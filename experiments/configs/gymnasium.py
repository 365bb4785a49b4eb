r"""Any Gymnasium environment with bounded continuous actions, learnt from pixels.

One that renders, one with arguments of its own, and one that a module of yours
registers; each begins with random episodes and learns online:

    python -m experiments.run --config=experiments/configs/gymnasium.py:cpu \
        --config.env.name=gym:Reacher-v5
    python -m experiments.run --config=experiments/configs/gymnasium.py:cpu \
        --config.env.name=gym:Pusher-v5 \
        --config.env.options='{"width": 128, "height": 128}' --config.agent=dreamer_v2
    python -m experiments.run --config=experiments/configs/gymnasium.py:cpu \
        --config.env.name=gym:Dot-v0 --config.env.modules=tests.own_environment

An episode is a success once a reward reaches `config.env.success_reward`, and is cut
after `config.env.episode_steps`. Recorded episodes to start from: `config.data.source`
"pixels" or "directory".
"""

from ml_collections import ConfigDict

from experiments.configs import base
from moto_jax.worlds.gym.world import RENDER_PROFILE


def get_config(size: str = "full") -> ConfigDict:
    """Returns the configuration of a Gymnasium environment at a size."""
    config = base.get_config(size)
    config.env.update(
        name="gym:Reacher-v5", render_profile=RENDER_PROFILE, success_reward=1.0
    )
    # The run's directory and the figures' tasks are called after the environment.
    config.task = config.env.get_oneway_ref("name")
    # Nothing is known of what succeeds: no row is cloned before one is rewarded, and
    # what is tried must come from the policy's own noise.
    config.data.update(source="random", episodes=20)
    config.replay.update(behaviour_share=0.0, cloned_action="executed")
    config.moto.entropy_scale = config.dreamer_v2.entropy_scale
    config.training.collect_with = "sampled"
    if config.size == "tiny":
        config.data.episodes = 2
        return config
    config.env.episode_steps = 500
    if config.size == "full":
        config.training.update(offline_updates=1_000, online_episodes=1_000)
        return config
    config.env.workers = max(3, config.env.workers)
    config.training.update(
        offline_updates=200,
        online_episodes=100,
        updates_per_episode=20,
        evaluate_online_every=500,
    )
    config.optimizer.decay_steps = 2_200
    return config
