import numpy as np
import pytest
from ml_collections import ConfigDict

from moto_jax.running.schedule import Block, Round, Schedule, make_schedule

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
        together = int(generator.integers(1, 4))
        schedule = schedule._replace(episodes_per_round=together)
        if schedule.total:
            count -= 1
            yield schedule


def alone(number):
    """A round of one episode."""
    return Round(number, range(number, number + 1))


def test_blocks_by_hand():
    assert SCHEDULE.total == 11
    assert list(SCHEDULE.blocks(0)) == [
        Block("offline", 0, 5, None),
        Block("online", 5, 7, alone(0)),
        Block("online", 7, 9, alone(1)),
        Block("online", 9, 11, alone(2)),
    ]
    assert list(SCHEDULE.blocks(8)) == [
        Block("online", 8, 9, alone(1)),
        Block("online", 9, 11, alone(2)),
    ]
    assert list(SCHEDULE.blocks(11)) == []


def test_a_model_phase_takes_its_share_of_the_offline_updates():
    schedule = SCHEDULE._replace(model_updates=2)
    assert schedule.total == SCHEDULE.total
    assert list(schedule.blocks(0))[:3] == [
        Block("model", 0, 2, None),
        Block("offline", 2, 5, None),
        Block("online", 5, 7, alone(0)),
    ]
    assert next(schedule.blocks(1)) == Block("model", 1, 2, None)
    assert next(schedule.blocks(2)) == Block("offline", 2, 5, None)
    assert next(schedule.blocks(3)) == Block("offline", 3, 5, None)
    counts = range(12)
    assert [n for n in counts if schedule.logs(n)] == [2, 4, 5, 6, 8, 10, 11]


def rounds_stored(schedule, updates):
    return [len(schedule.rounds_stored(update)) for update in updates]


def test_rounds_stored_by_hand():
    stored = rounds_stored(SCHEDULE, range(-1, 13))
    assert stored == [0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 3]
    assert SCHEDULE.rounds_stored(7) == [alone(0), alone(1)]


def test_rounds_of_several_episodes_have_as_many_updates_for_each():
    two = SCHEDULE._replace(episodes_per_round=2)
    assert two.total == SCHEDULE.total
    # The third episode is left, alone.
    both, rest = Round(0, range(2)), Round(1, range(2, 3))
    assert two.rounds == [both, rest]
    assert list(two.blocks(6)) == [
        Block("online", 6, 9, both),
        Block("online", 9, 11, rest),
    ]
    assert rounds_stored(two, range(3, 12)) == [0, 0, 1, 1, 1, 1, 2, 2, 2]
    every = SCHEDULE._replace(episodes_per_round=7)
    assert list(every.blocks(5)) == [Block("online", 5, 11, Round(0, range(3)))]


def test_what_has_been_saved_when_episodes_are_there():
    # The third of three single episodes is begun after update 7, saved at 3, 5 and 6.
    late = SCHEDULE._replace(offline_updates=1, checkpoint_every=4, log_every=0)
    saved = [count for count in range(1, 4) if late.has_saved(-1, count)]
    # Saved after 1 update, the offline phase's end, before any is collected.
    assert saved == [1, 2, 3]
    online = late._replace(offline_updates=0)
    # Updates 0 and 1, 2 and 3, 4 and 5: the third sets out after 2, none is saved.
    assert not any(online.has_saved(-1, count) for count in range(1, 4))
    assert online._replace(checkpoint_every=2).has_saved(-1, 3)
    assert not online._replace(checkpoint_every=2).has_saved(-1, 2)
    # In rounds of two the third sets out with the first block.
    two = online._replace(checkpoint_every=2, episodes_per_round=2)
    assert not two.has_saved(-1, 3)
    # The fifth, of the third round, sets out after 4.
    assert two._replace(online_episodes=5, checkpoint_every=4).has_saved(-1, 5)


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
    assert list(offline.blocks(0)) == [Block("offline", 0, 4, None)]
    assert rounds_stored(offline, range(6)) == [0] * 6
    online = Schedule(0, 2, 1, **RHYTHM)
    assert list(online.blocks(0)) == [
        Block("online", 0, 1, alone(0)),
        Block("online", 1, 2, alone(1)),
    ]
    assert rounds_stored(online, range(-1, 3)) == [0, 1, 2, 2]


@pytest.mark.parametrize("schedule", list(random_schedules()))
def test_blocks_cover_every_update_once_from_wherever_they_begin(schedule):
    unbroken = [
        (block.phase, block.round, update)
        for block in schedule.blocks(0)
        for update in range(block.first, block.last)
    ]
    assert [update for *_, update in unbroken] == list(range(schedule.total))
    for done in range(schedule.total + 1):
        blocks = list(schedule.blocks(done))
        assert all(block.first < block.last for block in blocks)
        assert [
            (block.phase, block.round, update)
            for block in blocks
            for update in range(block.first, block.last)
        ] == unbroken[done:]


def test_programs_of_several_updates_by_hand():
    three = SCHEDULE._replace(
        offline_updates=12, log_every=8, evaluate_every=0, updates_per_program=3
    )
    three = three._replace(checkpoint_every=0, updates_per_episode=4)
    offline, online, *_ = three.blocks(0)
    # Logged after 8 and 12; the next block is 12 .. 15, logged after 16.
    assert list(three.programs(offline)) == [3, 3, 1, 1, 3, 1]
    assert list(three.programs(online)) == [3, 1]
    assert list(SCHEDULE.programs(offline)) == [1] * 12


@pytest.mark.parametrize("schedule", list(random_schedules()))
def test_nothing_is_due_within_a_program_wherever_a_block_is_taken_up(schedule):
    schedule = schedule._replace(log_every=4, checkpoint_every=3, updates_per_program=2)
    for block in schedule.blocks(0):
        ends = block.first + np.cumsum([0, *schedule.programs(block)])
        assert ends[-1] == block.last
        passed = set(range(block.first + 1, block.last)) - set(ends.tolist())
        assert not any(schedule.logs(n) or schedule.saves(n) for n in passed)
        for end in ends[:-1].tolist():
            rest = block._replace(first=end)
            assert end + np.cumsum(list(schedule.programs(rest)))[0] in ends


@pytest.mark.parametrize("schedule", list(random_schedules()))
def test_updates_train_on_the_rounds_up_to_their_blocks_own(schedule):
    online = [block for block in schedule.blocks(0) if block.phase == "online"]
    episodes = [number for block in online for number in block.round.episodes]
    assert episodes == list(range(schedule.online_episodes))
    for block in schedule.blocks(0):
        stored = 0 if block.round is None else block.round.number + 1
        updates = range(block.first, block.last)
        assert rounds_stored(schedule, updates) == [stored] * len(updates)
    for block in online:
        each = schedule.updates_per_episode
        assert block.last - block.first == each * len(block.round.episodes)


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
        ({"updates_per_program": 0}, "config.training.updates_per_program is 0: use 1"),
        ({"episodes_per_round": 0}, "config.training.episodes_per_round is 0: use 1"),
        ({"episodes_per_round": -1}, "config.training.episodes_per_round is -1"),
        ({"offline_updates": 0, "online_episodes": 0}, "no updates"),
    ],
)
def test_a_budget_that_makes_no_run_is_refused(changes, culprit):
    with pytest.raises(ValueError, match=culprit):
        make_schedule(section(**changes))
