"""R7 in small: whatever an environment does, episodes are those of an unharmed one."""

import pytest

from experiments.soak import worker_rows
from experiments.soak.faulty_environment import FAULTS
from experiments.soak.runs import WORLDS
from experiments.soak.trials import Lost


@pytest.mark.parametrize(
    "number", [pytest.param(n, id=f) for n, f in enumerate(FAULTS)]
)
def test_a_failing_environment_costs_time_alone(number, tmp_path):
    outcome = worker_rows.failing_worker(WORLDS["mini"], number, tmp_path)
    assert outcome.kind == FAULTS[number] and not outcome.lost


def test_a_fault_that_does_not_happen_is_no_trial(tmp_path):
    (tmp_path / "fuse").touch()
    with pytest.raises(Lost, match="no worker was replaced"):
        worker_rows.failing_worker(WORLDS["mini"], 1, tmp_path)
