import importlib.resources
import re
import tomllib

from tests.programs import ROOT, assert_free_of_jax

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
    assert_free_of_jax(
        "import moto_jax.worlds.kitchen.environment, moto_jax.acting.worker",
        "import moto_jax.worlds.kitchen.renderer",
        "import moto_jax.worlds.kitchen.demonstrations",
    )
