"""R1 to R5, R12 in small: real runs of the training program, killed and damaged.

Of BC in the miniature, which compiles soonest; a soak's are of MOTO in the kitchen.
"""

import json
import shutil

import pytest

from experiments.soak import checkpoint_rows, process_rows, refusal_rows, runs
from experiments.soak.runs import World
from experiments.soak.trials import CannotTryError, Lost
from moto_jax.running.restoring import restore_agent

QUICK = World("quick", (*runs.WORLDS["mini"].flags, "--config.agent=bc"))


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """The directory of a soak, with an unbroken run."""
    out = tmp_path_factory.mktemp("soak")
    runs.unbroken(QUICK, out / "R0" / "0")
    return out


@pytest.fixture
def directory(out, request):
    return made(out / "trials" / request.node.name)


def made(directory):
    directory.mkdir(parents=True)
    return directory


def test_a_killed_run_ends_as_an_unbroken_one(directory):
    """In a save, which is the first of the places."""
    outcome = process_rows.killed(QUICK, 0, directory)
    assert outcome.kind in process_rows.PLACES


@pytest.mark.slow
def test_a_stopped_run_is_saved(directory):
    assert process_rows.stopped(QUICK, 0, directory).kind in ("saved", "too late")


def test_no_flipped_bit_is_restored(out):
    for number in range(12):
        place = made(out / "flips" / str(number))
        outcome = checkpoint_rows.flipped_bit(QUICK, number, place)
        assert "taken" in outcome.kind or "alike" in outcome.kind


def test_another_state_in_silence_is_a_loss(out, monkeypatch):
    whole = runs.unbroken(QUICK, out / "R0" / "0")
    place = made(out / "unseen" / "0")
    restore = checkpoint_rows.checkpoints.restore
    older = whole / "checkpoints" / "2"
    monkeypatch.setattr(
        checkpoint_rows.checkpoints,
        "restore",
        lambda path, state: restore(older if path == place else path, state),
    )
    with pytest.raises(Lost, match="another state, in silence"):
        checkpoint_rows.flipped_bit(QUICK, 0, place)


def test_all_steps_damaged_are_named(directory):
    number = list(checkpoint_rows.DAMAGES).index("all steps truncated")
    outcome = checkpoint_rows.damaged(QUICK, number, directory)
    assert outcome.said.startswith("error: ")


@pytest.mark.slow
def test_a_line_that_cannot_be_written_costs_no_checkpoint(directory):
    number = checkpoint_rows.TARGETS.index("jsonl")
    outcome = checkpoint_rows.failing_write(QUICK, number, directory)
    assert outcome.kind == "jsonl on RLIMIT_FSIZE"


def test_another_dtype_is_refused(directory):
    number = list(refusal_rows.CHANGES).index("dtype")
    assert "bfloat16" in refusal_rows.changed(QUICK, number, directory).said


def test_a_strangers_configuration_is_refused(out, directory):
    whole = runs.unbroken(QUICK, out / "R0" / "0")
    change = refusal_rows.CONFIGURATIONS["checkpoint with a reserved key"]
    refusal_rows.changed_checkpoint(change, whole, directory)
    with pytest.raises(runs.checkpoints.CheckpointError, match="__class__") as error:
        restore_agent(directory / "run")
    assert "\n" not in str(error.value)


def test_runs_that_differ_in_a_bit_are_told_apart(out, directory):
    whole = runs.unbroken(QUICK, out / "R0" / "0")
    runs.require_same_end(whole, whole)
    other = runs.copied(whole, directory / "metrics")
    lines = (other / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    lines[-1] = json.dumps(last | {"cloned_share": last["cloned_share"] + 1e-12})
    (other / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(Lost, match="cloned_share"):
        runs.require_same_end(other, whole)
    other = runs.copied(whole, directory / "state")
    newest = max(runs.checkpoints.steps(other / "checkpoints"))
    shutil.rmtree(other / "checkpoints" / str(newest))
    with pytest.raises(Lost, match="state differs"):
        runs.require_same_end(other, whole)
    other = runs.copied(whole, directory / "episodes")
    max((other / "online").iterdir()).unlink()
    with pytest.raises(Lost, match="episodes differ"):
        runs.require_same_end(other, whole)


def test_a_fault_that_cannot_be_made_is_told(directory, monkeypatch):
    monkeypatch.setenv("PATH", str(directory))
    with pytest.raises(CannotTryError), checkpoint_rows.read_only(directory):
        pass
