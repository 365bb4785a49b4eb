"""What is installed from a wheel is whole: programs, configurations, policy, types."""

import sys
import zipfile

import pytest

from tests import wheel_check
from tests.programs import ROOT

SMALL = (
    "--config=mixed:mini",
    "--config.agent=bc",
    "--config.data.episodes=3",
    "--config.task=kettle",
    "--config.training.offline_updates=2",
    "--config.training.online_episodes=1",
    "--config.training.updates_per_episode=1",
    "--config.evaluation.episodes=2",
    "--config.model_free.batch_size=4",
    "--config.model_free.depth=2",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return wheel_check.build_wheel(tmp_path_factory.mktemp("wheel"))


def test_the_wheel_holds_all_that_is_asked_for(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entries = next(name for name in names if name.endswith("entry_points.txt"))
        assert "moto-jax = experiments.main:main" in archive.read(entries).decode()
    assert {
        "moto_jax/py.typed",
        "moto_jax/worlds/kitchen/keyframes.json",
        "experiments/run.py",
        "experiments/configs/mixed.py",
        "experiments/benchmarks/update.py",
        "experiments/policies/kitchen-mixed.npz",
        "experiments/policies/kitchen-mixed.md",
        "launch/sweeps.py",
    } <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "results/"))]


def test_what_is_installed_trains_evaluates_and_draws(wheel, tmp_path):
    target, place = tmp_path / "installed", tmp_path / "elsewhere"
    place.mkdir()
    wheel_check.install(sys.executable, wheel, "--no-deps", f"--target={target}")
    taken = wheel_check.take(
        wheel_check.steps(["--config=mixed:mini"], SMALL),
        [sys.executable, "-P", "-W", "ignore", "-m", "experiments.main"],
        place,
        {"PYTHONPATH": str(target)},
    )
    names = ["usage", "doctor", "train", "evaluate", "figures", "report"]
    assert [name for name, _ in taken] == names
    assert (place / "report.html").stat().st_size > 1000


def test_a_step_that_does_not_go_well_stops_the_way(tmp_path):
    for program, expected in (
        ("print('done'); raise SystemExit(3)", "done"),
        ("print('something else')", "done"),
        (f"print('done', {str(ROOT / 'experiments')!r})", "done"),
    ):
        taken = wheel_check.take(
            [(("doctor",), expected)], [sys.executable, "-c", program], tmp_path
        )
        with pytest.raises(RuntimeError, match="moto-jax doctor ended with"):
            list(taken)
