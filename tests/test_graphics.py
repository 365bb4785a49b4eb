"""Choice of MuJoCo's graphics backend, with stand-ins for the system's libraries."""

import os
import subprocess
import sys

import pytest

from moto_jax.worlds import graphics

ALL = {"libEGL.so.1", "libEGL_mesa.so.0"}


def loader(*available: str):
    def load(name: str) -> str:
        if name not in available:
            raise OSError(f"{name}: cannot open shared object file")
        return name

    return load


@pytest.fixture
def unset_backend(monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Linux")
    # Set, then deleted: so that the test's own change is undone as well.
    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


def test_egl_is_chosen_and_set(unset_backend):
    assert graphics.choose_backend(loader(*ALL)) == "egl"
    assert os.environ["MUJOCO_GL"] == "egl"


def test_the_nvidia_drivers_egl_is_enough(unset_backend):
    loaded = loader("libEGL.so.1", "libEGL_nvidia.so.0")
    assert graphics.choose_backend(loaded) == "egl"


@pytest.mark.parametrize(
    ("available", "missing"),
    [
        ((), "libEGL.so.1"),
        (("libEGL_mesa.so.0",), "libEGL.so.1"),
        (("libEGL.so.1",), "libEGL_mesa.so.0"),
    ],
)
def test_missing_egl_is_one_sentence_with_the_mend(unset_backend, available, missing):
    with pytest.raises(graphics.GraphicsError) as error:
        graphics.choose_backend(loader(*available))
    message = str(error.value)
    assert missing in message
    assert "apt-get install -y libegl1 libegl-mesa0 libgl1-mesa-dri" in message
    assert "\n" not in message
    assert "MUJOCO_GL" not in os.environ


@pytest.mark.parametrize(
    ("backend", "available", "screen"),
    [
        ("osmesa", ("libOSMesa.so.8",), {}),
        ("glfw", (), {"DISPLAY": ":0"}),
        ("glfw", (), {"WAYLAND_DISPLAY": "wayland-0"}),
    ],
)
def test_the_users_choice_stays(unset_backend, backend, available, screen):
    no_screen(unset_backend)
    for name, value in {"MUJOCO_GL": backend.upper(), **screen}.items():
        unset_backend.setenv(name, value)
    assert graphics.choose_backend(loader(*available)) == backend
    assert os.environ["MUJOCO_GL"] == backend


def no_screen(patch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        patch.setenv(name, "")


@pytest.mark.parametrize(
    ("backend", "missing"),
    [
        (
            "osmesa",
            r"MUJOCO_GL asks for osmesa, but libOSMesa\.so\.8 .*unset MUJOCO_GL",
        ),
        ("glfw", "MUJOCO_GL asks for glfw.*neither DISPLAY nor WAYLAND_DISPLAY is set"),
    ],
)
def test_what_the_users_choice_lacks_is_one_sentence(unset_backend, backend, missing):
    no_screen(unset_backend)
    unset_backend.setenv("MUJOCO_GL", backend)
    with pytest.raises(graphics.GraphicsError, match=missing) as error:
        graphics.choose_backend(loader(*ALL))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("backend", "platform"), [("", "osmesa"), ("egl", "glx"), ("osmesa", "egl")]
)
def test_a_platform_of_pyopengl_that_is_another_is_named(
    unset_backend, backend, platform
):
    unset_backend.setenv("MUJOCO_GL", backend)
    unset_backend.setenv("PYOPENGL_PLATFORM", platform)
    with pytest.raises(
        graphics.GraphicsError,
        match=f"PYOPENGL_PLATFORM is '{platform}', but .* {backend or 'egl'} ",
    ):
        graphics.choose_backend(loader(*ALL, "libOSMesa.so.8"))
    unset_backend.setenv("PYOPENGL_PLATFORM", backend or "egl")
    assert graphics.choose_backend(loader(*ALL, "libOSMesa.so.8"))


def test_an_unknown_backend_is_named(unset_backend):
    unset_backend.setenv("MUJOCO_GL", "vulkan")
    with pytest.raises(graphics.GraphicsError, match="'vulkan'.*egl, osmesa, glfw"):
        graphics.choose_backend(loader(*ALL))


def test_other_systems_keep_mujocos_default(unset_backend):
    unset_backend.setattr("platform.system", lambda: "Darwin")
    assert graphics.choose_backend(loader()) == ""
    assert "MUJOCO_GL" not in os.environ


def test_the_check_imports_neither_mujoco_nor_jax():
    program = (
        "import sys; import moto_jax.worlds.graphics; "
        "print(sorted({'mujoco', 'jax', 'numpy'} & set(sys.modules)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["llvmpipe (LLVM 15.0.6, 256 bits)", "softpipe"])
def test_a_gpu_that_does_not_draw_is_told(tmp_path, name):
    driver = tmp_path / "version"
    assert graphics.software_warning(name, driver) is None
    driver.touch()
    warning = graphics.software_warning(name, driver)
    assert warning.startswith("WARNING") and name in warning and "\n" not in warning
    assert graphics.software_warning("NVIDIA H200/PCIe/SSE2", driver) is None


@pytest.mark.parametrize(("chosen", "used"), [(None, "0"), ("4", "4")])
def test_mesa_draws_in_one_thread_unless_told_otherwise(unset_backend, chosen, used):
    unset_backend.setenv("LP_NUM_THREADS", "")
    unset_backend.delenv("LP_NUM_THREADS")
    if chosen:
        unset_backend.setenv("LP_NUM_THREADS", chosen)
    graphics.choose_backend(loader(*ALL))
    assert os.environ["LP_NUM_THREADS"] == used
