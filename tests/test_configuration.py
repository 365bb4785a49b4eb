"""Keys of the configuration: ranges, what is said of a value outside, the reference."""

import json
import math

import jax
import pytest

from experiments.configs import base, ranges
from experiments.configs.keys import KEYS, check_values
from experiments.configs.reference import reference
from moto_jax.agents import AGENTS, make_agent
from moto_jax.run_layout import flat_config, with_later_keys
from moto_jax.running import devices, training
from moto_jax.running.players import check_plays
from moto_jax.running.schedule import make_schedule
from moto_jax.running.sinks import sink_names
from moto_jax.worlds.registry import make_world
from tests.programs import ROOT, assert_refused, run_program
from tests.test_configs import FILES, get_config

PAPER = flat_config(base.get_config("full").to_dict())
NUMBERS = [name for name, value in PAPER.items() if isinstance(value, float)]
COUNTS = [
    name
    for name, value in PAPER.items()
    if isinstance(value, int) and not isinstance(value, bool)
]


def changed(name, value):
    config = base.get_config("full")
    with config.ignore_type():
        config.update_from_flattened_dict({name: value})
    return config


@pytest.mark.parametrize("size", base.SIZES)
@pytest.mark.parametrize("file", FILES)
def test_every_preset_is_within_its_ranges(file, size):
    config = get_config(file, size)
    check_values(config)
    assert flat_config(config.to_dict()).keys() == KEYS.keys()


def test_the_table_holds_every_kind_of_number():
    assert len(NUMBERS) > 40 and len(COUNTS) > 60


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_number_is_infinite_or_none_at_all(name, value):
    with pytest.raises(ValueError, match=rf"config\.{name} is {value}: use a number"):
        check_values(changed(name, value))


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [-2, 1.5, True])
def test_every_count_is_a_whole_number_and_none_is_negative(name, value):
    with pytest.raises(ValueError, match=rf"config\.{name} is {value}: use "):
        check_values(changed(name, value))


@pytest.mark.parametrize("name", [name for name, value in PAPER.items() if value == ""])
def test_texts_are_texts(name):
    with pytest.raises(ValueError, match=rf"config\.{name} is 3: use text"):
        check_values(changed(name, 3))


@pytest.mark.parametrize(
    ("allowed", "inside", "outside"),
    [
        (ranges.at_least(2), [2, 3, 10**9], [1, 0, -3, 2.0, "2", None, True]),
        (ranges.between(0, 1), [0, 0.5, 1, 1.0], [-1e-9, 1.1, math.nan, "0", False]),
        (ranges.one_of("a", "b"), ["a", "b"], ["c", "", None, 1]),
        (ranges.POSITIVE, [1e-9, 3], [0, -1, math.inf, math.nan]),
        (ranges.NOT_NEGATIVE, [0, 0.0, 3.5], [-1e-9, math.inf, math.nan]),
        (ranges.POSITIVE_SHARE, [1, 0.1], [0, 1.01, math.nan]),
        (ranges.BELOW_ONE, [0, 0.999], [1, -0.1, math.nan]),
        (ranges.SHARE_OR_NEGATIVE, [-1.0, 0, 1], [1.1, -math.inf, math.nan]),
        (ranges.NUMBER, [-5, 0.5], [math.inf, "1", None, True]),
        (ranges.SWITCH, [True, False], [0, 1, "true"]),
        (ranges.NAME, ["a"], ["", 1]),
        (ranges.SEED, [0, 2**32 - 1], [-1, 2**32, 1.0, True]),
        (ranges.SEEDS, [(0,), (3, 1), [5]], [(), (1, 1), (-1,), 1, (0.5,), None]),
    ],
)
def test_a_range_by_hand(allowed, inside, outside):
    assert all(map(allowed.holds, inside))
    assert not any(map(allowed.holds, outside))


def test_a_key_that_is_missing_is_named():
    config = base.get_config("tiny")
    with config.unlocked():
        del config.moto.alpha
    with pytest.raises(ValueError, match=r"config\.moto\.alpha is missing"):
        check_values(config)


def test_a_program_refuses_before_it_writes(tmp_path):
    done = run_program(
        "run",
        "--config=experiments/configs/mixed.py:tiny",
        f"--workdir={tmp_path / 'run'}",
        "--config.moto.alpha=-1",
    )
    assert_refused(done, "config.moto.alpha is -1.0: use a number, 0 or more")
    assert not (tmp_path / "run").exists()


# Edges of ranges, and what lies just inside and outside of them.
EDGES = (0, 1, 3, 64, 1_000_003, -1, 1e-30, 0.5, 1e30, True, "", "x", (), (0,))

# Sections that MOTO, which tries every key, passes over.
OTHERS = ("actor_critic", "latent", "model_free")


def built(config):
    """What a run does with a configuration before it writes anything."""
    world = make_world(config)
    check_plays(config, world.most_at_once)
    training.check_replay(config)
    sink_names(config.sinks)
    sizes = {"action_size": world.action_size, "image_size": world.image_size}
    agent = make_agent(config, **sizes)
    make_schedule(config.training, agent.model_share)
    devices.make_mesh(config, agent.batch_shape[1])
    jax.eval_shape(agent.init, jax.random.key(0))


@pytest.mark.slow
@pytest.mark.parametrize("agent", AGENTS)
def test_each_value_in_its_range_is_built_or_refused_by_name(agent):
    tried = 0
    # Seeds and several processes are no business of one agent's.
    names = KEYS.keys() - {"agent", "seeds", "size", "distributed"}
    if agent != "moto":
        own = (*OTHERS, agent, "cql" if agent == "cal_ql" else agent)
        names = {name for name in names if name.partition(".")[0] in own}
    for name in sorted(names):
        for value in EDGES:
            config = base.get_config("tiny")
            config.agent = agent
            with config.ignore_type():
                config.update_from_flattened_dict({name: value})
            try:
                check_values(config)
            except ValueError:
                continue
            tried += 1
            try:
                built(config)
            except ValueError as error:
                said = str(error)
                # It, or another that it must fit.
                named = name.rpartition(".")[2] in said or "config." in said
                assert named, (name, value, said)
                assert "\n" not in said, (name, value, said)
    assert tried > 3 * len(names)


def test_kept_runs_have_all_keys_of_today():
    """Of those that came later the runs from before have what they did without."""
    configs = sorted((ROOT / "results").glob("kitchen*/*/config.json"))
    assert len(configs) > 10
    # Sections that were not there, and values that had no one successor.
    new = {name for name in KEYS if name.startswith(("rlpd.", "latent.learning_rates"))}
    for path in configs:
        kept = flat_config(with_later_keys(json.loads(path.read_text())))
        assert KEYS.keys() - kept.keys() <= new, path


def test_the_reference_is_of_today():
    text = (ROOT / "docs" / "configuration.md").read_text()
    again = "python -m experiments.configs.reference > docs/configuration.md"
    assert text == reference(), f"make it again: {again}"
    assert text.count("\n| `") == len(KEYS)
