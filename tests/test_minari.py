"""Minari's layout of the kitchen, written by hand and, where it is there, by Minari."""

import re

import h5py
import numpy as np
import pytest

from moto_jax.data.episodes import DatasetError
from moto_jax.worlds.kitchen import demonstrations
from moto_jax.worlds.kitchen.minari import minari_file, read_minari


def observed(rows, number=0):
    """FrankaKitchen-v1's observations: each column of a row has a value of its own."""
    return number + np.arange(rows)[:, None] / 100 + np.arange(59) / 1000


def positions(observations):
    """9 of the robot's joints and, after as many velocities, 21 of the objects'."""
    return np.float32(observations[:, [*range(9), *range(18, 39)]])


def make_minari_file(path, rows=(5, 4, 12), nested=True, **changes):
    """Episodes of so many observations; None leaves a field of the second one out."""
    with h5py.File(path, "w") as file:
        file.attrs["total_episodes"] = len(rows)
        for number, count in enumerate(rows):
            group = file.create_group(f"episode_{number}")
            group.attrs["total_steps"] = count - 1
            name = "observations/observation" if nested else "observations"
            fields = {
                name: observed(count, number),
                "actions": np.full((count - 1, 9), number / 20),
                "rewards": np.zeros(count - 1),
                "terminations": np.zeros(count - 1, bool),
                "truncations": np.zeros(count - 1, bool),
                **(changes if number == 1 else {}),
            }
            for field, value in fields.items():
                if value is not None:
                    group[field] = value
            if nested and "observations" in group:
                group["observations/achieved_goal/kettle"] = np.zeros((count, 7))


@pytest.mark.parametrize("nested", [True, False])
def test_positions_and_actions_come_back_in_order(tmp_path, nested):
    # By number, not by name: episode_10 is after episode_9.
    rows = (5, 4, *range(2, 12))
    make_minari_file(tmp_path / "main_data.hdf5", rows, nested)
    episodes = read_minari(tmp_path / "main_data.hdf5")
    assert [len(episode.qpos) for episode in episodes] == list(rows)
    for number, (qpos, action) in enumerate(episodes):
        np.testing.assert_array_equal(qpos, positions(observed(rows[number], number)))
        np.testing.assert_array_equal(
            action, np.full((rows[number] - 1, 9), np.float32(number / 20))
        )
        assert qpos.dtype == action.dtype == np.float32


def test_the_columns_are_those_of_the_simulator():
    """Positions that are put there come out of FrankaKitchen-v1's observation."""
    from moto_jax.worlds.kitchen.mujoco_compat import make_simulator

    simulator = make_simulator(0.0, 0.0)
    try:
        simulator.reset(seed=0)
        simulator.step(np.full(9, 0.5))
        robot = simulator.robot_env._get_obs()
        observation = simulator._get_obs(robot)["observation"]
        qpos = simulator.data.qpos
        assert np.abs(simulator.data.qvel).max() > 0.01
        np.testing.assert_allclose(positions(observation[None])[0], qpos, atol=1e-6)
    finally:
        simulator.close()


def test_an_episode_without_an_action_is_skipped(tmp_path):
    make_minari_file(tmp_path / "a.hdf5", rows=(3, 1, 4), actions=None)
    assert [len(qpos) for qpos, _ in read_minari(tmp_path / "a.hdf5")] == [3, 4]
    make_minari_file(tmp_path / "b.hdf5", rows=(1,))
    with pytest.raises(DatasetError, match=r"b\.hdf5: field 'actions' holds no action"):
        read_minari(tmp_path / "b.hdf5")


def test_a_directory_of_minaris_is_taken_too(tmp_path):
    (tmp_path / "data").mkdir()
    assert minari_file(tmp_path) == tmp_path / "data" / "main_data.hdf5"
    assert minari_file(tmp_path / "a.hdf5") == tmp_path / "a.hdf5"
    with pytest.raises(DatasetError, match=r"data/main_data\.hdf5: cannot be read"):
        demonstrations.minari_episodes(tmp_path / "out", path=tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("observations", None),
        ("observations", np.zeros((4, 60))),
        ("observations", np.zeros((4, 59), np.int32)),
        ("observations", np.full((4, 59), np.nan)),
        ("observations", np.zeros((0, 59))),
        ("observations", h5py.SoftLink("/episode_0/observations")),
        ("observations", h5py.ExternalLink("other.hdf5", "/episode_0/observations")),
        ("actions", None),
        ("actions", np.zeros((4, 9))),
        ("actions", np.zeros((3, 8))),
        ("actions", np.full((3, 9), 1.01)),
        ("actions", h5py.ExternalLink("other.hdf5", "/episode_0/actions")),
    ],
)
def test_a_wrong_field_is_named_with_its_episode(tmp_path, field, value):
    make_minari_file(tmp_path / "other.hdf5", nested=False)
    make_minari_file(tmp_path / "a.hdf5", nested=False, **{field: value})
    with pytest.raises(DatasetError, match=rf"a\.hdf5: field 'episode_1/{field}'"):
        read_minari(tmp_path / "a.hdf5")


def test_other_layouts_are_named_as_what_they_are(tmp_path):
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"] = np.zeros((4, 60))
    with pytest.raises(DatasetError, match=r"a\.hdf5: group 'episode_0'.*source=d4rl"):
        read_minari(path)
    with h5py.File(path, "w") as file:
        file["episode_0"] = h5py.ExternalLink("other.hdf5", "/")
    with pytest.raises(DatasetError, match=r"a\.hdf5: field 'episode_0' is a link"):
        read_minari(path)
    with h5py.File(path, "w") as file:
        file["episode_0"] = np.zeros(3)
    with pytest.raises(DatasetError, match=r"a\.hdf5: 'episode_0' is no group"):
        read_minari(path)
    path.write_text("<html>")
    with pytest.raises(DatasetError, match=rf"{re.escape(str(path))}: cannot be read"):
        read_minari(path)


def test_what_minari_itself_writes_is_read(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    buffers = pytest.importorskip("minari.data_collector")
    spaces = pytest.importorskip("gymnasium").spaces
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    box = spaces.Box(-np.inf, np.inf, (59,))
    minari.create_dataset_from_buffers(
        "kitchen/own-v0",
        [
            buffers.EpisodeBuffer(
                observations={"observation": observed(rows)},
                actions=np.zeros((rows - 1, 9)),
                rewards=np.zeros(rows - 1),
                terminations=np.zeros(rows - 1, bool),
                truncations=np.arange(rows - 1) == rows - 2,
            )
            for rows in (4, 6)
        ],
        observation_space=spaces.Dict({"observation": box}),
        action_space=spaces.Box(-1, 1, (9,)),
    )
    episodes = read_minari(minari_file(tmp_path / "kitchen/own-v0"))
    assert [len(qpos) for qpos, _ in episodes] == [4, 6]


@pytest.mark.kitchen
def test_recorded_positions_are_drawn(tmp_path):
    make_minari_file(tmp_path / "a.hdf5", rows=(3, 4))
    manifest = demonstrations.minari_episodes(
        tmp_path / "out", path=tmp_path / "a.hdf5", image_size=16, num_workers=1
    )
    assert (manifest.source, manifest.render_profile) == ("minari", "fast")
    assert [record.rows for record in manifest.episodes] == [3, 4]
