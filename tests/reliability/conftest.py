"""What the tests of promises share: a soak judges times, a test none."""

import math

import pytest

from experiments.soak import data_rows, process_rows, worker_rows


@pytest.fixture(autouse=True)
def no_time_is_judged(monkeypatch):
    monkeypatch.setattr(data_rows, "_SECONDS", math.inf)
    monkeypatch.setattr(process_rows, "_SAVE_WITHIN_S", math.inf)
    monkeypatch.setattr(worker_rows, "_SEEN_WITHIN_S", math.inf)
