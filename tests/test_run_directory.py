import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moto_jax.run_layout import RunError, read_object
from moto_jax.running.run_directory import bind, claimed, write_json

ROOT = Path(__file__).parents[1]

CONFIG = {
    "seeds": [0],
    "env": {"image_size": 64, "noise": {"robot": 0.01}},
    "sizes": (1, 2),
}

# Claims the directory that it is given, says so, and keeps it until its input closes.
HOLDER = """
import pathlib, sys
from moto_jax.running.run_directory import claimed
with claimed(pathlib.Path(sys.argv[1]), {}):
    print("claimed", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that owns the run's directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout.readline() == b"claimed\n"
        yield process
        process.kill()


def test_the_configuration_is_kept(tmp_path):
    directory = tmp_path / "runs" / "one"
    with claimed(directory, CONFIG):
        assert not (directory / "config.json").exists()
        bind(directory, CONFIG)
    assert read_object(directory / "config.json") == json.loads(json.dumps(CONFIG))
    # A tuple is a list in the file, and no other configuration for that.
    with claimed(directory, CONFIG):
        pass


@pytest.mark.parametrize(
    ("other", "key", "made_with", "wanted"),
    [
        ({**CONFIG, "seeds": [1]}, "seeds", [0], [1]),
        (
            {**CONFIG, "env": {"image_size": 64, "noise": {"robot": 0.1}}},
            "env.noise.robot",
            0.01,
            0.1,
        ),
        ({**CONFIG, "sizes": (2, 1)}, "sizes", [1, 2], [2, 1]),
        ({**CONFIG, "new": 3}, "new", None, 3),
        ({"env": CONFIG["env"], "sizes": (1, 2)}, "seeds", [0], None),
    ],
)
def test_another_configuration_is_refused_by_key(
    tmp_path, other, key, made_with, wanted
):
    with claimed(tmp_path, CONFIG):
        bind(tmp_path, CONFIG)
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(RunError) as error, claimed(tmp_path, other):
        pytest.fail("claimed")
    message = str(error.value)
    assert f"config.{key} = {made_with!r}, not {wanted!r}" in message
    assert str(tmp_path) in message and "\n" not in message
    assert (tmp_path / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("key", "without", "other"),
    [
        ("init_from", "", "runs/a"),
        ("moto.critic_layers", -1, 0),
        ("moto.critic_learning_rate", 0.0, 0.01),
        ("moto.value_final_share", 1.0, 0.25),
        ("moto.value_decay_begin", 0, 100),
        ("moto.value_decay_steps", 0, 100),
        ("optimizer.muon_scale", 0.0, 10.0),
        ("training.episodes_per_round", 1, 2),
        ("training.updates_per_program", 1, 2),
        ("world_model.colour_scale", 1.0, 8.0),
    ],
)
def test_a_run_from_before_there_was_a_key_did_without(tmp_path, key, without, other):
    def config(value):
        *section, name = key.split(".")
        return CONFIG | ({section[0]: {name: value}} if section else {name: value})

    with claimed(tmp_path, CONFIG):
        bind(tmp_path, CONFIG)
    with claimed(tmp_path, config(without)):
        pass
    complaint = f"config.{key} = {without!r}, not {other!r}"
    with pytest.raises(RunError, match=complaint), claimed(tmp_path, config(other)):
        pytest.fail("claimed")


def test_a_refused_directory_is_free_again(tmp_path):
    with claimed(tmp_path, CONFIG):
        bind(tmp_path, CONFIG)
    with pytest.raises(RunError), claimed(tmp_path, {**CONFIG, "seeds": [1]}):
        pytest.fail("claimed")
    with claimed(tmp_path, CONFIG):
        pass


def test_one_process_at_a_time(tmp_path, holder):
    with pytest.raises(RunError, match="in use by another process") as error:
        with claimed(tmp_path, {}):
            pytest.fail("claimed")
    assert str(tmp_path) in str(error.value)
    # However it ends, what it claimed is free then.
    holder.kill()
    holder.wait()
    with claimed(tmp_path, {}):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_keeps_nobody_out_and_says_so(
    tmp_path, monkeypatch, caplog, number
):
    def flock(file, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    with claimed(tmp_path, CONFIG):
        bind(tmp_path, CONFIG)
    (message,) = caplog.messages
    assert f"of {tmp_path} cannot lock files ({os.strerror(number)})" in message


def test_a_second_claim_of_the_same_process_is_refused(tmp_path):
    with claimed(tmp_path, CONFIG):
        with pytest.raises(RunError, match="in use"), claimed(tmp_path, CONFIG):
            pytest.fail("claimed")


@pytest.mark.parametrize(
    "contents", [b"", b'{"seed": 0', b"\xff\xfe", b"[1]", b'"seed"', b"null"]
)
def test_a_damaged_configuration_is_named(tmp_path, contents):
    path = tmp_path / "config.json"
    path.write_bytes(contents)
    with pytest.raises(RunError) as error, claimed(tmp_path, CONFIG):
        pytest.fail("claimed")
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert path.read_bytes() == contents


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RunError, match=r"summary\.json"):
        read_object(tmp_path / "summary.json")


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "summary.json"
    write_json(path, {"objects": 1.5})
    with pytest.raises(ValueError):
        write_json(path, {"objects": float("nan")})
    with pytest.raises(TypeError):
        write_json(path, {"objects": {1, 2}})
    assert read_object(path) == {"objects": 1.5}
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]
