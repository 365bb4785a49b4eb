"""Episodes: the file format against damage, the alignment and the success filter."""

import io
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from moto_jax.data.episodes import (
    DatasetError,
    Episode,
    EpisodeRecord,
    Manifest,
    load_dataset,
    read_episode,
    read_manifest,
    write_episode,
    write_manifest,
)
from moto_jax.data.rows import Labels, to_rows
from moto_jax.worlds.kitchen import tasks
from moto_jax.worlds.kitchen.labels import (
    behaviour_rows,
    completion_order,
    make_label,
    require_objects,
)
from moto_jax.worlds.rewards import make_reward_label

MIXED = tasks.TASKS["mixed"]
FIELDS = ("image", "action", "objects_in_goal", "qpos")


def make_fields(num_rows=5, size=8) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    shape = (num_rows, size, size, 3)
    return {
        "image": generator.integers(0, 256, shape, dtype=np.uint8),
        "action": generator.uniform(-1, 1, (num_rows - 1, 9)).astype(np.float32),
        "objects_in_goal": generator.random((num_rows, 7)) < 0.5,
        "qpos": generator.normal(size=(num_rows, 30)).astype(np.float32),
    }


def goal_rows(num_rows: int, **spans: tuple[int, int]) -> np.ndarray:
    """Objects in goal from the first to before the second row of their span."""
    in_goal = np.zeros((num_rows, len(tasks.OBJECTS)), np.bool_)
    for name, (start, stop) in spans.items():
        in_goal[start:stop, tasks.OBJECTS.index(name.replace("_", " "))] = True
    return in_goal


def write_npz(path, fields, allow_pickle=False) -> None:
    """An archive as anyone could make it, not our writer."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in fields.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(
                    member, np.asanyarray(array), allow_pickle=allow_pickle
                )
    path.write_bytes(buffer.getvalue())


# --- round trip -----------------------------------------------------------------------


def test_episode_comes_back_equal_and_read_only(tmp_path):
    episode = Episode(**make_fields())
    digest = write_episode(tmp_path / "a.npz", episode)
    found = read_episode(tmp_path / "a.npz", digest)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(found, name), getattr(episode, name))
        assert getattr(found, name).dtype == getattr(episode, name).dtype
        with pytest.raises(ValueError, match="read-only"):
            getattr(found, name)[0] = 0
    assert found.num_rows == 5


def test_an_intended_action_comes_back_and_may_be_missing(tmp_path):
    fields = make_fields()
    intended = np.float32(fields["action"] / 2)
    write_episode(tmp_path / "a.npz", Episode(**fields, intended_action=intended))
    write_episode(tmp_path / "b.npz", Episode(**fields))
    found = read_episode(tmp_path / "a.npz").intended_action
    np.testing.assert_array_equal(found, intended)
    assert read_episode(tmp_path / "b.npz").intended_action is None


@pytest.mark.parametrize(
    ("intended", "fault"),
    [
        (np.full((4, 9), 1.5, np.float32), "leaves the range"),
        (np.full((4, 9), np.nan, np.float32), "holds NaN"),
        (np.zeros((3, 9), np.float32), "beside actions of"),
        (np.zeros((4, 9)), "instead of float32"),
    ],
)
def test_an_intended_action_must_fit_the_executed_one(intended, fault):
    with pytest.raises(DatasetError, match=f"'intended_action'.*{fault}"):
        Episode(**make_fields(), intended_action=intended)


def test_equal_episodes_make_equal_files_and_leave_nothing_else(tmp_path):
    first = write_episode(tmp_path / "a.npz", Episode(**make_fields()))
    second = write_episode(tmp_path / "b.npz", Episode(**make_fields()))
    assert first == second
    assert sorted(os.listdir(tmp_path)) == ["a.npz", "b.npz"]


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    digest = write_episode(path, Episode(**make_fields()))

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        write_episode(path, Episode(**make_fields(num_rows=7)))
    assert read_episode(path, digest).num_rows == 5
    assert os.listdir(tmp_path) == ["a.npz"]


def test_caller_array_stays_writable():
    fields = make_fields()
    Episode(**fields)
    fields["action"][0] = 0.0


# --- damage ---------------------------------------------------------------------------


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    """Each flip is refused, or touches nothing of the arrays (a date, say)."""
    path = tmp_path / "a.npz"
    episode = Episode(**make_fields())
    digest = write_episode(path, episode)
    whole = path.read_bytes()
    generator = np.random.default_rng(1)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[generator.integers(len(whole))] ^= 1 << generator.integers(8)
        path.write_bytes(damaged)
        with pytest.raises(DatasetError, match=re.escape(str(path))):
            read_episode(path, digest)
        try:
            found = read_episode(path)
        except DatasetError:
            refused += 1
            continue
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(found, name), getattr(episode, name))
    assert refused > 30


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_file_is_refused(tmp_path, share):
    path = tmp_path / "a.npz"
    write_episode(path, Episode(**make_fields()))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DatasetError, match=re.escape(str(path))):
        read_episode(path)


class Canary:
    """Its unpickling would leave a mark."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_pickled_object_is_never_opened(tmp_path):
    path, canary = tmp_path / "a.npz", tmp_path / "canary"
    fields = make_fields()
    fields["qpos"] = np.array([Canary(canary)] * 5, object)
    write_npz(path, fields, allow_pickle=True)
    with pytest.raises(DatasetError, match=r"a\.npz.*'qpos'"):
        read_episode(path)
    assert not canary.exists()


def changed(**changes):
    return {**make_fields(), **changes}


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("image", changed(image=np.zeros((5, 8, 8, 3), np.float32))),
        ("image", changed(image=np.zeros((5, 8, 8, 4), np.uint8))),
        ("image", changed(image=np.zeros((5, 0, 8, 3), np.uint8))),
        ("action", changed(action=np.zeros((4, 9), np.float64))),
        ("action", changed(action=np.full((4, 9), 1.5, np.float32))),
        ("action", changed(action=np.full((4, 9), np.nan, np.float32))),
        ("action", changed(action=np.zeros((0, 9), np.float32))),
        ("qpos", changed(qpos=np.full((5, 30), np.inf, np.float32))),
        ("qpos", changed(qpos=np.zeros((5, 0), np.float32))),
        ("qpos", changed(qpos=np.zeros((4, 30), np.float32))),
        ("qpos", changed(qpos=np.asfortranarray(np.ones((5, 30), np.float32)))),
        ("qpos", changed(qpos=np.zeros((5, 30), ">f4"))),
        ("objects_in_goal", changed(objects_in_goal=np.zeros((5, 0), np.bool_))),
        ("objects_in_goal", changed(objects_in_goal=np.zeros((5, 7), np.uint8))),
        ("objects_in_goal", changed(objects_in_goal=np.zeros((6, 7), np.bool_))),
        ("action", {k: v for k, v in make_fields().items() if k != "action"}),
        ("colour", changed(colour=np.zeros(5, np.float32))),
        ("reward", changed(reward=np.zeros(4, np.float32))),
        ("reward", changed(reward=np.full(5, np.nan, np.float32))),
        ("is_terminal", changed(is_terminal=np.zeros(5, np.float32))),
        (
            "objects_in_goal",
            {k: v for k, v in make_fields().items() if k in ("image", "action")},
        ),
    ],
)
def test_wrong_field_is_named(tmp_path, field, fields):
    path = tmp_path / "a.npz"
    write_npz(path, fields)
    with pytest.raises(DatasetError, match=rf"a\.npz.*{field}.*; restore it"):
        read_episode(path)


def test_huge_header_takes_no_memory(tmp_path):
    """A header that asks for a terabyte, and a member that unpacks to a gigabyte."""
    path = tmp_path / "a.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header,
        {"descr": "|u1", "fortran_order": False, "shape": (10**8, 64, 64, 3)},
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.npy", header.getvalue())
        for name in FIELDS[1:]:
            archive.writestr(f"{name}.npy", b"")
    with pytest.raises(DatasetError, match=r"a\.npz.*'image'.*over the bound"):
        read_episode(path)

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (5, 8, 8, 3)}
    )
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("image.npy", "w") as member:
            member.write(header.getvalue())
            for _ in range(64):
                member.write(bytes(2**20))
        for name in FIELDS[1:]:
            archive.writestr(f"{name}.npy", b"")
    with pytest.raises(DatasetError, match=r"a\.npz.*'image'.*beyond its shape"):
        read_episode(path)


def test_what_is_no_plain_file_is_refused(tmp_path):
    target = tmp_path / "target.npz"
    write_episode(target, Episode(**make_fields()))
    link = tmp_path / "link.npz"
    link.symlink_to(target)
    pipe = tmp_path / "pipe.npz"
    os.mkfifo(pipe)
    for path in (link, pipe, tmp_path, tmp_path / "missing.npz"):
        with pytest.raises(DatasetError, match=re.escape(str(path))):
            read_episode(path)


# --- rows -----------------------------------------------------------------------------


def test_rows_by_hand():
    """Three actions, four rows; the kettle is done from row 2 on."""
    action = np.array([[0.1], [0.2], [0.3]], np.float32)
    in_goal = goal_rows(4, kettle=(2, 4), hinge_cabinet=(0, 4))
    episode = Episode(
        image=np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones(3, np.uint8),
        action=action,
        objects_in_goal=in_goal,
        qpos=np.zeros((4, 30), np.float32),
    )
    rows = to_rows(episode, make_label(("kettle",))(episode))
    np.testing.assert_array_equal(rows.image[:, 0, 0, 0], [0, 1, 2, 3])
    np.testing.assert_array_equal(
        rows.prev_action, np.array([[0.0], [0.1], [0.2], [0.3]], np.float32)
    )
    np.testing.assert_array_equal(rows.reward, [0, 0, 1, 1])
    np.testing.assert_array_equal(rows.is_first, [True, False, False, False])
    np.testing.assert_array_equal(rows.is_last, [False, False, False, True])
    assert not rows.is_terminal.any()
    assert rows.prev_action.dtype == rows.reward.dtype == np.float32
    # The hinge cabinet came first, so nothing is cloned for this task ...
    assert not rows.is_behaviour.any()
    # ... but for this one everything that has an action.
    rows = to_rows(episode, make_label(("hinge cabinet", "kettle"))(episode))
    np.testing.assert_array_equal(rows.is_behaviour, [True, True, True, False])
    # Nothing led to row 0, so it has no reward, whatever is in its goal there.
    np.testing.assert_array_equal(rows.reward, [0, 1, 2, 2])
    # What is cloned at a row is the action taken there; at the last none is.
    np.testing.assert_array_equal(rows.behaviour_action, np.float32(ROWS_CLONED))


def test_returns_to_go_by_hand():
    reward = np.array([9.0, 1.0, 0.0, 4.0], np.float32)
    episode = Episode(
        image=np.zeros((4, 1, 1, 3), np.uint8),
        action=np.zeros((3, 1), np.float32),
        reward=reward,
    )
    labels = Labels(reward, np.zeros(4, bool), np.zeros((4, 1), bool), 0)
    # What led to row 0 counts nowhere, and after the last row nothing comes.
    halved = to_rows(episode, labels, discount=0.5).return_to_go
    np.testing.assert_array_equal(halved, [2.0, 2.0, 4.0, 0.0])
    np.testing.assert_array_equal(to_rows(episode, labels).return_to_go, [5, 4, 4, 0])


ROWS_CLONED = [[0.1], [0.2], [0.3], [0.0]]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("asked_for", [True, False])
def test_intended_actions_are_cloned_if_asked_for_and_never_executed(asked_for, known):
    fields = make_fields()
    intended = -fields["action"]
    episode = Episode(**fields, intended_action=intended if known else None)
    rows = to_rows(episode, make_label(MIXED)(episode), clone_intended=asked_for)
    np.testing.assert_array_equal(rows.prev_action[1:], fields["action"])
    wanted = intended if known and asked_for else fields["action"]
    np.testing.assert_array_equal(rows.behaviour_action[:-1], wanted)
    assert not rows.behaviour_action[-1].any()


# --- the success filter ---------------------------------------------------------------


def test_whole_task_in_order_is_cloned_until_ten_after_the_last():
    in_goal = goal_rows(
        200,
        microwave=(30, 200),
        kettle=(60, 200),
        light_switch=(100, 200),
        slide_cabinet=(150, 200),
    )
    assert behaviour_rows(in_goal, MIXED) == 160


def test_prefix_of_three_is_cloned():
    """The best that demonstrations hold for `partial`."""
    in_goal = goal_rows(
        200,
        microwave=(30, 200),
        kettle=(60, 200),
        bottom_burner=(100, 200),
        slide_cabinet=(150, 200),
    )
    assert behaviour_rows(in_goal, tasks.TASKS["partial"]) == 110
    assert behaviour_rows(in_goal, MIXED) == 70


def test_wrong_first_object_leaves_nothing():
    in_goal = goal_rows(200, kettle=(20, 200), microwave=(60, 200))
    assert behaviour_rows(in_goal, MIXED) == 0
    # Also where the first is no object of the task.
    in_goal = goal_rows(200, hinge_cabinet=(20, 200), microwave=(60, 200))
    assert behaviour_rows(in_goal, MIXED) == 0


def test_episode_without_objects_leaves_nothing():
    assert behaviour_rows(goal_rows(50), MIXED) == 0


def test_object_lost_before_the_end_does_not_count():
    # The kettle is knocked over at row 150: microwave, then light switch remain.
    in_goal = goal_rows(
        200, microwave=(30, 200), kettle=(60, 150), light_switch=(100, 200)
    )
    assert completion_order(in_goal) == ("microwave", "light switch")
    assert behaviour_rows(in_goal, MIXED) == 40
    # A first object that did not last lets the second be first.
    in_goal = goal_rows(200, hinge_cabinet=(10, 20), microwave=(60, 200))
    assert behaviour_rows(in_goal, MIXED) == 70


def test_first_completion_counts_not_the_last():
    in_goal = goal_rows(200, microwave=(30, 200), kettle=(60, 200))
    in_goal[80:90, tasks.OBJECTS.index("kettle")] = False
    assert behaviour_rows(in_goal, MIXED) == 70


def test_last_row_has_no_action_to_clone():
    in_goal = goal_rows(40, microwave=(35, 40))
    assert behaviour_rows(in_goal, MIXED) == 39


def test_ties_go_by_the_task():
    in_goal = goal_rows(40, microwave=(5, 40), kettle=(5, 40))
    assert behaviour_rows(in_goal, ("kettle", "microwave")) == 15
    assert behaviour_rows(in_goal, ("microwave", "kettle")) == 15


# --- datasets -------------------------------------------------------------------------


def make_dataset(directory, num_episodes=2) -> Manifest:
    records = []
    for index in range(num_episodes):
        episode = Episode(**make_fields(num_rows=4 + index))
        digest = write_episode(directory / f"{index}.npz", episode)
        objects = completion_order(episode.objects_in_goal)
        records.append(EpisodeRecord(f"{index}.npz", digest, 4 + index, objects))
    manifest = Manifest("scripted", "fast", 8, "3.11.0", {"seed": 0}, tuple(records))
    write_manifest(directory, manifest)
    return manifest


def test_dataset_comes_back_in_order(tmp_path):
    manifest = make_dataset(tmp_path)
    assert read_manifest(tmp_path) == manifest
    episodes = load_dataset(tmp_path, "fast", 8)
    assert [episode.num_rows for episode in episodes] == [4, 5]


@pytest.mark.parametrize(
    ("profile", "size", "field"),
    [("paper", 8, "render_profile"), ("fast", 16, "image_size")],
)
def test_dataset_drawn_otherwise_is_refused(tmp_path, profile, size, field):
    make_dataset(tmp_path)
    with pytest.raises(DatasetError, match=rf"manifest\.json.*'{field}'"):
        load_dataset(tmp_path, profile, size)


def test_exchanged_file_is_refused(tmp_path):
    make_dataset(tmp_path)
    write_episode(tmp_path / "1.npz", Episode(**make_fields(num_rows=9)))
    with pytest.raises(DatasetError, match=r"1\.npz: sha256.*; restore it"):
        load_dataset(tmp_path, "fast", 8)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", 2),
        ("source", 3),
        ("image_size", "8"),
        ("image_size", True),
        ("request", []),
        ("episodes", {}),
        ("episodes", [3]),
        ("surprise", 1),
    ],
)
def test_malformed_manifest_is_refused(tmp_path, field, value):
    make_dataset(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    wanted = "objects" if value == [3] else field
    with pytest.raises(DatasetError, match=rf"manifest\.json.*'{wanted}'.*; restore"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("file", "../0.npz"),
        ("file", "/etc/passwd"),
        ("file", ""),
        ("sha256", None),
        ("rows", "4"),
        ("objects", [3]),
        ("surprise", 1),
    ],
)
def test_malformed_record_is_refused(tmp_path, field, value):
    make_dataset(tmp_path)
    path = tmp_path / "manifest.json"
    contents = json.loads(path.read_text())
    contents["episodes"][1][field] = value
    path.write_text(json.dumps(contents))
    with pytest.raises(DatasetError, match=rf"manifest\.json.*'{field}'"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000])
def test_manifest_that_is_no_json_object_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DatasetError, match=r"manifest\.json"):
        read_manifest(tmp_path)


def test_missing_dataset_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"manifest\.json: cannot be read"):
        load_dataset(tmp_path, "fast", 8)


def test_worker_modules_import_no_jax():
    code = (
        "import sys\n"
        "import moto_jax.data.episodes, moto_jax.worlds.kitchen.demonstrations\n"
        "import moto_jax.worlds.kitchen.demonstrator\n"
        "sys.exit('jax' in sys.modules or 'flax' in sys.modules)"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, check=False)
    assert done.returncode == 0


def test_a_kitchens_labels_want_its_seven_objects():
    fields = make_fields()
    label = make_label(MIXED)
    episode = Episode(**{**fields, "objects_in_goal": np.zeros((5, 6), np.bool_)})
    with pytest.raises(DatasetError, match=r"'objects_in_goal' is bool\[5, 6\] where"):
        label(episode)
    del fields["objects_in_goal"]
    episode = Episode(**fields, reward=np.zeros(5, np.float32))
    with pytest.raises(DatasetError, match="'objects_in_goal' is missing where"):
        require_objects(episode)


def test_joint_positions_are_optional_and_a_reward_may_stand_for_objects(tmp_path):
    fields = make_fields()
    del fields["qpos"], fields["objects_in_goal"]
    fields["reward"] = np.arange(5, dtype=np.float32)
    fields["is_terminal"] = np.arange(5) == 4
    checksum = write_episode(tmp_path / "a.npz", Episode(**fields))
    back = read_episode(tmp_path / "a.npz", checksum)
    assert back.qpos is None and back.objects_in_goal is None
    assert back.fields().keys() == fields.keys()
    for name, value in fields.items():
        np.testing.assert_array_equal(back.fields()[name], value)


def rewarded(*reward, **fields):
    reward = np.float32(reward)
    shape = (len(reward), 2, 2, 3)
    return Episode(
        image=np.zeros(shape, np.uint8),
        action=np.zeros((len(reward) - 1, 9), np.float32),
        reward=reward,
        **fields,
    )


def test_by_rewards_rows_are_cloned_until_some_after_the_last_rise():
    label = make_reward_label(2.0, rows_after=2)
    labels = label(rewarded(0, 0, 1, 1, 2, 2, 2, 2, 2))
    assert labels.behaviour_rows == 6
    assert labels.events[:, 0].tolist() == [False] * 4 + [True] * 5
    assert not labels.is_terminal.any()
    # A fall is no rise, and what follows it is not cloned.
    assert label(rewarded(0, 1, 1, 1, 0.5, 0.5, 0.5)).behaviour_rows == 3
    # The last row has no action.
    assert label(rewarded(0, 0, 1)).behaviour_rows == 2
    # Nothing of an episode that ends without reward, or never rose.
    assert label(rewarded(0, 1, 0)).behaviour_rows == 0
    assert label(rewarded(0, -2, -1)).behaviour_rows == 0
    assert label(rewarded(1, 1, 1)).behaviour_rows == 0
    ended = rewarded(0, 2, is_terminal=np.array([False, True]))
    assert label(ended).is_terminal.tolist() == [False, True]
    with pytest.raises(DatasetError, match="'reward' is missing"):
        label(Episode(**make_fields()))


def test_a_kitchens_task_takes_rewards_for_objects_where_there_is_nothing_else():
    label = make_label(MIXED, rows_after=1)
    labels = label(rewarded(0, 3, 4, 4))
    assert labels.events.tolist() == [[False] * 4] * 2 + [[True] * 4] * 2
    np.testing.assert_array_equal(labels.reward, [0, 3, 4, 4])
    assert labels.behaviour_rows == 3
    early = make_label(MIXED, success_reward=3.0)(rewarded(0, 3, 4, 4))
    assert early.events[1].all()
