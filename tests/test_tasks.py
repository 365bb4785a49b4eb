"""Objects, goals and rewards, by hand-made joint positions."""

import numpy as np
import pytest

from moto_jax.data.rows import first_rows
from moto_jax.worlds.kitchen import tasks

AWAY = np.full(30, 10.0)


def qpos_with(*done: str) -> np.ndarray:
    """Joint positions with exactly these objects at their goals."""
    qpos = AWAY.copy()
    for name in done:
        qpos[list(tasks.QPOS_INDICES[name])] = tasks.GOALS[name]
    return qpos


def test_columns_and_goals_have_equal_lengths_and_share_no_column():
    columns = [c for name in tasks.OBJECTS for c in tasks.QPOS_INDICES[name]]
    assert len(columns) == len(set(columns))
    assert min(columns) >= 9  # The robot's nine joints are nobody's goal.
    for name in tasks.OBJECTS:
        assert len(tasks.QPOS_INDICES[name]) == len(tasks.GOALS[name])


@pytest.mark.parametrize("name", tasks.OBJECTS)
def test_each_object_is_done_alone(name):
    in_goal = tasks.objects_in_goal(qpos_with(name))
    assert [o for o, yes in zip(tasks.OBJECTS, in_goal, strict=True) if yes] == [name]


@pytest.mark.parametrize("name", tasks.OBJECTS)
def test_goal_reaches_to_a_distance_of_three_tenths(name):
    column = tasks.QPOS_INDICES[name][-1]
    k = tasks.OBJECTS.index(name)
    near, far = qpos_with(name), qpos_with(name)
    near[column] += 0.2999
    far[column] -= 0.3001
    assert tasks.objects_in_goal(near)[k]
    assert not tasks.objects_in_goal(far)[k]


def test_distance_is_euclidean_over_all_columns_of_an_object():
    qpos = qpos_with("light switch")
    qpos[[17, 18]] += 0.25  # Each below 0.3, together 0.354.
    assert not tasks.objects_in_goal(qpos).any()


def test_reward_counts_the_tasks_objects_now_and_no_other():
    in_goal = np.stack(
        [
            tasks.objects_in_goal(qpos)
            for qpos in (
                qpos_with(),
                qpos_with("kettle"),
                qpos_with("kettle", "hinge cabinet", "top burner"),
                qpos_with(*tasks.TASKS["mixed"]),
                qpos_with(*tasks.OBJECTS),
                qpos_with("microwave"),
            )
        ]
    )
    reward = tasks.task_reward(in_goal, tasks.TASKS["mixed"])
    assert reward.dtype == np.float32
    np.testing.assert_array_equal(reward, [0, 1, 1, 4, 4, 1])
    np.testing.assert_array_equal(
        tasks.task_reward(in_goal, ("top burner",)), [0, 0, 1, 0, 1, 0]
    )


def test_first_completion_and_reached_objects():
    in_goal = np.zeros((5, 7), bool)
    in_goal[2, tasks.OBJECTS.index("kettle")] = True  # Left its goal again.
    in_goal[3:, tasks.OBJECTS.index("microwave")] = True
    first = dict(zip(tasks.OBJECTS, first_rows(in_goal).tolist(), strict=True))
    assert (first["kettle"], first["microwave"], first["light switch"]) == (2, 3, -1)
    columns = tasks.object_columns(tasks.TASKS["mixed"])
    assert in_goal[:, columns].any(axis=0).tolist() == [True, True, False, False]


def test_tasks_resolve_by_name_by_list_and_by_text():
    expected = ("microwave", "kettle", "light switch", "slide cabinet")
    assert tasks.resolve_task("mixed") == expected
    assert tasks.resolve_task(list(expected)) == expected
    assert tasks.resolve_task("kettle, microwave") == ("kettle", "microwave")
    assert tasks.resolve_task("partial")[2] == "bottom burner"


@pytest.mark.parametrize(
    ("task", "culprit"),
    [
        ("mixt", "'mixt'"),
        (("kettle", "toaster"), "'toaster'"),
        ((), "(none)"),
        (("kettle", "kettle"), "twice"),
    ],
)
def test_unknown_repeated_or_no_objects_are_refused(task, culprit):
    with pytest.raises(ValueError) as error:
        tasks.resolve_task(task)
    assert culprit in str(error.value)
    assert "\n" not in str(error.value)
