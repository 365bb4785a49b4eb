"""python -m experiments.data, as its users call it."""

import json
from types import SimpleNamespace

import imageio.v3
import numpy as np
import pytest
from absl import flags

from experiments import data
from experiments.contact_sheet import write_contact_sheet
from moto_jax.data.episodes import read_manifest
from tests.programs import assert_refused, run_program
from tests.test_episodes import make_dataset
from tests.test_own_data import files, write_pixels


@pytest.fixture
def program(tmp_path, monkeypatch, capsys):
    """Runs the program in this process: (words, flags) -> status, output, error."""
    monkeypatch.chdir(tmp_path)
    for name, flag in vars(data).copy().items():
        if isinstance(flag, flags.FlagHolder):
            monkeypatch.setattr(data, name, SimpleNamespace(value=flag.default))

    def run(*words, **changes):
        for name, value in changes.items():
            holder = SimpleNamespace(value=value)
            monkeypatch.setattr(data, f"_{name.upper()}", holder)
        try:
            data.main(["data.py", *words])
            status = 0
        except SystemExit as end:
            status = end.code
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_a_folder_of_pixels_is_converted_shown_and_checked(tmp_path, program):
    folder = write_pixels(tmp_path / "theirs")
    before = files(folder)
    asked = {"source": "pixels", "path": str(folder), "image_size": 16}
    status, said, _ = program("convert", "ours", **asked)
    assert status == 0 and files(folder) == before
    assert "3 episodes, render profile foreign, 16 pixels, mujoco unknown" in said
    assert "cloned rows are up to 10 after the reward's last rise" in said
    assert len(read_manifest(tmp_path / "ours").episodes) == 3
    assert program("inspect", "ours")[1] == said
    assert program("validate", "ours")[:2] == (0, "ok: 3 episodes, 34 rows\n")


def test_what_a_dataset_holds_is_shown_by_its_objects(tmp_path, program):
    (tmp_path / "ours").mkdir()
    manifest = make_dataset(tmp_path / "ours")
    status, said, _ = program("inspect", "ours", task="kettle")
    assert status == 0
    assert manifest.episodes[0].objects[0] in said
    assert "2 episodes, render profile fast, 8 pixels, mujoco 3.11.0" in said
    assert "cloned rows are those of the task kettle" in said


def damage_a_bit(directory):
    path = directory / "1.npz"
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 1
    path.write_bytes(contents)
    return "1.npz: sha256"


def lose_a_file(directory):
    (directory / "0.npz").unlink()
    return "0.npz: cannot be read"


def lie_about_rows(directory):
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["episodes"][1]["rows"] = 9
    path.write_text(json.dumps(manifest))
    return "1.npz: field 'image'"


def name_no_episode(directory):
    path = directory / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "episodes": []}))
    return "field 'episodes'"


def spoil_the_manifest(directory):
    (directory / "manifest.json").write_text("{")
    return "manifest.json: not JSON"


@pytest.mark.parametrize(
    "damage",
    [damage_a_bit, lose_a_file, lie_about_rows, name_no_episode, spoil_the_manifest],
)
def test_the_first_fault_is_named_in_one_sentence(tmp_path, program, damage):
    (tmp_path / "ours").mkdir()
    make_dataset(tmp_path / "ours")
    assert program("validate", "ours")[:2] == (0, "ok: 2 episodes, 9 rows\n")
    fault = damage(tmp_path / "ours")
    for command in ("validate", "inspect", "preview"):
        status, said, _ = program(command, "ours")
        assert said == "" and status.startswith("error: ") and fault in status
        assert "\n" not in status


def test_episodes_are_drawn_side_by_side(tmp_path, program):
    (tmp_path / "ours").mkdir()
    make_dataset(tmp_path / "ours", num_episodes=7)
    before = files(tmp_path / "ours")
    status, said, _ = program(
        "preview", "ours", picture="sheet.png", episodes=3, frames=4
    )
    assert status == 0 and files(tmp_path / "ours") == before
    assert [line.partition(",")[0] for line in said.splitlines()[:3]] == [
        "0.npz",
        "3.npz",
        "6.npz",
    ]
    sheet = imageio.v3.imread(tmp_path / "sheet.png")
    assert sheet.shape == (3 * 167 + 2 * 12 + 24, 4 * 160 + 3 * 6 + 24, 3)


def test_a_sheet_shows_the_first_and_the_last_frame_and_the_share(tmp_path):
    frames = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones(
        (8, 8, 3), np.uint8
    )
    path = tmp_path / "sheet.png"
    write_contact_sheet(path, [frames], [np.array([0, 0, 0.5, 1, 1])], columns=3)
    sheet = imageio.v3.imread(path)
    middle = [12 + 80 + column * 166 for column in range(3)]
    assert sheet[92, middle, 0].tolist() == [0, 2, 4]
    bar = sheet[12 + 160 + 2 + 1]
    blue = (bar[:, 0] == 0) & (bar[:, 2] == 178)
    assert [blue[start : start + 160].sum() for start in (12, 178, 344)] == [0, 80, 160]


@pytest.mark.parametrize(
    ("words", "culprit"),
    [
        ([], "give one of convert, inspect, validate, preview"),
        (["inspect"], "give one of"),
        (["destroy", "x"], "give one of"),
        (["inspect", "x", "y"], "give one of"),
        (["validate", "nowhere"], "nowhere/manifest.json: cannot be read"),
        (["convert", "x", "--source=d4rl"], "--source=d4rl needs --path"),
        (["convert", "x", "--source=youtube"], "youtube"),
        (
            ["convert", "x", "--source=pixels", "--path=nowhere"],
            "nowhere: is no folder",
        ),
        (["convert", "x", "--task=toaster"], "'toaster'"),
    ],
)
def test_a_wrong_command_is_answered_in_one_sentence(tmp_path, words, culprit):
    assert_refused(run_program("data", *words, cwd=tmp_path), culprit)
    assert not list(tmp_path.iterdir())
