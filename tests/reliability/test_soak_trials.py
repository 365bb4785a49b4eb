"""What is tried is tried once, kept, and told as it was."""

import csv

import pytest

from experiments.soak import table, trials
from experiments.soak.trials import CannotTryError, Lost, Outcome, Row


def row(trial, name="R0", count=3, **fields):
    return Row(name, "a promise", count, trial, **fields)


def run(rows, out, world="kitchen", count=None):
    return list(trials.run(rows, out, world, count))


def test_what_has_been_tried_is_not_tried_again(tmp_path):
    tried = []

    def trial(number, directory):
        assert list(directory.iterdir()) == []
        if number == 2 and len(tried) == 2:
            raise KeyboardInterrupt
        tried.append(number)
        return Outcome()

    with pytest.raises(KeyboardInterrupt):
        run([row(trial)], tmp_path)
    assert tried == [0, 1]
    tried.append("again")
    run([row(trial)], tmp_path)
    assert tried == [0, 1, "again", 2]
    run([row(trial)], tmp_path, count=5)
    assert tried[4:] == [3, 4]
    # In another world it is another trial.
    run([row(trial)], tmp_path, world="mini", count=1)
    assert tried[6:] == [0]
    assert [one["number"] for one in trials.read_records(tmp_path)] == [
        0,
        1,
        2,
        3,
        4,
        0,
    ]
    # A line that a soak left unfinished costs no other.
    with (tmp_path / "trials.jsonl").open("a") as file:
        file.write('{"row": "R0", "num')
    run([row(trial)], tmp_path, count=6)
    assert tried[7:] == [5]
    assert [one["number"] for one in trials.read_records(tmp_path)][-2:] == [0, 5]
    trials.forget(tmp_path, ["R0"])
    assert trials.read_records(tmp_path) == []


@pytest.mark.parametrize(
    ("error", "said"),
    [(Lost("half of it", "kind"), "half of it"), (ValueError("x"), "ValueError: x")],
)
def test_whatever_is_raised_is_a_loss_and_its_files_stay(tmp_path, error, said):
    def trial(number, directory):
        (directory / "left").touch()
        if number:
            raise error
        return Outcome("fine")

    records = [record for *_, record in run([row(trial, count=2)], tmp_path)]
    assert [one["lost"] for one in records] == [0, 1]
    assert records[1]["said"] == said
    assert not (tmp_path / "R0" / "0").exists()
    assert (tmp_path / "R0" / "1" / "left").exists()


def test_what_trials_share_is_made_once_and_whole(tmp_path):
    made = []

    def make(place):
        made.append(place)
        (place / "file").touch()
        if len(made) == 1:
            raise OSError("interrupted")

    directory = tmp_path / "R0" / "0"
    with pytest.raises(OSError, match="interrupted"):
        trials.shared(directory, "run", make)
    for _ in range(2):
        place = trials.shared(directory, "run", make)
        assert [path.name for path in place.iterdir()] == ["file"]
    assert len(made) == 2


def test_the_table_tells_what_was_tried_and_not_what_was_asked_for(tmp_path):
    def impossible(number, directory):
        raise CannotTryError("no mount")

    def trial(number, directory):
        if number == 1:
            raise Lost("a | b", "kind")
        return Outcome("", "kind", tried=4, lost=0)

    rows = [row(trial, each=4), row(impossible, "R9"), row(trial, "R10")]
    cannot = {
        one.name: record["cannot"]
        for one, _, record in run(rows[:2], tmp_path)
        if "cannot" in record
    }
    run(rows[:1], tmp_path, world="mini", count=1)
    lines = table.summarise(rows, trials.read_records(tmp_path), cannot)
    table.write(lines, tmp_path, "two cores")
    with (tmp_path / "reliability.csv").open() as file:
        first, second, third = csv.DictReader(file)
    assert (first["row"], first["asked for"]) == ("R0", "12")
    assert (first["tried"], first["survived"], first["lost"]) == ("13", "12", "1")
    assert first["note"] == "3 kind, 1 kind (mini); LOST: a | b"
    assert (second["tried"], second["note"]) == ("0", "not tried here: no mount")
    assert (third["tried"], third["seconds, worst"]) == ("0", "")
    text = (tmp_path / "reliability.md").read_text()
    assert "two cores" in text and r"LOST: a \| b" in text
