"""Readers answer or refuse, whatever a file has become."""

import json

import pytest

from experiments.soak import fuzzing
from moto_jax.run_layout import RunError, read_object, read_record
from moto_jax.running import checkpoints, manifests
from moto_jax.running.checkpoints import CheckpointError

DEEP = 100_000 * "["


@pytest.mark.parametrize("name", fuzzing.NAMES)
def test_a_reader_refuses_what_it_cannot_use(name, tmp_path):
    assert fuzzing.find(name, 0, 60, tmp_path) == []


def test_a_reader_that_raises_anything_else_is_found(tmp_path, monkeypatch):
    def read(path):
        raise KeyError("qpos")

    every = fuzzing.targets()
    broken = {"episode": every["episode"]._replace(read=read)}
    monkeypatch.setattr(fuzzing, "targets", lambda: broken)
    (found,) = fuzzing.find("episode", 0, 1, tmp_path)
    assert "KeyError" in found


def test_json_that_is_nested_too_deep_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(DEEP)
    with pytest.raises(RunError, match=r"config\.json cannot be read"):
        read_object(tmp_path / "config.json")
    assert read_record(DEEP) is None


@pytest.mark.parametrize(
    "description",
    [
        {"leaves": {"a": 0.5}, "metadata": {}},
        {"leaves": {"a": ["float32", 0.5]}, "metadata": {}},
        {"leaves": [["float32", []]], "metadata": {}},
        {"leaves": {}, "metadata": []},
        DEEP,
    ],
)
def test_a_strangers_description_is_refused(description, tmp_path):
    step = tmp_path / "4"
    step.mkdir()
    text = description if description is DEEP else json.dumps(description)
    (step / "metadata.json").write_text(text)
    manifests.write_manifest(step)
    with pytest.raises(CheckpointError, match="does not describe a checkpoint"):
        checkpoints.read_metadata(step)
