"""Which environment seeds a run's episodes have: all valid, no two purposes alike."""

import itertools
import subprocess
import sys

import jax
import numpy as np
import pytest

from experiments.configs import base
from moto_jax.acting import environment_seeds
from moto_jax.acting.collection import Play
from moto_jax.acting.environment_seeds import Purpose, environment_seed
from moto_jax.data.replay import Replay
from moto_jax.running.players import Players, check_plays, run_keys
from moto_jax.running.schedule import Round
from moto_jax.worlds.kitchen.labels import make_label
from moto_jax.worlds.registry import make_world

LARGE = (0, 1, 20261127, 2**32 - 1)


def stream(purpose, *words, count=3000):
    return [environment_seed(purpose, *words, number=number) for number in range(count)]


def streams(seed):
    """The streams of a run and a dataset with this seed, and those of all runs."""
    return {
        "first attempts": stream(Purpose.DEMONSTRATIONS, seed, 0),
        "training": stream(Purpose.TRAINING, seed),
        "evaluation": stream(Purpose.EVALUATION, seed),
        "test": stream(Purpose.TEST),
        "held-out demonstrations": stream(Purpose.HELD_OUT_DEMONSTRATIONS),
        "experts": stream(Purpose.EXPERTS),
    }


@pytest.mark.parametrize("seed", LARGE)
def test_all_streams_are_valid_and_apart_for_a_seed_of_any_size(seed):
    found = streams(seed)
    for numbers in found.values():
        assert all(type(one) is int and 0 <= one < 2**32 for one in numbers)
        assert len(set(numbers)) == len(numbers)
    for one, two in itertools.combinations(found.values(), 2):
        assert not set(one) & set(two)


def test_the_purpose_is_in_the_seed_itself():
    """So that no seed and no number whatever bring two purposes together."""
    for purpose in Purpose:
        for word in LARGE:
            for number in (0, 1, 12345, environment_seeds.STREAM_LENGTH - 1):
                found = environment_seed(purpose, word, number=number)
                assert found >> 29 == purpose
    # Small ones that are typed by hand have no purpose.
    assert 0 not in list(Purpose) and max(Purpose) < 8


def test_streams_of_other_words_are_others():
    starts = {environment_seed(Purpose.TRAINING, word, number=0) for word in range(500)}
    assert len(starts) == 500
    one, two = (stream(Purpose.TRAINING, word) for word in (0, 1))
    assert not set(one) & set(two)
    attempts = [stream(Purpose.DEMONSTRATIONS, 0, attempt) for attempt in range(8)]
    assert len(set(sum(attempts, []))) == 8 * 3000


def test_a_stream_comes_round_only_when_it_is_full():
    first = environment_seed(Purpose.TEST, number=0)
    last = environment_seed(Purpose.TEST, number=environment_seeds.STREAM_LENGTH - 1)
    second = environment_seed(Purpose.TEST, number=1)
    length = environment_seeds.STREAM_LENGTH
    assert (last + 1 - first) % length == 0 and (second - first) % length == 1
    for number in (-1, length):
        with pytest.raises(ValueError, match=f"episode {number} has no environment"):
            environment_seed(Purpose.TEST, number=number)


@pytest.mark.parametrize("word", [-1, 2**32, 0.5, "a"])
def test_a_word_out_of_range_is_refused(word):
    with pytest.raises(ValueError, match=r"a seed is .* less than 2\*\*32"):
        environment_seed(Purpose.TRAINING, word, number=0)


def test_seeds_stay_as_they_are():
    """Datasets and results are of these numbers."""
    assert environment_seed(Purpose.TRAINING, 0, number=0) == 1223514251
    assert environment_seed(Purpose.TEST, number=7) == 2564702925


def test_the_module_is_free_of_jax():
    text = (
        "import sys, moto_jax.acting.environment_seeds; sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", text]).returncode == 0


@pytest.fixture
def asked(monkeypatch):
    """Players of one run, and the environment seeds that they were asked to play."""
    plays = []

    class Stage:
        def player(self, policy):
            def play(params, keys, wanted):
                plays.extend(wanted)
                return iter(wanted if policy == "collecting" else [])

            return play

    def made(*run_seeds):
        config = base.get_config("tiny")
        config.seeds = run_seeds
        config.evaluation.update(episodes=20, phase_end_episodes=60)
        _, *keys = run_keys(run_seeds)
        policies = {"sampled": "judged", config.training.collect_with: "collecting"}
        world = make_world(config)
        held = range(len(run_seeds))
        return Players(config, policies, world, Stage(), tuple(keys), held)

    return made, plays


@pytest.mark.parametrize("seed", LARGE)
def test_a_round_plays_the_training_stream_of_each_seed(asked, seed):
    made, plays = asked
    players = made(seed, 3)
    for number in (0, 1, 299):
        plays.clear()
        played = players.collect(Round(number, range(number, number + 1)), {})
        ours, theirs = (
            Play(member, environment_seed(Purpose.TRAINING, of, number=number))
            for member, of in enumerate((seed, 3))
        )
        assert plays == [ours, theirs]
        assert played == {0: [ours], 1: [theirs]}


def test_a_round_of_several_episodes_plays_on_in_each_stream(asked):
    made, plays = asked
    played = made(7, 3).collect(Round(2, range(4, 6)), {})
    expected = {
        member: [
            Play(member, environment_seed(Purpose.TRAINING, seed, number=number))
            for number in (4, 5)
        ]
        for member, seed in enumerate((7, 3))
    }
    assert played == expected
    assert sorted(plays) == sorted(expected[0] + expected[1])


def test_every_evaluation_plays_episodes_of_its_own(asked):
    made, plays = asked
    played = []
    # Also after neighbouring updates, and where a phase ends with more of them.
    every = [*range(0, 900, 100), 801]
    for run_seed, done in itertools.product((2**32 - 1, 3), every):
        plays.clear()
        with pytest.raises(ValueError, match="no environment seed"):
            made(run_seed).evaluate({}, done, [None], {}, ends_phase=done == 800)
        assert {play.seed >> 29 for play in plays} == {Purpose.EVALUATION}
        played += [play.seed for play in plays]
    # Of two runs nine evaluations of 20 episodes and one of 60.
    assert len(played) == len(set(played)) == 2 * 240


@pytest.mark.parametrize("seed", LARGE)
def test_seeds_of_any_size_start_a_run(seed):
    config = base.get_config("tiny")
    config.seeds, config.data.seed = (seed,), seed
    check_plays(config, None)
    Replay(make_label(("kettle",)), 2, 2, seed)
    assert jax.random.key_data(jax.random.key(seed)).tolist()[1] == seed
    # On the device a seed is uint32: the same key.
    traced = jax.jit(jax.random.key)(np.uint32(seed))
    assert (
        jax.random.key_data(traced) == jax.random.key_data(jax.random.key(seed))
    ).all()


@pytest.mark.parametrize("seed", [-1, 2**32, 10**12])
def test_a_seed_of_more_than_32_bits_is_refused_at_the_start(seed):
    config = base.get_config("tiny")
    config.seeds = (0, seed)
    with pytest.raises(ValueError, match=r"config\.seeds is .* less than 2\*\*32"):
        check_plays(config, None)
    config = base.get_config("tiny")
    config.data.seed = seed
    with pytest.raises(ValueError, match=rf"config\.data\.seed is {seed}: "):
        check_plays(config, None)


@pytest.mark.parametrize(
    "training", [{"online_episodes": 2**29 + 1}, {"offline_updates": 2**29}]
)
def test_more_episodes_than_seeds_are_refused_at_the_start(training):
    config = base.get_config("tiny")
    config.training.update(training)
    with pytest.raises(ValueError, match="have environment seeds of their own"):
        check_plays(config, None)
