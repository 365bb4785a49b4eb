"""Which process plays for which seed."""

import jax
import numpy as np
import pytest

from experiments.configs import base
from moto_jax.running import machines
from moto_jax.running.players import Players, acting_device, check_plays, run_keys
from moto_jax.running.schedule import Round
from moto_jax.worlds.registry import make_world

SEEDS = (3, 0, 5)


def made(monkeypatch, process, shares):
    """Players of one of several processes, which hold these indices of seeds."""
    config = base.get_config("tiny")
    config.seeds = SEEDS
    monkeypatch.setattr(machines, "gather", lambda own: shares)
    monkeypatch.setattr(jax, "process_index", lambda: process)
    _, *keys = run_keys(SEEDS)
    world = make_world(config)
    return Players(config, {}, world, None, tuple(keys), shares[process])


@pytest.mark.parametrize(
    "shares",
    [
        [[0, 1, 2]],
        [[0, 1, 2], [0, 1, 2]],
        [[0], [1, 2]],
        [[0], [1, 2], [1, 2]],
    ],
)
def test_each_seed_is_one_processs_turn_and_all_take_part(monkeypatch, shares):
    turns = {}
    for process, held in enumerate(shares):
        own = made(monkeypatch, process, shares)
        for number in range(4):
            mine = own.turns(number)
            assert set(mine) <= set(held)
            turns[number, process] = mine
    for number in range(4):
        played = sorted(sum((turns[number, p] for p in range(len(shares))), []))
        assert played == [0, 1, 2]
    for process in range(len(shares)):
        assert any(turns[number, process] for number in range(4))


def test_processes_that_hold_all_seeds_share_a_round(monkeypatch):
    shares = [[0, 1, 2]] * 3
    players = [made(monkeypatch, process, shares) for process in range(3)]
    for number in range(4):
        turns = []
        for process, own in enumerate(players):
            monkeypatch.setattr(jax, "process_index", lambda process=process: process)
            turns.append(own.turns(number))
        assert sorted(turns) == [[0], [1], [2]]


def test_every_seed_and_purpose_has_a_key_of_its_own():
    keys = [jax.random.key_data(key) for key in run_keys(SEEDS)]
    flat = np.concatenate(keys).reshape(9, -1)
    assert len(np.unique(flat, axis=0)) == 9
    # As a run of one seed has them.
    for ours, alone in zip(run_keys(SEEDS), run_keys(SEEDS[1:2]), strict=True):
        assert ours[1] == alone[0]


def test_policies_act_on_the_cpu_beside_an_accelerator(monkeypatch):
    assert acting_device() == jax.local_devices(backend="cpu")[0]
    local_devices = jax.local_devices

    def no_cpu(backend=None):
        if backend == "cpu":
            raise RuntimeError("unknown backend cpu")
        return local_devices()

    monkeypatch.setattr(jax, "local_devices", no_cpu)
    assert acting_device() == local_devices()[0]


def test_a_process_without_a_turn_plays_nothing(monkeypatch):
    idle = made(monkeypatch, 1, [[0, 1, 2], [0]])
    params = {"weight": np.zeros((3, 2))}
    assert idle.turns(0) == [] and idle.params(params, 0) is None
    assert idle.collect(Round(0, range(1)), None) == {}
    assert idle.turns(1) == [0]


def test_a_round_has_at_most_as_many_episodes_as_workers():
    config = base.get_config("tiny")
    config.env.workers = 3
    config.training.episodes_per_round = 3
    check_plays(config, make_world(config).most_at_once)
    config.training.episodes_per_round = 4
    with pytest.raises(ValueError, match="episodes_per_round is 4 with 3 workers"):
        check_plays(config, make_world(config).most_at_once)
    # Which plays on the device, without workers.
    config.env.update(name="minikitchen", render_profile="mini")
    check_plays(config, make_world(config).most_at_once)
