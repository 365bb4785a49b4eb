"""The image's steps, taken as far as they go without a Docker engine."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.programs import ROOT

TEXT = (ROOT / "Dockerfile").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


def instructions():
    """Returns (name, rest) of each, continued lines joined, in order."""
    lines = [line for line in TEXT.splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line]


def rest_of(name):
    return [rest for own, rest in instructions() if own == name]


def test_what_is_copied_is_there_and_not_left_out():
    left_out = (ROOT / ".dockerignore").read_text().split()
    for rest in rest_of("COPY"):
        *sources, _ = rest.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert source.split("/")[0] not in left_out


def test_what_is_copied_first_is_enough_to_install(tmp_path):
    """The sources come later, so that the environment changes with the lock alone."""
    place = tmp_path / "moto"
    names = [name for name, _ in instructions()]
    (install,) = [
        number
        for number, one in enumerate(instructions())
        if one == ("RUN", "make install")
    ]
    for name, rest in instructions()[names.index("WORKDIR") : install]:
        if name == "COPY":
            *sources, to = rest.split()
            (place / to).mkdir(parents=True, exist_ok=True)
            for source in sources:
                shutil.copy(ROOT / source, place / to)
    recipe = subprocess.run(
        ["make", "--dry-run", "install", f"PYTHON={sys.executable}"],
        cwd=place,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "--require-hashes" in recipe and "--editable ." in recipe
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"),
            *("--no-build-isolation", f"--target={tmp_path / 'installed'}", "."),
        ],
        cwd=place,
        check=True,
    )
    assert (tmp_path / "installed" / "moto_jax" / "__init__.py").exists()


def test_commands_are_targets_of_the_makefile():
    (default,) = rest_of("CMD")
    shown = re.findall(r"moto-jax make ([\w-]+)|^#\s+moto-jax make ([\w-]+)", TEXT)
    targets = {"".join(one) for one in shown} | {"install", json.loads(default)[1]}
    assert {"demo", "watch"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


def test_steps_are_shell():
    for rest in rest_of("RUN"):
        subprocess.run(["sh", "-n", "-c", rest], check=True)


@pytest.mark.parametrize("path", [".ci/run", ".github/workflows/ci.yml", "README.md"])
def test_what_draws_is_what_is_installed_elsewhere(path):
    packages = {word for rest in rest_of("RUN") for word in shlex.split(rest)}
    drawing = {"libegl1", "libegl-mesa0", "libgl1-mesa-dri"}
    assert drawing <= packages
    assert all(name in (ROOT / path).read_text() for name in drawing)


def test_the_image_has_a_python_that_is_supported():
    (image,) = rest_of("FROM")
    version = re.fullmatch(r"python:(3\.\d+)-slim-\w+", image)
    assert version is not None
    supported = re.search(r"in ([\d.|]+)\)", MAKEFILE)
    assert supported is not None
    assert version.group(1) in supported.group(1).split("|")
