"""R14's judgement, on samples whose slopes are known."""

import math

import pytest

from experiments.soak import watching
from experiments.soak.watching import Sample


def samples(hours=2.0, count=100, **grow):
    """A steady run, of which some columns grow by so much an hour."""
    steady = {
        "rss_mb": 1500.0,
        "descriptors": 40,
        "processes": 2,
        "disk_mb": 3.0,
        "compilations": 50,
    }
    found = []
    for number in range(count):
        at = hours * number / (count - 1)
        values = {
            name: type(value)(value + grow.get(name, 0) * at)
            for name, value in steady.items()
        }
        found.append(Sample(hours=at, updates=10 * number, **values))
    return found


def test_a_slope_is_what_an_hour_adds():
    assert watching.slope(samples(rss_mb=7.5), "rss_mb") == pytest.approx(7.5)
    assert watching.slope(samples(), "rss_mb") == pytest.approx(0.0)
    assert math.isnan(watching.slope(samples(count=2), "rss_mb"))


def test_the_start_is_left_out():
    warm = samples()
    loaded = [one._replace(rss_mb=one.rss_mb + 500 * (one.hours < 0.4)) for one in warm]
    assert watching.slope(loaded, "rss_mb") == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("grow", "said"),
    [
        ({"rss_mb": 1.5}, "resident memory grows by 1.5 MB"),
        ({"descriptors": 20}, "open files grow"),
        ({"processes": 20}, "processes grow"),
        ({"compilations": 5}, "compilations after update 100"),
    ],
)
def test_what_grows_is_named(grow, said):
    assert said in watching.judge(samples(**grow))


def test_a_steady_run_is_none():
    assert watching.judge(samples(rss_mb=0.5, disk_mb=100.0)) == ""
    # Compiled while it warms up.
    early = [
        one._replace(compilations=0 if one.updates <= 90 else 50) for one in samples()
    ]
    assert watching.judge(early) == ""


def test_the_picture_is_drawn(tmp_path):
    watching.draw(samples(), tmp_path / "soak.png")
    assert (tmp_path / "soak.png").stat().st_size > 10_000
