"""What every test runs under: CPU, strict broadcasting, headless rendering."""

import os
import tempfile

# Before anything imports jax or mujoco, and inherited by the processes tests start.
# JAX_PLATFORMS=cuda in the environment runs the suite, or `-m gpu`, on an accelerator.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")

import jax
import pytest

from moto_jax.acting.worker_pool import WorkerPool
from moto_jax.worlds import graphics
from tests.fake_kitchen import FakeKitchen

# Programs that are slower, compiled in less than half the time.
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"

try:
    graphics.choose_backend()
    _NO_GRAPHICS = ""
except graphics.GraphicsError as error:
    _NO_GRAPHICS = str(error)


def pytest_configure(config: pytest.Config) -> None:
    # Most of the suite's time goes into compiling programs that run for milliseconds;
    # the slow tests compute for minutes.
    if "not slow" in config.option.markexpr:
        os.environ["XLA_FLAGS"] = f"{QUICK} {os.environ.get('XLA_FLAGS', '')}".strip()
    _keep_compiled_programs(config)


def _keep_compiled_programs(config: pytest.Config) -> None:
    """Makes tests, and the processes that they start, compile a program once.

    Each of pytest's processes has a directory of its own, while it runs: JAX writes its
    entries where another may read them half written.
    """
    directory = tempfile.TemporaryDirectory(prefix="moto_jax_tests_")
    config.add_cleanup(directory.cleanup)
    settings = {
        "jax_compilation_cache_dir": directory.name,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not _NO_GRAPHICS:
        return
    for item in items:
        if item.get_closest_marker("kitchen"):
            item.add_marker(pytest.mark.skip(reason=_NO_GRAPHICS))


@pytest.fixture(scope="module")
def pool():
    """Two workers with kitchens that are not simulated, for all tests of a module."""
    with WorkerPool(FakeKitchen, num_workers=2) as pool:
        yield pool


@pytest.fixture(scope="module", autouse=True)
def forget_compiled_programs():
    """A process has room for so many memory maps, and every program takes some.

    Thousands of them end in a crash of the compiler.
    """
    yield
    jax.clear_caches()
