import importlib
import json
import math
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments.configs import base
from moto_jax.agents import AGENTS, make_agent
from moto_jax.run_layout import RunError, flat_config
from moto_jax.running.run_directory import bind, claimed
from moto_jax.running.schedule import make_schedule
from moto_jax.types import Batch
from moto_jax.worlds.gym import world as gym
from moto_jax.worlds.kitchen import tasks
from moto_jax.worlds.kitchen.composition import composition
from moto_jax.worlds.kitchen.renderer import RENDER_PROFILES
from moto_jax.worlds.metaworld import tasks as metaworld
from moto_jax.worlds.mini import minikitchen
from moto_jax.worlds.registry import make_world

FILES = sorted(
    path.stem
    for path in Path(base.__file__).parent.glob("*.py")
    if path.stem not in ("__init__", "keys", "ranges", "reference")
)


def get_config(file, size):
    return importlib.import_module(f"experiments.configs.{file}").get_config(size)


def build(config):
    return make_agent(
        config,
        action_size=make_world(config).action_size,
        image_size=config.env.image_size,
    )


def keys(section, prefix=""):
    """The names of all leaves, with their sections."""
    return sorted(
        name
        for key, value in section.items()
        for name in (
            keys(value, f"{prefix}{key}.")
            if isinstance(value, ConfigDict)
            else [prefix + key]
        )
    )


every_config = pytest.mark.parametrize("size", base.SIZES)
every_file = pytest.mark.parametrize("file", FILES)


@every_file
@every_config
def test_every_size_of_every_file_makes_a_run(file, size):
    config = get_config(file, size)
    assert config.size == size
    agent = build(config)
    state = jax.eval_shape(agent.init, jax.random.key(0))
    acting = jax.eval_shape(agent.acting_params, state)
    params = [leaf for leaf in jax.tree.leaves(acting) if leaf.dtype == np.float32]
    assert sum(leaf.size for leaf in params) > 100
    assert make_schedule(config.training).total > 0
    assert config.training.collect_with in agent.policies
    assert set(agent.updates) == {"offline", "online"}
    assert (
        config.env.render_profile
        in {
            "kitchen": RENDER_PROFILES,
            "minikitchen": (minikitchen.RENDER_PROFILE,),
            "metaworld": (metaworld.RENDER_PROFILE,),
            "gym": (gym.RENDER_PROFILE,),
        }[config.env.name.partition(":")[0]]
    )
    # The shortest stored episode fills a sequence, the longest imagination fits one.
    assert config.replay.sequence_length <= config.env.episode_steps + 1


@every_file
@every_config
def test_every_file_has_the_keys_of_the_base(file, size):
    assert keys(get_config(file, size)) == keys(base.get_config())


@every_file
@every_config
def test_every_configuration_can_be_kept_as_json(file, size, tmp_path):
    config = get_config(file, size).to_dict()
    # JSON has no tuples.
    assert json.loads(json.dumps(config)) == config | {"seeds": [0]}
    for _ in range(2):
        with claimed(tmp_path, config):
            bind(tmp_path, config)
    with pytest.raises(RunError), claimed(tmp_path, config | {"seeds": (5,)}):
        pass


@pytest.mark.parametrize("file", ["base", "mixed", "partial"])
@every_config
def test_the_demonstrations_can_be_composed(file, size):
    config = get_config(file, size)
    task = tasks.resolve_task(config.task)
    share = config.data.complete_share
    sequences = composition(
        task, config.data.episodes, None if share < 0 else share, config.data.seed
    )
    assert len(sequences) == config.data.episodes
    complete = sum(set(task) <= set(sequence) for sequence in sequences)
    if config.task == "partial":
        assert complete == 0
    else:
        assert 0 < complete < len(sequences)


@pytest.mark.parametrize(
    ("name", "size"),
    # At the smallest size every agent is in a table of its own, and computes.
    [*(("moto", size) for size in base.SIZES), *((name, "full") for name in AGENTS)][
        1:
    ],
)
def test_one_update_of_every_size_keeps_the_state_as_it_was(name, size):
    """What comes back has the structure, shapes and dtypes of what went in."""
    config = base.get_config(size)
    config.agent = name
    agent = build(config)
    state = jax.eval_shape(agent.init, jax.random.key(0))
    rows = agent.batch_shape
    image = (config.env.image_size, config.env.image_size, 3)
    flag = jax.ShapeDtypeStruct(rows, np.bool_)
    action = jax.ShapeDtypeStruct((*rows, make_world(config).action_size), np.float32)
    batch = Batch(
        image=jax.ShapeDtypeStruct((*rows, *image), np.uint8),
        prev_action=action,
        reward=jax.ShapeDtypeStruct(rows, np.float32),
        is_first=flag,
        is_last=flag,
        is_terminal=flag,
        is_behaviour=flag,
        behaviour_action=action,
        return_to_go=jax.ShapeDtypeStruct(rows, np.float32),
        row=jax.ShapeDtypeStruct(rows, np.int32),
    )
    for update in dict.fromkeys(agent.updates.values()):
        after, metrics = jax.eval_shape(update, state, batch)
        described = [
            jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree)
            for tree in (state, after)
        ]
        assert described[0] == described[1]
        assert "skipped_in_a_row" in metrics
        assert all(metric.shape == () for metric in metrics.values())


@every_config
def test_files_differ_by_their_task_and_what_partial_needs(size):
    """At the sizes of the paper and the miniature by the task alone."""
    mixed, partial = (
        flat_config(get_config(file, size).to_dict()) for file in ("mixed", "partial")
    )
    assert (mixed["task"], partial["task"]) == ("mixed", "partial")
    assert mixed["world_model.colour_scale"] == 1.0
    assert mixed["world_model.reward_layers"] > 0
    changed = {key for key in mixed if mixed[key] != partial[key]}
    if size in ("full", "mini"):
        assert changed == {"task"}
        return
    # Networks and rates of other agents are the same for either task; only how long the
    # rates decay goes with the budget.
    needed = {
        *("task", "data.complete_share"),
        *("world_model.colour_scale", "world_model.reward_layers"),
        *("replay.behaviour_rows_after", "replay.online_share"),
        *("moto.value_divisor", "moto.critic_layers", "moto.critic_learning_rate"),
    }
    if size != "tiny":
        needed |= {"moto.horizon", "moto.starts_share"}
    if size == "desktop":
        needed |= {
            *("training.online_episodes", "training.evaluate_online_every"),
            *("optimizer.decay_steps", "model_free.actor_decay_steps"),
        }
    assert changed == needed


def test_an_empty_size_is_the_papers():
    assert base.get_config("").size == base.get_config().size == "full"


def test_an_unknown_size_is_refused_with_those_there_are():
    with pytest.raises(ValueError) as error:
        get_config("mixed", "huge")
    message = str(error.value)
    assert "'huge'" in message and "\n" not in message
    assert all(size in message for size in base.SIZES)


def test_configurations_are_fresh_each_time():
    base.get_config("tiny").moto.alpha = 100.0
    assert base.get_config("tiny").moto.alpha == 2.5


@pytest.mark.parametrize(
    ("changes", "culprit"),
    [
        ({"agent": "dreamer"}, "'dreamer'.*config.agent.*moto.*dreamer_v2"),
        ({"agent": "bc", "bc.rows": "some"}, "'some' in config.bc.rows"),
        ({"agent": "iql", "env.image_size": 48}, "image size 48.*64"),
        ({"agent": "lompo", "world_model.classes": 300}, "300.*at most 256"),
        ({"agent": "lompo", "latent.imagined_rows": 9}, "imagined_rows is 9.*36"),
        ({"env.image_size": 48}, "image size 48.*64"),
        ({"moto.disagreement": "none"}, "'none' in config.moto.disagreement"),
        ({"moto.value_divisor": "two"}, "'two' in config.moto.value_divisor"),
        ({"moto.target_reduction": "max"}, "'max' in config.moto.target_reduction"),
        ({"moto.row_weights": "all"}, "'all' in config.moto.row_weights"),
        ({"moto.critic_layers": -2}, "config.moto.critic_layers is -2.*or -1"),
        ({"moto.critic_learning_rate": -0.1}, "critic_learning_rate is -0.1.*or 0"),
        ({"moto.critic_learning_rate": math.nan}, "critic_learning_rate is nan"),
        ({"moto.beta": 0.0}, "beta is 0 but .*behaviour_model_scale is 10.0.*both"),
    ],
)
def test_what_no_agent_can_take_is_refused_by_name(changes, culprit):
    config = base.get_config("tiny")
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=culprit) as error:
        build(config)
    assert "\n" not in str(error.value)
