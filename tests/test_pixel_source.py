"""A folder of npz episodes as others write them becomes a dataset, or is refused."""

import os
import re

import numpy as np
import pytest

from moto_jax.data.episodes import DatasetError, load_dataset, read_manifest
from moto_jax.worlds.pixel_source import pixel_episodes

TASK = ("microwave", "kettle")
LENGTH, SIZE = 6, 8


def fields(number=0, rows=LENGTH + 1, **changes):
    """An episode as np.savez takes it; None leaves a field out."""
    generator = np.random.default_rng(number)
    action = generator.uniform(-1, 1, (rows, 9))
    action[0] = 0
    every = {
        "image": generator.integers(0, 256, (rows, SIZE, SIZE, 3), dtype=np.uint8),
        "action": action,
        "reward": np.arange(rows) / 2,
        "is_first": np.arange(rows) == 0,
        "is_last": np.arange(rows) == rows - 1,
        "is_terminal": np.zeros(rows, bool),
        "proprio": generator.random((rows, 60)),
        **changes,
    }
    return {name: value for name, value in every.items() if value is not None}


@pytest.fixture
def folder(tmp_path):
    """Three episodes, of 7, 8 and 9 rows."""
    path = tmp_path / "theirs"
    path.mkdir()
    for number in range(3):
        name = f"20231122T05455{number}-x-280.npz"
        np.savez_compressed(path / name, **fields(number, LENGTH + 1 + number))
    (path / "notes.txt").write_text("not an episode")
    return path


def convert(folder, **changes):
    values = {"path": folder, "events": TASK, "image_size": SIZE, "num_workers": 1}
    return pixel_episodes(folder.parent / "ours", **values | changes)


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.iterdir())}


def replace_second(folder, **changes):
    """Writes another second episode over the folder's."""
    path = sorted(folder.glob("*.npz"))[1]
    np.savez_compressed(path, **fields(1, **changes))
    return path


def test_a_row_is_an_image_the_action_that_led_to_it_and_its_reward(folder):
    before = contents(folder)
    manifest = convert(folder)
    assert contents(folder) == before
    assert [record.rows for record in manifest.episodes] == [7, 8, 9]
    assert (manifest.source, manifest.render_profile) == ("pixels", "foreign")
    assert manifest.mujoco_version == ""
    # Foreign frames are of any profile.
    episodes = load_dataset(folder.parent / "ours", "paper", SIZE)
    for number, episode in enumerate(episodes):
        theirs = fields(number, LENGTH + 1 + number)
        np.testing.assert_array_equal(episode.image, theirs["image"])
        np.testing.assert_array_equal(episode.action, np.float32(theirs["action"][1:]))
        np.testing.assert_array_equal(episode.reward, np.float32(theirs["reward"]))
        assert not episode.is_terminal.any()
        assert episode.objects_in_goal is None and episode.qpos is None


def test_it_is_converted_once_and_another_folder_is_told_apart(folder):
    manifest = convert(folder)
    ours = folder.parent / "ours"
    before = {path: path.stat().st_mtime_ns for path in ours.iterdir()}
    assert convert(folder, num_workers=2) == manifest == read_manifest(ours)
    assert {path: path.stat().st_mtime_ns for path in ours.iterdir()} == before
    replace_second(folder, rows=8, reward=np.ones(8))
    with pytest.raises(DatasetError, match=r"'sha256'.*another directory"):
        convert(folder)
    assert read_manifest(ours) == manifest


def test_an_interrupted_conversion_is_taken_up(folder):
    ours = folder.parent / "ours"

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(folder, progress=stop)
    kept = {path: path.stat().st_mtime_ns for path in ours.glob("*.npz")}
    assert len(convert(folder).episodes) == 3
    written = list(kept)[0]
    assert written.stat().st_mtime_ns == kept[written]


def test_rewards_of_objects_are_summed_over_the_tasks(folder):
    for number, path in enumerate(sorted(folder.glob("*.npz"))):
        by_object = {
            f"reward {name}": np.float64(np.arange(7) >= row)
            for name, row in (("microwave", 2), ("kettle", 4), ("hinge cabinet", 1))
        }
        np.savez(path, **fields(number, reward=None, **by_object))
    manifest = convert(folder)
    assert manifest.request["reward"] == "reward microwave + reward kettle"
    episode = load_dataset(folder.parent / "ours", "fast", SIZE)[0]
    np.testing.assert_array_equal(episode.reward, np.float32([0, 0, 1, 1, 2, 2, 2]))
    # Another task's is another dataset.
    with pytest.raises(DatasetError, match="'reward'.*hinge cabinet"):
        convert(folder, events=("hinge cabinet",))
    with pytest.raises(DatasetError, match="'reward' is missing.*'reward top burner'"):
        convert(folder, events=("top burner",))


def test_what_numpy_writes_otherwise_is_the_same_episode(folder):
    theirs = fields(1)
    other = {
        "image": np.asfortranarray(theirs["image"]),
        "action": theirs["action"].astype(">f8"),
        "reward": theirs["reward"].astype(np.float16),
        "is_first": np.zeros(7, np.int64),
        "is_last": None,
        "is_terminal": np.float32(np.arange(7) == 6),
    }
    replace_second(folder, **other)
    convert(folder)
    episode = load_dataset(folder.parent / "ours", "fast", SIZE)[1]
    np.testing.assert_array_equal(episode.image, theirs["image"])
    np.testing.assert_array_equal(episode.action, np.float32(theirs["action"][1:]))
    assert episode.is_terminal.tolist() == [False] * 6 + [True]


def action(row, value):
    values = fields(1)["action"]
    values[row] = value
    return values


@pytest.mark.parametrize(
    ("field", "value", "fault"),
    [
        ("image", None, "is missing"),
        ("image", np.zeros((7, SIZE, SIZE, 3), np.float32), "instead of uint"),
        ("image", np.zeros((7, SIZE, SIZE, 3), np.uint16), "uint16.*asks for uint8"),
        ("image", np.zeros((7, 16, 16, 3), np.uint8), "config.env.image_size"),
        ("image", np.zeros((7, 3, SIZE, SIZE), np.uint8), "config.env.image_size"),
        ("image", np.zeros((7, SIZE, SIZE), np.uint8), "instead of"),
        ("action", None, "is missing"),
        ("action", np.zeros((6, 9)), "has 6 rows, field 'image' 7"),
        ("action", np.zeros(7), "instead of"),
        ("action", action(0, 0.5), r"row 0's is zero"),
        ("action", action(3, 1.5), r"leaves \[-1, 1\]"),
        ("action", action(3, np.nan), "NaN"),
        ("action", action(3, 1e300), "infinite"),
        ("reward", None, "is missing"),
        ("reward", np.zeros(6), "has 6 rows"),
        ("reward", np.full(7, np.inf), "infinite"),
        ("reward", np.array(["1"] * 7), "instead of"),
        ("is_first", np.arange(7) % 3 == 0, "set in row 3 of 7"),
        ("is_last", np.arange(7) == 5, "set in row 5 of 7"),
        ("is_terminal", np.arange(7) == 2, "set in row 2 of 7"),
        ("is_terminal", np.zeros(3, bool), "has 3 rows"),
    ],
)
def test_a_wrong_field_is_named_before_anything_is_written(folder, field, value, fault):
    path = replace_second(folder, **{field: value})
    before = contents(folder)
    pattern = rf"{re.escape(str(path))}: field '{field}'.*{fault}.*; mend it, or take"
    with pytest.raises(DatasetError, match=pattern) as error:
        convert(folder)
    assert "\n" not in str(error.value)
    assert contents(folder) == before
    assert not (folder.parent / "ours").exists()


@pytest.mark.parametrize("action_size", [None, 9])
def test_actions_of_another_width_are_refused(folder, action_size):
    path = replace_second(folder, action=np.zeros((7, 4)))
    pattern = rf"{re.escape(str(path))}: field 'action' has 4 columns where 9"
    with pytest.raises(DatasetError, match=pattern):
        convert(folder, action_size=action_size)
    assert not (folder.parent / "ours").exists()


def test_a_single_row_is_no_episode(folder):
    replace_second(folder, rows=1)
    with pytest.raises(DatasetError, match="'action' has a single row"):
        convert(folder)


@pytest.mark.parametrize("damage", ["pickle", "text", "truncated", "pipe", "huge"])
def test_a_damaged_file_is_named_and_runs_nothing(folder, damage, monkeypatch):
    path = sorted(folder.glob("*.npz"))[1]
    if damage == "pickle":
        objects = np.array([print] * 7, object)
        np.savez(path, **fields(1, reward=objects), allow_pickle=True)
    elif damage == "text":
        path.write_text("<html>")
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "huge":
        monkeypatch.setattr("moto_jax.worlds.pixel_source.MAX_EPISODE_BYTES", 2000)
    else:
        path.unlink()
        os.mkfifo(path)
    name = r"theirs/\S+\.npz" if damage == "huge" else re.escape(str(path))
    with pytest.raises(DatasetError, match=name):
        convert(folder)
    assert not (folder.parent / "ours").exists()


def test_links_to_episodes_are_followed(folder):
    links = folder.parent / "links"
    links.mkdir()
    for path in folder.glob("*.npz"):
        (links / path.name).symlink_to(path)
    assert convert(links).episodes == convert(folder).episodes


@pytest.mark.parametrize("what", ["missing", "file", "empty", "ours", "same"])
def test_a_folder_that_cannot_be_the_source_is_refused(folder, what):
    path = folder.parent / "other"
    word = "is no folder"
    if what == "file":
        path.write_text("")
    elif what == "empty":
        path.mkdir()
        (path / ".hidden.npz").write_text("")
        word = "holds no npz file"
    elif what == "ours":
        convert(folder)
        path, word = folder.parent / "ours", "config.data.source=directory"
    elif what == "same":
        before = contents(folder)
        with pytest.raises(DatasetError, match="are the same"):
            pixel_episodes(folder, path=folder, events=TASK, image_size=SIZE)
        assert contents(folder) == before
        return
    with pytest.raises(DatasetError, match=rf"{re.escape(str(path))}: .*{word}"):
        convert(path)


def test_a_folder_without_a_whole_sequence_is_refused(folder):
    with pytest.raises(DatasetError, match="3 episodes has 9 rows, fewer than .* 10"):
        convert(folder, min_rows=10)
    assert not (folder.parent / "ours").exists()
    # Shorter ones beside it stay: which are left out is for each run to say.
    assert len(convert(folder, min_rows=9).episodes) == 3
