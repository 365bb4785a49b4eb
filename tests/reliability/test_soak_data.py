"""R8, R13 in small: data that are wrong are refused in one sentence and run nothing."""

import pytest

from experiments.soak import data_rows, reading, refusal_rows
from experiments.soak.corpus import CORPUS
from experiments.soak.runs import WORLDS
from experiments.soak.trials import Lost


def test_there_are_forty_ways_to_be_wrong():
    assert len({case.name for case in CORPUS}) == len(CORPUS) == 40
    assert {case.reader for case in CORPUS} == reading.READERS.keys()


@pytest.mark.parametrize(
    "number", [pytest.param(n, id=case.name) for n, case in enumerate(CORPUS)]
)
def test_a_malformed_dataset_is_refused(number, tmp_path):
    assert data_rows.malformed(number, tmp_path).lost == 0


def test_a_valid_dataset_would_be_a_loss(tmp_path, monkeypatch):
    sound = CORPUS[0]._replace(make=lambda at: reading_dataset(at))
    monkeypatch.setattr(data_rows, "CORPUS", (sound,))
    with pytest.raises(Lost, match="accepted"):
        data_rows.malformed(0, tmp_path)


def reading_dataset(directory):
    from experiments.soak.corpus import npz, valid_fields, write_dataset

    return write_dataset(directory, npz(valid_fields()))


@pytest.mark.parametrize("kind", refusal_rows.FILES)
def test_what_nobody_trusts_runs_nothing(kind, tmp_path):
    number = refusal_rows.UNTRUSTED.index(kind)
    outcome = refusal_rows.untrusted(WORLDS["mini"], number, tmp_path)
    assert outcome.kind == kind


def test_a_canary_is_a_loss(tmp_path, monkeypatch):
    def runs(directory, canary):
        canary.mkdir()
        return "data", "validate", str(directory)

    monkeypatch.setitem(refusal_rows.FILES, "yaml tag", runs)
    number = refusal_rows.UNTRUSTED.index("yaml tag")
    with pytest.raises(Lost, match="canary"):
        refusal_rows.untrusted(WORLDS["mini"], number, tmp_path)
