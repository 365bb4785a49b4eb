import importlib.resources
import os
import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text()


def requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"].values()
    return [*project["dependencies"], *(name for extra in optional for name in extra)]


# Large, and of no use to whoever does not ask for it.
UNLOCKED = {"wandb"}


def test_the_lock_covers_every_requirement():
    locked = set(re.findall(r"^([a-z0-9-]+)==", LOCK, re.MULTILINE))
    names = {re.split(r"[<>=\[]", name)[0].lower() for name in requirements()}
    assert names and not names - locked - UNLOCKED


def test_the_lock_is_pinned_hashed_and_names_no_index():
    entries = re.findall(r"^[^\s#].*(?:\n +.*)*", LOCK, re.MULTILINE)
    assert len(entries) > 50
    for entry in entries:
        assert re.match(r"[a-z0-9-]+==[^ ]+ ;", entry), entry
        assert "--hash=sha256:" in entry, entry
    assert "://" not in LOCK
    assert "--index" not in LOCK and "--find-links" not in LOCK


def test_data_files_are_in_the_package():
    assert (
        importlib.resources.files("moto_jax.worlds.kitchen")
        .joinpath("keyframes.json")
        .is_file()
    )


def test_what_worker_processes_import_is_free_of_jax():
    program = (
        "import sys\n"
        "import moto_jax.worlds.kitchen.environment, moto_jax.acting.worker\n"
        "import moto_jax.worlds.kitchen.renderer\n"
        "import moto_jax.worlds.kitchen.demonstrations\n"
        "print(sorted({'jax', 'flax', 'jaxlib'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.decode().strip() == "[]"
