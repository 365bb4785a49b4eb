"""What is installed from a wheel is whole: programs, configurations, policy, types."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

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
    out = tmp_path_factory.mktemp("wheel")
    # A build leaves files beside the sources, and takes up those of an earlier one.
    sources = tmp_path_factory.mktemp("sources")
    for name in ("moto_jax", "experiments", "launch"):
        shutil.copytree(
            ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"),
            *("--no-build-isolation", f"--wheel-dir={out}", str(sources)),
        ],
        check=True,
    )
    (path,) = out.glob("moto_jax-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A function that runs `moto-jax` where the checkout is not seen."""
    target = tmp_path_factory.mktemp("installed")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
            *(f"--target={target}", str(wheel)),
        ],
        check=True,
    )
    place = tmp_path_factory.mktemp("elsewhere")

    def run(*words):
        done = subprocess.run(
            [sys.executable, "-P", "-W", "ignore", "-m", "experiments.main", *words],
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(target)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert str(ROOT) not in done.stdout + done.stderr
        return done.stdout

    return run


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


def test_what_is_installed_trains_evaluates_and_draws(installed):
    assert "usage: moto-jax PROGRAM" in installed()
    assert "a run would start" in installed("doctor", "--config=mixed:mini")
    installed("train", *SMALL, "--workdir=runs/small")
    said = installed("evaluate", "--checkpoint=runs/small", "--episodes=2")
    assert "success" in said
    assert "figure2" in installed("figures", "--runs=runs", "--out=figures")
