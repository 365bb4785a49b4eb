"""R9 in full: MOTO at `tiny` throws away what is not finite, and learns on."""

import pytest

from experiments.soak import number_rows
from experiments.soak.trials import Lost

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "number",
    [pytest.param(n, id=kind) for n, kind in enumerate(number_rows.INJECTIONS)],
)
def test_what_is_not_finite_is_skipped(number, tmp_path):
    assert number_rows.not_finite(number, tmp_path).lost == 0


def test_a_finite_batch_is_not_skipped(tmp_path, monkeypatch):
    monkeypatch.setitem(number_rows.INJECTIONS, "infinite loss", lambda batch: batch)
    number = list(number_rows.INJECTIONS).index("infinite loss")
    with pytest.raises(Lost, match="0 updates counted"):
        number_rows.not_finite(number, tmp_path)
