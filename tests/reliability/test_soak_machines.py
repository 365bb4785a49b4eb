"""The row of a run's two processes: each fault once, with BC in the miniature."""

import pytest

from experiments.soak import machine_rows
from experiments.soak.runs import WORLDS, World
from experiments.soak.trials import CannotTryError, Lost

QUICK = World("quick", (*WORLDS["mini"].flags, "--config.agent=bc"))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(machine_rows.FAULTS)))
def test_when_one_meets_a_fault_the_other_says_so_and_both_go_on(
    tmp_path_factory, number
):
    # Shared by the three: an unbroken run.
    directory = tmp_path_factory.getbasetemp() / "processes" / str(number)
    directory.mkdir(parents=True)
    try:
        outcome = machine_rows.broken(QUICK, number, directory)
    except CannotTryError as error:
        pytest.skip(str(error))
    assert outcome.kind == machine_rows.FAULTS[number]


@pytest.mark.slow
def test_a_process_that_goes_on_is_a_loss(tmp_path, monkeypatch):
    directory = tmp_path / "processes" / "0"
    directory.mkdir(parents=True)
    monkeypatch.setattr(machine_rows, "_strike", lambda pair, struck, fault: None)
    monkeypatch.setattr(machine_rows, "_END_WITHIN_S", 0.1)
    with pytest.raises(Lost, match="killed: did not end within"):
        machine_rows.broken(QUICK, 0, directory)
