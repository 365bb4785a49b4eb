"""Checkpoints: what is saved comes back whole, or is refused in one sentence."""

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import struct

from moto_jax.running import checkpoints, manifests
from moto_jax.running.checkpoints import CheckpointError

METADATA = {"config": {"task": "mixed", "rate": 3e-4}, "replay": ["a.npz", "b.npz"]}


@struct.dataclass
class State:
    params: dict[str, Any]
    optimizer: Any
    key: jax.Array
    seed_keys: jax.Array
    step: jax.Array
    environment_steps: np.int64
    returns: np.ndarray
    nothing: Any = None


def make_state(seed: int = 0, units: int = 8) -> State:
    key = jax.random.key(seed)
    params = {
        "actor": {
            "kernel": jax.random.normal(key, (4, units)),
            "bias": jnp.ones(units),
        },
        "half/precision": jnp.linspace(-1, 1, units, dtype=jnp.bfloat16),
    }
    optimizer = optax.chain(optax.clip_by_global_norm(100.0), optax.adamw(1e-3))
    return State(
        params=params,
        optimizer=optimizer.init(params),
        key=key,
        seed_keys=jax.random.split(jax.random.key(seed, impl="rbg"), 3),
        step=jnp.int32(seed),
        environment_steps=np.int64(2**40 + seed),
        returns=np.arange(3, dtype=np.float64) + seed,
    )


def raw(leaf) -> np.ndarray:
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf)


def assert_same(actual: State, expected: State) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for one, other in zip(
        jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
    ):
        assert one.dtype == other.dtype
        assert raw(one).tobytes() == raw(other).tobytes()


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory) -> Path:
    """A run with intact checkpoints of steps 10 and 20; tests work on copies."""
    run = tmp_path_factory.mktemp("run")
    for step in (10, 20):
        checkpoints.save(run / "checkpoints", step, make_state(step), METADATA)
    return run


@pytest.fixture
def run(two_steps, tmp_path) -> Path:
    shutil.copytree(two_steps, tmp_path / "run")
    return tmp_path / "run"


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("place", ["", "checkpoints", "checkpoints/20"])
def test_round_trip_from_run_checkpoints_or_step(run, place):
    state, metadata = checkpoints.restore(run / place, make_state())
    assert_same(state, make_state(20))
    assert metadata == checkpoints.read_metadata(run / place) == METADATA
    assert isinstance(state.returns, np.ndarray)
    assert isinstance(state.environment_steps, np.int64)
    assert isinstance(state.params["actor"]["kernel"], jax.Array)


def test_older_step_by_name(run):
    state, _ = checkpoints.restore(run / "checkpoints" / "10", make_state())
    assert_same(state, make_state(10))


def test_restores_into_an_abstract_state(run):
    concrete = make_state()
    abstract = jax.eval_shape(lambda: concrete)
    # eval_shape sees NumPy's 64 bits as JAX's 32: such leaves are given as they are.
    abstract = abstract.replace(
        environment_steps=concrete.environment_steps,
        returns=jax.ShapeDtypeStruct((3,), np.float64),
    )
    state, _ = checkpoints.restore(run, abstract)
    assert_same(state, make_state(20))


def test_restored_keys_draw_the_same_numbers(run):
    state, _ = checkpoints.restore(run, make_state())
    np.testing.assert_array_equal(
        jax.random.normal(state.key, (5,)), jax.random.normal(make_state(20).key, (5,))
    )


def test_latest_is_none_where_nothing_was_saved(tmp_path):
    assert checkpoints.latest(tmp_path) is None
    assert checkpoints.latest(tmp_path / "missing") is None
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        checkpoints.restore(tmp_path, make_state())
    with pytest.raises(CheckpointError, match="no checkpoint in"):
        checkpoints.read_metadata(tmp_path / "missing")


def test_a_flipped_bit_in_any_file_is_never_restored(run, caplog):
    newest = run / "checkpoints" / "20"
    generator = np.random.default_rng(0)
    # Every file, some of them several times: at least 60 flips.
    for _ in range(60 // len(contents(newest)) + 1):
        for name, original in contents(newest).items():
            position, bit = generator.integers(len(original)), generator.integers(8)
            damaged = bytearray(original)
            damaged[position] ^= 1 << bit
            (newest / name).write_bytes(damaged)
            caplog.clear()
            assert checkpoints.latest(run / "checkpoints") == 10, (name, position, bit)
            with pytest.raises(CheckpointError, match="20 is corrupt"):
                checkpoints.find(newest)
            (newest / name).write_bytes(original)
            (message,) = caplog.messages
            assert message.startswith("checkpoint 20 is corrupt: ")
            assert name.split("/")[-1] in message or name == "MANIFEST.sha256"
            assert message.endswith("; using 10")
    assert checkpoints.latest(run / "checkpoints") == 20


def truncate(newest: Path) -> None:
    data = max(newest.rglob("*"), key=lambda path: path.stat().st_size)
    os.truncate(data, data.stat().st_size // 2)


def delete_state_file(newest: Path) -> None:
    (newest / "state" / "manifest.ocdbt").unlink()


def delete_manifest(newest: Path) -> None:
    (newest / "MANIFEST.sha256").unlink()


def empty_manifest(newest: Path) -> None:
    (newest / "MANIFEST.sha256").write_text("")


def empty_directory(newest: Path) -> None:
    shutil.rmtree(newest)
    newest.mkdir()


def only_an_empty_manifest(newest: Path) -> None:
    empty_directory(newest)
    empty_manifest(newest)


def cut_manifest(newest: Path) -> None:
    """Leaves whole lines, so that what is there agrees with them."""
    manifest = newest / "MANIFEST.sha256"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines[:-2]))


def lose_a_line_of_the_manifest(newest: Path) -> None:
    manifest = newest / "MANIFEST.sha256"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines[1:]))


DAMAGES = [
    truncate,
    delete_state_file,
    delete_manifest,
    empty_manifest,
    empty_directory,
    only_an_empty_manifest,
    cut_manifest,
    lose_a_line_of_the_manifest,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_falls_back_with_one_sentence(run, damage, caplog):
    damage(run / "checkpoints" / "20")
    with caplog.at_level(logging.WARNING):
        state, _ = checkpoints.restore(run, make_state())
    assert_same(state, make_state(10))
    (message,) = caplog.messages
    assert message.startswith("checkpoint 20 is corrupt: ")
    assert message.endswith("; using 10")


STRAYS = [
    *(".DS_Store", "state/.DS_Store", "state/d/.nfs0000000004a1", "Thumbs.db"),
    *("state/_METADATA (a colleague's conflicted copy)", "metadata.json~"),
]


@pytest.mark.parametrize("name", STRAYS)
def test_files_that_others_leave_in_a_step_are_passed_over(run, name, caplog):
    newest = run / "checkpoints" / "20"
    (newest / name).write_bytes(b"\0")
    with caplog.at_level(logging.WARNING):
        state, _ = checkpoints.restore(run, make_state())
    assert_same(state, make_state(20))
    assert caplog.messages == []
    assert (newest / name).exists()


def test_a_manifest_from_before_it_had_an_end_is_read(run):
    newest = run / "checkpoints" / "20"
    manifest = newest / "MANIFEST.sha256"
    lines = manifest.read_text().splitlines(keepends=True)
    assert lines[-1] == f"{len(lines) - 1} files\n"
    manifest.write_text("".join(lines[:-1]))
    (newest / ".DS_Store").touch()
    assert checkpoints.latest(run / "checkpoints") == 20
    (newest / "state" / "extra").touch()
    assert "state/extra is not in" in manifests.fault(newest)


def test_a_manifest_names_no_file_that_is_about_to_go(tmp_path):
    for name in (".nfs0000000004a1", "metadata.json"):
        (tmp_path / name).touch()
    manifests.write_manifest(tmp_path)
    (tmp_path / ".nfs0000000004a1").unlink()
    assert manifests.fault(tmp_path) is None


def test_every_corrupt_step_is_listed_where_none_is_intact(run):
    delete_manifest(run / "checkpoints" / "20")
    delete_state_file(run / "checkpoints" / "10")
    for read in (checkpoints.latest, checkpoints.find):
        with pytest.raises(CheckpointError) as error:
            read(run / "checkpoints")
        assert "20 (MANIFEST.sha256 is missing" in str(error.value)
        assert "10 (state/manifest.ocdbt is missing)" in str(error.value)


def test_leftovers_are_passed_over_and_removed_by_the_next_save(run):
    directory = run / "checkpoints"
    for name in ("30.partial", "25.orbax-checkpoint-tmp", "20.replaced", "40"):
        shutil.copytree(directory / "20" / "state", directory / name)
    assert checkpoints.latest(directory) == 20
    checkpoints.save(directory, 30, make_state(30), METADATA)
    assert sorted(path.name for path in directory.iterdir()) == ["10", "20", "30"]


def test_the_newest_are_kept_and_a_corrupt_future_is_dropped(run):
    directory = run / "checkpoints"
    truncate(directory / "20")
    for step in (12, 14, 16):
        checkpoints.save(directory, step, make_state(step), METADATA, keep=2)
        assert checkpoints.latest(directory) == step
    assert sorted(path.name for path in directory.iterdir()) == ["14", "16"]


def test_saving_a_step_again_replaces_it(run):
    checkpoints.save(run / "checkpoints", 20, make_state(99), {"again": True})
    state, metadata = checkpoints.restore(run, make_state())
    assert_same(state, make_state(99))
    assert metadata == {"again": True}


def fail_in_orbax(monkeypatch) -> None:
    def write(directory, state):
        directory.mkdir()
        (directory / "half").write_text("half")
        raise Exception("RESOURCE_EXHAUSTED: No space left\n2 kB of internals")

    monkeypatch.setattr(checkpoints, "_write_state", write)


def fail_in_rename(monkeypatch) -> None:
    def rename(self, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", rename)


def fail_in_manifest(monkeypatch) -> None:
    def write(directory):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manifests, "write_manifest", write)


def fail_for_space(monkeypatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


@pytest.mark.parametrize(
    ("fail", "reason"),
    [
        (fail_in_orbax, "No space left"),
        (fail_in_rename, "Permission denied"),
        (fail_in_manifest, "No space left on device"),
        (fail_for_space, "MB are free"),
    ],
)
def test_failed_save_leaves_the_earlier_steps_and_nothing_else(
    run, monkeypatch, fail, reason
):
    before = contents(run)
    with monkeypatch.context() as patch:
        fail(patch)
        with pytest.raises(CheckpointError, match=reason) as error:
            checkpoints.save(run / "checkpoints", 30, make_state(30), METADATA)
    assert "checkpoint 30 could not be saved" in str(error.value)
    assert "\n" not in str(error.value)
    assert contents(run) == before
    assert sorted(os.listdir(run / "checkpoints")) == ["10", "20"]
    checkpoints.save(run / "checkpoints", 30, make_state(30), METADATA)
    assert checkpoints.latest(run / "checkpoints") == 30


@pytest.mark.parametrize(
    ("change", "leaf"),
    [
        (lambda state: state.replace(step=jnp.float32(0)), ".step as int32"),
        (
            lambda state: state.replace(returns=np.zeros(4)),
            r".returns as float64 \(3,\)",
        ),
        (
            lambda state: state.replace(key=jax.random.key(0, impl="rbg")),
            r".key as key<fry>",
        ),
        (lambda state: state.replace(nothing=jnp.zeros(2)), "no leaf .nothing"),
        (lambda state: state.replace(step=None), "a leaf .step"),
        (
            lambda state: state.replace(
                params=jax.tree.map(lambda leaf: leaf.astype("bfloat16"), state.params)
            ),
            r"\['actor'\]\['bias'\] as float32",
        ),
    ],
)
def test_another_state_is_refused_naming_the_leaf(run, change, leaf):
    with pytest.raises(CheckpointError, match=leaf) as error:
        checkpoints.restore(run, change(make_state()))
    assert "\n" not in str(error.value)


def test_what_cannot_be_saved_is_named_before_anything_is_written(tmp_path):
    with pytest.raises(CheckpointError, match=r"leaf \['count'\] .* is a int"):
        checkpoints.save(tmp_path / "run", 0, {"count": 3}, {})
    with pytest.raises(CheckpointError, match="metadata of checkpoint 0"):
        checkpoints.save(tmp_path / "run", 0, make_state(), {"bad": object()})
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_directory_with_a_manifest_is_named(run):
    newest = run / "checkpoints" / "20"
    (newest / "metadata.json").write_text("{}")
    manifests.write_manifest(newest)
    with pytest.raises(CheckpointError, match="metadata.json does not describe"):
        checkpoints.read_metadata(run)


@struct.dataclass
class Learners:
    model: Any
    average: Any


@struct.dataclass
class Framed:
    """As an agent's state is now."""

    key: Any
    step: Any
    learners: Any


@struct.dataclass
class Flat:
    """As MOTO's was."""

    key: Any
    step: Any
    model: Any
    average: Any


def test_learners_that_were_saved_beside_the_rest_are_read(tmp_path):
    model = {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)}
    flat = Flat(jax.random.key(3), jnp.int32(7), model, jnp.float32(0.5))
    checkpoints.save(tmp_path, 7, flat, {"updates": 7})
    framed = Framed(flat.key, flat.step, Learners(flat.model, flat.average))
    abstract = jax.eval_shape(lambda: framed)
    found, metadata = checkpoints.restore(tmp_path, abstract)
    assert metadata == {"updates": 7}
    assert jax.tree.structure(found) == jax.tree.structure(framed)
    assert jax.random.key_data(found.key).tolist() == [0, 3]
    for ours, theirs in zip(
        jax.tree.leaves(found.replace(key=0)),
        jax.tree.leaves(framed.replace(key=0)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)
    # Saved again it lies as all others do.
    checkpoints.save(tmp_path, 8, found, {"updates": 8})
    again, _ = checkpoints.restore(tmp_path / "8", abstract)
    np.testing.assert_array_equal(again.learners.average, 0.5)
    # What does not fit is named as it was asked for, in either layout.
    wrong = abstract.replace(
        learners=Learners(abstract.learners.model, jax.ShapeDtypeStruct((2,), "f4"))
    )
    for step in ("7", "8"):
        with pytest.raises(
            CheckpointError, match=r"average as float32 \(\), .* \(2,\)"
        ):
            checkpoints.restore(tmp_path / step, wrong)
