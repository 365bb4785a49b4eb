import numpy as np
import pytest
from ml_collections import ConfigDict

from moto_jax.schedule import Block, Schedule, make_schedule

RHYTHM = {"log_every": 2, "evaluate_every": 4, "checkpoint_every": 3}

# Updates 0 .. 4 offline; 5, 6, then 7, 8, then 9, 10 after one episode each.
SCHEDULE = Schedule(
    offline_updates=5, online_episodes=3, updates_per_episode=2, **RHYTHM
)


def random_schedules(count=60):
    generator = np.random.default_rng(0)
    while count:
        offline, episodes, updates = (int(n) for n in generator.integers(0, 6, 3))
        schedule = Schedule(offline, episodes, max(1, updates), 1, 0, 0)
        if schedule.total:
            count -= 1
            yield schedule


def test_blocks_by_hand():
    assert SCHEDULE.total == 11
    assert list(SCHEDULE.blocks(0)) == [
        Block("offline", 0, 5, -1),
        Block("online", 5, 7, 0),
        Block("online", 7, 9, 1),
        Block("online", 9, 11, 2),
    ]
    assert list(SCHEDULE.blocks(8)) == [
        Block("online", 8, 9, 1),
        Block("online", 9, 11, 2),
    ]
    assert list(SCHEDULE.blocks(11)) == []


def test_a_model_phase_takes_its_share_of_the_offline_updates():
    schedule = SCHEDULE._replace(model_updates=2)
    assert schedule.total == SCHEDULE.total
    assert list(schedule.blocks(0))[:3] == [
        Block("model", 0, 2, -1),
        Block("offline", 2, 5, -1),
        Block("online", 5, 7, 0),
    ]
    assert next(schedule.blocks(1)) == Block("model", 1, 2, -1)
    assert next(schedule.blocks(2)) == Block("offline", 2, 5, -1)
    assert next(schedule.blocks(3)) == Block("offline", 3, 5, -1)
    counts = range(12)
    assert [n for n in counts if schedule.logs(n)] == [2, 4, 5, 6, 8, 10, 11]


def test_episodes_stored_by_hand():
    stored = [SCHEDULE.episodes_stored(update) for update in range(-1, 13)]
    assert stored == [0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 3]


def test_what_is_due_by_hand():
    counts = range(12)
    assert [n for n in counts if SCHEDULE.logs(n)] == [2, 4, 5, 6, 8, 10, 11]
    assert [n for n in counts if SCHEDULE.evaluates(n)] == [0, 4, 5, 8, 11]
    assert [n for n in counts if SCHEDULE.saves(n)] == [3, 5, 6, 9, 11]


def test_the_online_phase_may_be_evaluated_to_a_rhythm_of_its_own():
    counts = range(12)
    often = SCHEDULE._replace(evaluate_online_every=1)
    assert [n for n in counts if often.evaluates(n)] == [0, 4, 5, 6, 7, 8, 9, 10, 11]
    # Counted from the phase's start, after update 5.
    every_other = SCHEDULE._replace(evaluate_every=0, evaluate_online_every=2)
    assert [n for n in counts if every_other.evaluates(n)] == [0, 5, 7, 9, 11]


def test_only_the_phases_ends_are_due_without_a_rhythm():
    schedule = SCHEDULE._replace(log_every=0, evaluate_every=0, checkpoint_every=0)
    counts = range(12)
    assert [n for n in counts if schedule.logs(n)] == [5, 11]
    assert [n for n in counts if schedule.evaluates(n)] == [0, 5, 11]
    assert [n for n in counts if schedule.saves(n)] == [5, 11]


def test_a_run_may_be_offline_only_or_online_only():
    offline = Schedule(4, 0, 0, **RHYTHM)
    assert list(offline.blocks(0)) == [Block("offline", 0, 4, -1)]
    assert [offline.episodes_stored(update) for update in range(6)] == [0] * 6
    online = Schedule(0, 2, 1, **RHYTHM)
    assert list(online.blocks(0)) == [
        Block("online", 0, 1, 0),
        Block("online", 1, 2, 1),
    ]
    assert [online.episodes_stored(update) for update in range(-1, 3)] == [0, 1, 2, 2]


@pytest.mark.parametrize("schedule", list(random_schedules()))
def test_blocks_cover_every_update_once_from_wherever_they_begin(schedule):
    unbroken = [
        (block.phase, block.episode, update)
        for block in schedule.blocks(0)
        for update in range(block.first, block.last)
    ]
    assert [update for *_, update in unbroken] == list(range(schedule.total))
    for done in range(schedule.total + 1):
        blocks = list(schedule.blocks(done))
        assert all(block.first < block.last for block in blocks)
        assert [
            (block.phase, block.episode, update)
            for block in blocks
            for update in range(block.first, block.last)
        ] == unbroken[done:]


@pytest.mark.parametrize("schedule", list(random_schedules()))
def test_updates_train_on_the_episodes_up_to_their_blocks_own(schedule):
    episodes = [block.episode for block in schedule.blocks(0) if block.episode >= 0]
    assert episodes == list(range(schedule.online_episodes))
    for block in schedule.blocks(0):
        for update in range(block.first, block.last):
            assert schedule.episodes_stored(update) == block.episode + 1


def section(**changes):
    fields = {"offline_updates": 5, "online_episodes": 3, "updates_per_episode": 2}
    return ConfigDict({**fields, **RHYTHM, "keep_checkpoints": 3, **changes})


def test_a_section_of_the_configuration_becomes_a_schedule():
    assert make_schedule(section()) == SCHEDULE


def test_the_share_of_the_model_phase_is_of_the_offline_updates():
    assert make_schedule(section(), 0.5).model_updates == 2
    assert make_schedule(section(offline_updates=0), 0.5).model_updates == 0


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_model_phase_that_leaves_nothing_is_refused(share):
    with pytest.raises(ValueError, match=f"model phase is {share}"):
        make_schedule(section(), share)


@pytest.mark.parametrize(
    ("changes", "culprit"),
    [
        ({"offline_updates": -1}, "config.training.offline_updates is -1"),
        ({"checkpoint_every": -5}, "config.training.checkpoint_every is -5"),
        ({"updates_per_episode": 0}, "config.training.updates_per_episode is 0"),
        ({"offline_updates": 0, "online_episodes": 0}, "no updates"),
    ],
)
def test_a_budget_that_makes_no_run_is_refused(changes, culprit):
    with pytest.raises(ValueError, match=culprit):
        make_schedule(section(**changes))
