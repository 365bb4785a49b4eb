r"""Ten MetaWorld tasks from ten scripted episodes each, with a reward of 0 or 1.

The settings of the published paper's MetaWorld experiments, then two CPU cores:

    pip install --no-deps metaworld==3.1.1
    python -m experiments.run --config=experiments/configs/metaworld.py
    python -m experiments.run --config=experiments/configs/metaworld.py:cpu \
        --config.task=door-open

Tasks: assembly, bin-picking, box-close, coffee-push, disassemble, door-open,
drawer-open, hammer, plate-slide, window-open.
"""

from ml_collections import ConfigDict

from experiments.configs import base
from moto_jax.worlds.metaworld.tasks import EPISODE_STEPS, RENDER_PROFILE


def get_config(size: str = "full") -> ConfigDict:
    """Returns the configuration of MetaWorld at a size; the task is drawer-open."""
    config = base.get_config(size)
    config.task = "drawer-open"
    config.env.update(
        name="metaworld",
        render_profile=RENDER_PROFILE,
        # Decisions of two simulator steps of 0.0125 s.
        episode_steps=EPISODE_STEPS,
        success_reward=1.0,
    )
    config.data.update(episodes=10, action_noise=0.1)
    if config.size == "tiny":
        # As many as the policy takes.
        config.env.episode_steps = 80
        config.data.episodes = 2
        return config
    config.evaluation.episodes = 10
    if config.size == "full":
        config.training.update(
            offline_updates=1_000, online_episodes=500, updates_per_episode=50
        )
        return config
    config.env.workers = max(3, config.env.workers)
    # A third of the rows are cloned, of 2,010.
    config.replay.update(behaviour_share=0.5, cloned_action="intended")
    config.training.update(
        offline_updates=1_000,
        online_episodes=50,
        updates_per_episode=20,
        evaluate_every=500,
        evaluate_online_every=500,
    )
    config.optimizer.decay_steps = 2_000
    return config
