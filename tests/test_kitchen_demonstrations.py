"""Datasets: their composition, D4RL's files, and making them in parallel and once."""

import collections
import dataclasses
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from fake_jobs import FakeJob

from moto_jax.acting.building import (
    JOURNAL_NAME,
    Made,
    build_dataset,
    build_dataset_here,
)
from moto_jax.acting.environment_seeds import Purpose, environment_seed
from moto_jax.data.episodes import DatasetError, Manifest, load_dataset, read_manifest
from moto_jax.data.rows import first_rows, to_rows
from moto_jax.worlds.kitchen import demonstrations, tasks
from moto_jax.worlds.kitchen.composition import HUMAN_SEQUENCES, composition
from moto_jax.worlds.kitchen.d4rl import read_d4rl
from moto_jax.worlds.kitchen.demonstrator import Demonstrator, demonstrable_order
from moto_jax.worlds.kitchen.labels import make_label

MIXED, PARTIAL = tasks.TASKS["mixed"], tasks.TASKS["partial"]
D4RL_FILE = (
    Path(__file__).parents[1].parent
    / "shared/data/mini_kitchen_microwave_kettle_light_slider-v0.hdf5"
)
needs_d4rl_file = pytest.mark.skipif(
    not D4RL_FILE.exists(), reason=f"{D4RL_FILE.name} is not beside the repository"
)


# --- composition ----------------------------------------------------------------------


def test_human_sequences_are_those_of_the_real_data():
    assert sum(HUMAN_SEQUENCES.values()) == 581
    assert HUMAN_SEQUENCES[MIXED] == 19
    assert not any(set(PARTIAL) == set(sequence) for sequence in HUMAN_SEQUENCES)


def test_as_many_episodes_as_humans_made_gives_their_counts():
    for task in tasks.TASKS:
        counts = collections.Counter(composition(task, 581))
        assert counts == {
            demonstrable_order(sequence): n for sequence, n in HUMAN_SEQUENCES.items()
        }


def test_small_compositions_by_hand():
    """60 of 581: 19 is 1.96 and becomes 2; the largest other, 48, is 58/562 of 48."""
    counts = collections.Counter(composition("mixed", 60))
    assert sum(counts.values()) == 60
    assert counts[MIXED] == 2
    largest = ("microwave", "bottom burner", "light switch", "slide cabinet")
    assert counts[largest] == 5  # 4.95
    assert set(counts.values()) <= {1, 2, 3, 4, 5}
    # In proportion ten episodes would hold none; the floor keeps two.
    assert composition("mixed", 10).count(MIXED) == 2
    assert composition("mixed", 1) == [MIXED]


def test_partial_is_never_complete_but_holds_three_in_order():
    sequences = composition("partial", 60)
    assert not any(set(sequence) >= set(PARTIAL) for sequence in sequences)
    assert sum(sequence[:3] == PARTIAL[:3] for sequence in sequences) == 5  # 5.06


def test_complete_share_is_kept():
    assert composition("mixed", 40, complete_share=0.25).count(MIXED) == 10
    assert composition("mixed", 40, complete_share=0.0).count(MIXED) == 0
    assert composition("mixed", 3, complete_share=1.0) == [MIXED] * 3


def test_every_sequence_can_be_demonstrated():
    for sequence in composition("mixed", 200):
        assert sequence == demonstrable_order(sequence)
    # The humans' hinge-before-slide is the task's set all the same.
    task = ("microwave", "kettle", "hinge cabinet", "slide cabinet")
    assert composition(task, 2) == [demonstrable_order(task)] * 2


def test_composition_is_a_function_of_its_arguments():
    assert composition("mixed", 60) == composition(MIXED, 60)
    assert composition("mixed", 60, seed=1) != composition("mixed", 60, seed=2)
    assert sorted(composition("mixed", 60, seed=1)) == sorted(composition("mixed", 60))


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("mixed", 0), r"config\.data\.episodes \(--num_episodes\) is 0"),
        (("mixed", 5, 1.5), r"config\.data\.complete_share .* the key -1"),
        (("partial", 5, 0.5), r"config\.data\.complete_share .* the key -1"),
        (("toaster", 5), "toaster"),
    ],
)
def test_impossible_composition_is_refused(arguments, word):
    with pytest.raises(ValueError, match=word):
        composition(*arguments)


# --- D4RL's files ---------------------------------------------------------------------


@needs_d4rl_file
def test_real_demonstrations_do_the_task_in_order():
    recorded = []
    with h5py.File(D4RL_FILE) as file:
        observations, actions = file["observations"][()], file["actions"][()]
        rewards = file["rewards"][()]
        stops = np.flatnonzero(file["terminals"][()]) + 1
    starts = [0, *stops[:-1]]
    episodes = read_d4rl(D4RL_FILE)
    assert len(episodes) == 19
    for (qpos, action), start, stop in zip(episodes, starts, stops, strict=True):
        # Action j was taken at observation j; what the last one led to is not there.
        np.testing.assert_array_equal(qpos, observations[start:stop, :30])
        np.testing.assert_array_equal(action, actions[start : stop - 1])
        in_goal = tasks.objects_in_goal(qpos)
        reward = tasks.task_reward(in_goal, MIXED)
        recorded.append((reward == rewards[start:stop]).mean())
        assert reward.max() == 4
        first = first_rows(in_goal)[tasks.object_columns(MIXED)]
        assert (np.diff(first) > 0).all()
        assert first[0] > 0
    # D4RL counted with the same rule.
    assert np.mean(recorded) == 1.0


class StubRenderer:
    """Draws a joint position as a grey level."""

    def render(self, qpos):
        return np.full((4, 4, 3), np.uint8(abs(qpos[22]) * 100))


@needs_d4rl_file
def test_d4rl_episode_shows_each_observation(monkeypatch):
    monkeypatch.setattr(
        demonstrations, "_renderer", lambda profile, size: StubRenderer()
    )
    qpos, action = read_d4rl(D4RL_FILE)[3]
    job = demonstrations.DrawingJob(3, qpos, action, "fast", 4)
    assert job.file == "000003-microwave-kettle-light_switch-slide_cabinet.npz"
    episode, _, attempts = job.run()
    assert attempts == 1
    assert episode.num_rows == len(qpos) == len(action) + 1
    np.testing.assert_array_equal(
        episode.image[:, 0, 0, 0], (np.abs(qpos[:, 22]) * 100).astype(np.uint8)
    )
    rows = to_rows(episode, make_label(MIXED)(episode))
    np.testing.assert_array_equal(rows.prev_action[1:], action)
    assert rows.reward[-1] == 4
    assert rows.is_behaviour.sum() > 100


def make_d4rl_file(path, **changes) -> None:
    """Two episodes of 4 and 3 rows and one row left over; None leaves a field out."""
    ends = np.array([0, 0, 0, 1, 0, 0, 1, 0], np.bool_)
    fields = {
        "observations": np.arange(8 * 60, dtype=np.float32).reshape(8, 60) / 480,
        "actions": np.linspace(-1, 1, 72, dtype=np.float32).reshape(8, 9),
        "terminals": ends & (np.arange(8) < 5),
        "timeouts": ends & (np.arange(8) >= 5),
        **changes,
    }
    with h5py.File(path, "w") as file:
        for name, value in fields.items():
            if value is not None:
                file[name] = value


def test_terminals_and_timeouts_both_end_an_episode(tmp_path):
    make_d4rl_file(tmp_path / "a.hdf5")
    episodes = read_d4rl(tmp_path / "a.hdf5")
    assert [len(qpos) for qpos, _ in episodes] == [4, 3]
    assert [len(action) for _, action in episodes] == [3, 2]
    # The second episode starts at row 4: the columns of row r begin at 60 r / 480, and
    # its first action is the file's fifth.
    assert episodes[1][0][0, 0] == np.float32(4 * 60 / 480)
    actions = np.linspace(-1, 1, 72, dtype=np.float32).reshape(8, 9)
    np.testing.assert_array_equal(episodes[1][1], actions[4:6])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("observations", None),
        ("observations", np.zeros((8, 59), np.float32)),
        ("observations", np.zeros((8, 60), np.int32)),
        ("observations", np.full((8, 60), np.nan, np.float32)),
        ("observations", np.zeros((0, 60), np.float32)),
        ("observations", np.float32(0)),
        ("observations", h5py.SoftLink("/actions")),
        ("observations", h5py.SoftLink("/nowhere")),
        ("observations", h5py.ExternalLink("other.hdf5", "/observations")),
        ("actions", np.zeros((8, 8), np.float32)),
        ("actions", np.zeros((7, 9), np.float32)),
        ("actions", np.full((8, 9), 1.01, np.float32)),
        ("actions", np.full((8, 9), -np.inf, np.float32)),
        ("observations", np.full((8, 60), 1e300)),
        ("terminals", np.zeros(9, np.bool_)),
        ("terminals", np.zeros((8, 2), np.float32)),
        ("terminals", np.full(8, np.nan, np.float32)),
        ("terminals", h5py.SoftLink("/timeouts")),
        ("timeouts", np.array([b"yes"] * 8)),
        ("timeouts", np.zeros((9, 1), np.float32)),
    ],
)
def test_wrong_d4rl_field_is_named(tmp_path, field, value):
    make_d4rl_file(tmp_path / "other.hdf5")
    make_d4rl_file(tmp_path / "a.hdf5", **{field: value})
    with pytest.raises(DatasetError, match=rf"a\.hdf5: field '{field}'.*; download"):
        read_d4rl(tmp_path / "a.hdf5")


def as_floats(ends):
    return ends.astype(np.float32)


def as_a_column(ends):
    return ends[:, None].astype(np.float64)


@pytest.mark.parametrize("write", [as_floats, as_a_column, np.uint8, np.int64])
def test_ends_are_read_however_they_are_written(tmp_path, write):
    """D4RL's generator writes floats."""
    make_d4rl_file(tmp_path / "a.hdf5")
    ends = np.array([0, 0, 0, 1, 0, 0, 1, 0], np.bool_)
    terminals, timeouts = write(ends & (np.arange(8) < 5)), write(ends)
    make_d4rl_file(tmp_path / "b.hdf5", terminals=terminals, timeouts=timeouts)
    pairs = zip(
        read_d4rl(tmp_path / "a.hdf5"), read_d4rl(tmp_path / "b.hdf5"), strict=True
    )
    for one, other in pairs:
        np.testing.assert_array_equal(one.qpos, other.qpos)
        np.testing.assert_array_equal(one.action, other.action)


@pytest.mark.parametrize("missing", ["terminals", "timeouts"])
def test_one_kind_of_ends_suffices(tmp_path, missing):
    ends = np.array([0, 0, 0, 1, 0, 0, 1, 0], np.bool_)
    fields = {"terminals": ends, "timeouts": ends, missing: None}
    make_d4rl_file(tmp_path / "a.hdf5", **fields)
    assert [len(qpos) for qpos, _ in read_d4rl(tmp_path / "a.hdf5")] == [4, 3]


def test_without_an_end_a_file_is_one_episode(tmp_path):
    nowhere = np.zeros(8, np.bool_)
    make_d4rl_file(tmp_path / "a.hdf5", terminals=nowhere, timeouts=None)
    assert [len(qpos) for qpos, _ in read_d4rl(tmp_path / "a.hdf5")] == [8]


def test_an_end_in_every_row_leaves_no_action(tmp_path):
    everywhere = np.ones(8, np.bool_)
    make_d4rl_file(tmp_path / "a.hdf5", terminals=everywhere)
    with pytest.raises(DatasetError, match=r"a\.hdf5: field 'terminals'.*every row"):
        read_d4rl(tmp_path / "a.hdf5")


def test_neither_kind_of_ends_is_refused(tmp_path):
    make_d4rl_file(tmp_path / "a.hdf5", terminals=None, timeouts=None)
    with pytest.raises(DatasetError, match=r"a\.hdf5: field 'terminals' is missing"):
        read_d4rl(tmp_path / "a.hdf5")


def test_actions_of_another_dtype_may_round_beyond_one(tmp_path):
    actions = np.linspace(-1, 1, 72).reshape(8, 9)
    actions[0, 0] = -1 - 1e-7
    make_d4rl_file(tmp_path / "a.hdf5", actions=actions)
    found = read_d4rl(tmp_path / "a.hdf5")[0].action
    assert found.dtype == np.float32 and found[0, 0] == -1.0


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
def test_positions_of_any_float_are_read(tmp_path, dtype):
    positions = np.arange(8 * 60).reshape(8, 60) / 512
    make_d4rl_file(tmp_path / "a.hdf5", observations=positions.astype(dtype))
    found = np.concatenate([qpos for qpos, _ in read_d4rl(tmp_path / "a.hdf5")])
    assert found.dtype == np.float32
    expected = positions[:7, :30].astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(found, expected)


def test_minaris_layout_is_named(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file.create_group("episode_0")
    with pytest.raises(DatasetError, match="'observations'.*source=minari"):
        read_d4rl(tmp_path / "a.hdf5")


def draw_nothing(*args, **kwargs):
    pytest.fail("something was drawn")


def test_what_is_refused_by_its_size_is_refused_before_drawing(tmp_path, monkeypatch):
    monkeypatch.setattr(
        demonstrations, "build_dataset", lambda d, h, jobs, *rest: jobs()
    )
    monkeypatch.setattr(demonstrations, "_check_drawing", draw_nothing)
    path = tmp_path / "a.hdf5"
    make_d4rl_file(path)
    with pytest.raises(DatasetError, match=r"a\.hdf5.*2 episodes has 4 rows.* 5:"):
        demonstrations.d4rl_episodes(tmp_path / "out", path=path, min_rows=5)
    make_d4rl_file(path, terminals=np.zeros(8, np.bool_), timeouts=None)
    monkeypatch.setattr(demonstrations, "MAX_EPISODE_BYTES", 8 * 3 * 64**2 - 1)
    with pytest.raises(DatasetError, match=r"a\.hdf5.*8 rows.*over the bound"):
        demonstrations.d4rl_episodes(tmp_path / "out", path=path)
    assert not (tmp_path / "out").exists()


def test_d4rl_data_outside_the_file_is_refused(tmp_path):
    """Storage that HDF5 would follow out of the file, and a bomb of zeros."""
    path = tmp_path / "a.hdf5"
    (tmp_path / "raw").write_bytes(bytes(8 * 60 * 4))
    make_d4rl_file(tmp_path / "other.hdf5")
    make_d4rl_file(path, observations=None)
    with h5py.File(path, "a") as file:
        file.create_dataset(
            "observations",
            (8, 60),
            np.float32,
            external=[(str(tmp_path / "raw"), 0, h5py.h5f.UNLIMITED)],
        )
    with pytest.raises(DatasetError, match=r"a\.hdf5: field 'observations'"):
        read_d4rl(path)

    layout = h5py.VirtualLayout((8, 60), np.float32)
    layout[:] = h5py.VirtualSource(
        str(tmp_path / "other.hdf5"), "observations", (8, 60)
    )
    make_d4rl_file(path, observations=None)
    with h5py.File(path, "a") as file:
        file.create_virtual_dataset("observations", layout)
    with pytest.raises(DatasetError, match=r"a\.hdf5: field 'observations'"):
        read_d4rl(path)

    make_d4rl_file(path, observations=None)
    with h5py.File(path, "a") as file:
        file.create_dataset(
            "observations", (10**9, 60), np.float32, chunks=(1000, 60), compression=9
        )
    with pytest.raises(DatasetError, match=r"a\.hdf5: field 'observations'.*rows"):
        read_d4rl(path)


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "truncated"])
def test_what_is_no_hdf5_is_refused(tmp_path, damage):
    path = tmp_path / "a.hdf5"
    if damage == "truncated":
        make_d4rl_file(path)
        path.write_bytes(path.read_bytes()[:3000])
    elif damage != "missing":
        path.write_text("" if damage == "empty" else "hello" * 1000)
    with pytest.raises(DatasetError, match=r"a\.hdf5"):
        read_d4rl(path)
    with pytest.raises(DatasetError, match=r"a\.hdf5"):
        demonstrations.d4rl_episodes(tmp_path / "out", path=path)
    assert not (tmp_path / "out").exists()


# --- making a dataset -----------------------------------------------------------------

HEAD = Manifest("scripted", "fast", 4, "3.11.0", {"seed": 0, "list": [1, 2]}, ())


class Building:
    """A dataset of fake episodes, and a record of which were made."""

    def __init__(self, directory: Path, num_episodes: int = 5, how: str = "refuse"):
        self.directory = directory / "dataset"
        self.log = directory / "log"
        self.fault = directory / "fault"
        self.jobs = [
            FakeJob(index, self.log, self.fault, how) for index in range(num_episodes)
        ]

    def build(self, head=HEAD, num_workers=2, progress=None) -> Manifest:
        return build_dataset(
            self.directory, head, lambda: self.jobs, num_workers, progress
        )

    def made(self) -> list[int]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        assert all(line.endswith("False") for line in lines), "jax in a worker"
        self.log.unlink(missing_ok=True)
        return sorted(int(line.split()[0]) for line in lines)


def test_dataset_is_made_in_order_and_once(tmp_path):
    building = Building(tmp_path)
    seen = []
    manifest = building.build(progress=lambda done, total: seen.append((done, total)))
    assert building.made() == [0, 1, 2, 3, 4]
    assert seen == [(done, 5) for done in range(6)]
    assert [record.rows for record in manifest.episodes] == [2, 3, 4, 5, 6]
    assert read_manifest(building.directory) == manifest
    episodes = load_dataset(building.directory, "fast", 4)
    assert [episode.image[0, 0, 0, 0] for episode in episodes] == [0, 1, 2, 3, 4]
    names = [f"{index:06d}.npz" for index in range(5)]
    assert sorted(os.listdir(building.directory)) == [*names, "manifest.json"]
    # A second call does nothing, not even think about jobs.
    building.jobs = []
    assert building.build() == manifest
    assert building.made() == []


def test_number_of_workers_changes_nothing(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = Building(tmp_path / "one").build(num_workers=1)
    assert one == Building(tmp_path / "two").build(num_workers=8)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("refuse", "000003.npz: cannot be made"),
        ("raise", "000003.npz: ZeroDivisionError: oops"),
        ("die", "exit code 7"),
    ],
)
def test_interrupted_dataset_is_taken_up(tmp_path, how, message):
    building = Building(tmp_path, how=how)
    building.fault.write_text("3")
    with pytest.raises(DatasetError, match=message):
        building.build(num_workers=1)
    assert building.made() == [0, 1, 2, 3]
    with pytest.raises(DatasetError, match=r"manifest\.json"):
        load_dataset(building.directory, "fast", 4)
    # What a killed process leaves behind, and a finished file that was damaged since.
    (building.directory / ".000003.npz.tmp").write_bytes(b"half")
    path = building.directory / "000001.npz"
    path.write_bytes(path.read_bytes()[:-1])
    building.fault.unlink()
    manifest = building.build()
    assert building.made() == [1, 3, 4]
    assert [record.rows for record in manifest.episodes] == [2, 3, 4, 5, 6]
    assert len(load_dataset(building.directory, "fast", 4)) == 5
    leftovers = {JOURNAL_NAME, ".000003.npz.tmp"} & set(os.listdir(building.directory))
    assert not leftovers


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("source", "d4rl"),
        ("render_profile", "paper"),
        ("image_size", 8),
        ("mujoco_version", "4.0.0"),
        ("request", {"seed": 1, "list": [1, 2]}),
        ("request", {"seed": 0}),
    ],
)
def test_another_dataset_in_the_directory_is_refused(tmp_path, finished, field, value):
    building = Building(tmp_path, num_episodes=2)
    if not finished:
        building.fault.write_text("1")
        with pytest.raises(DatasetError):
            building.build(num_workers=1)
    else:
        building.build()
    names = sorted(os.listdir(building.directory))
    named = {"request": r"seed|list"}.get(field, field)
    with pytest.raises(DatasetError, match=f"field '({named})'.*another directory"):
        building.build(head=dataclasses.replace(HEAD, **{field: value}))
    assert sorted(os.listdir(building.directory)) == names


def test_nothing_is_written_beside_files_of_others(tmp_path):
    building = Building(tmp_path)
    building.directory.mkdir()
    (building.directory / ".DS_Store").touch()
    theirs = building.directory / "20231122T054551-x-280.npz"
    theirs.write_bytes(b"theirs")
    with pytest.raises(DatasetError, match="20231122.*data.source=pixels"):
        building.build()
    assert sorted(os.listdir(building.directory)) == [".DS_Store", theirs.name]
    assert building.made() == []
    theirs.unlink()
    # A file that the system keeps in every folder is none of theirs.
    assert len(building.build().episodes) == 5
    (tmp_path / "file").touch()
    building.directory = tmp_path / "file"
    with pytest.raises(DatasetError, match="file: no folder"):
        building.build()


def made(numbers):
    return (
        Made(FakeJob(index, Path(os.devnull), Path("nowhere")).run().episode)
        for index in numbers
    )


def test_a_dataset_made_in_this_process_is_taken_up_too(tmp_path):
    asked = []

    def make(numbers):
        asked.append(list(numbers))
        for count, one in enumerate(made(numbers)):
            if len(asked) == 1 and count == 2:
                raise KeyboardInterrupt
            yield one

    directory = tmp_path / "dataset"
    with pytest.raises(KeyboardInterrupt):
        build_dataset_here(directory, HEAD, 4, make)
    manifest = build_dataset_here(directory, HEAD, 4, make)
    assert build_dataset_here(directory, HEAD, 4, make) == manifest
    assert asked == [[0, 1, 2, 3], [2, 3]]
    assert [record.rows for record in manifest.episodes] == [2, 3, 4, 5]
    names = [f"{index:06d}.npz" for index in range(4)]
    assert sorted(os.listdir(directory)) == [*names, "manifest.json"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "000000.npz").touch()
    with pytest.raises(DatasetError, match="no part of a dataset of ours"):
        build_dataset_here(tmp_path / "other", HEAD, 4, make)


def test_no_workers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="num_workers"):
        Building(tmp_path).build(num_workers=0)


# --- scripted episodes ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"tail_steps": -1}, "tail_steps"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**32}, "seed"),
        ({"action_noise": 2.0}, "action_noise"),
        ({"render_profile": "blurred"}, "blurred"),
        ({"image_size": 0}, "image_size"),
        ({"task": "toaster"}, "toaster"),
    ],
)
@pytest.mark.kitchen
def test_bad_request_is_refused_before_anything_is_made(tmp_path, changes, word):
    values = {"task": "mixed", "num_episodes": 2, **changes}
    with pytest.raises(ValueError, match=word):
        demonstrations.scripted_episodes(tmp_path / "out", **values)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def physics(monkeypatch):
    """The kitchen without frames, also for jobs that run in this process."""
    from moto_jax.worlds.kitchen.environment import KitchenEnv

    env = KitchenEnv(render_frames=False)
    monkeypatch.setattr(demonstrations, "_environment", lambda profile, size: env)
    yield env
    env.close()


QUIET = {"action_noise": 0.0, "min_speed": 1.0, "keyframe_jitter": 0.0}


def test_recorded_episode_ends_soon_after_its_object(physics):
    demonstrator = Demonstrator(("slide cabinet",), 0, **QUIET)
    episode = demonstrations.record_episode(physics, demonstrator, seed=0, tail_steps=0)
    longer = demonstrations.record_episode(
        physics, Demonstrator(("slide cabinet",), 0, **QUIET), seed=0, tail_steps=4
    )
    assert longer.num_rows == episode.num_rows + 4 < 100
    # The same seed gives the same episode, whatever the environment did before.
    np.testing.assert_array_equal(longer.qpos[: episode.num_rows], episode.qpos)
    np.testing.assert_array_equal(
        tasks.objects_in_goal(longer.qpos), longer.objects_in_goal
    )
    # The action at row j led to row j + 1.
    physics.reset(seed=0)
    for action, qpos in zip(episode.action[:5], episode.qpos[1:6], strict=True):
        _, _, _, _, info = physics.step(action)
        np.testing.assert_array_equal(info["qpos"].astype(np.float32), qpos)


def test_failed_attempt_is_repeated_with_another_seed(physics, monkeypatch):
    """The first attempt does another object than it was asked to."""
    real, asked = Demonstrator, []

    def distracted(objects, seed, **demonstration):
        asked.append(seed)
        objects = ("light switch",) if len(asked) == 1 else objects
        return real(objects, seed, **demonstration)

    monkeypatch.setattr(demonstrations, "Demonstrator", distracted)
    job = demonstrations.ScriptedJob(
        4, ("slide cabinet",), 2**32 - 1, QUIET, 2, "fast", 64
    )
    episode, _, attempts = job.run()
    assert attempts == 2
    assert asked == [
        environment_seed(Purpose.DEMONSTRATIONS, 2**32 - 1, attempt, number=4)
        for attempt in (0, 1)
    ]
    assert episode.objects_in_goal[-1].sum() == 1
    assert job.file == "000004-slide_cabinet.npz"


def test_demonstrator_that_always_fails_is_an_error(physics, monkeypatch):
    monkeypatch.setattr(demonstrations, "MAX_ATTEMPTS", 1)
    real = Demonstrator
    monkeypatch.setattr(
        demonstrations,
        "Demonstrator",
        lambda objects, *a, **k: real(("kettle",), *a, **k),
    )
    job = demonstrations.ScriptedJob(4, ("slide cabinet",), 0, QUIET, 2, "fast", 64)
    with pytest.raises(DatasetError, match="000004-slide_cabinet.npz.*action_noise"):
        job.run()


@pytest.mark.kitchen
def test_scripted_dataset_end_to_end(tmp_path):
    directory = tmp_path / "dataset"
    manifest = demonstrations.scripted_episodes(
        directory, task="mixed", num_episodes=2, image_size=16
    )
    assert manifest.source == "scripted"
    assert manifest.request["task"] == list(MIXED)
    for record, episode in zip(
        manifest.episodes, load_dataset(directory, "fast", 16), strict=True
    ):
        assert record.objects == MIXED
        rows = to_rows(episode, make_label(MIXED)(episode))
        assert rows.reward[-1] == 4
        # What was executed is what was meant with noise of 0.1, cut to the ends.
        noise = (episode.action - episode.intended_action)[:, :7]
        inside = np.abs(episode.intended_action[:, :7]) < 0.6
        np.testing.assert_allclose(noise[inside].std(), 0.1, rtol=0.1)
        assert abs(noise[inside].mean()) < 0.02
        assert rows.is_behaviour.sum() > 100
        moved = np.abs(episode.image[-1].astype(int) - episode.image[0]).mean()
        assert moved > 1


@needs_d4rl_file
@pytest.mark.kitchen
def test_d4rl_rows_are_drawn_by_the_kitchens_renderer():
    qpos, action = read_d4rl(D4RL_FILE)[0]
    rows = [0, 60, len(qpos) - 1]
    job = demonstrations.DrawingJob(0, qpos[rows], action[: len(rows) - 1], "fast", 32)
    image = job.run().episode.image.astype(int)
    assert image.shape == (3, 32, 32, 3)
    assert 50 < image.mean() < 150
    assert np.abs(image[0] - image[1]).mean() > 1
    assert np.abs(image[1] - image[2]).mean() > 1
