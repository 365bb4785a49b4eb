"""Chooses MuJoCo's graphics backend and says plainly when the machine lacks one.

Imports nothing of MuJoCo: the choice must be made, and a missing system library
reported, before anything slow is loaded.
"""

import ctypes
import importlib
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

INSTALL_COMMAND = "apt-get install -y libegl1 libegl-mesa0 libgl1-mesa-dri"

_LINUX_BACKENDS = ("egl", "osmesa", "glfw")

# libEGL only dispatches; a vendor's implementation must be there too. On machines with
# an NVIDIA driver that may be the driver's own.
_DISPATCH_LIBRARY = "libEGL.so.1"
_VENDOR_LIBRARIES = ("libEGL_mesa.so.0", "libEGL_nvidia.so.0")
_OSMESA_LIBRARIES = ("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so")
_SCREENS = ("DISPLAY", "WAYLAND_DISPLAY")

# What Mesa's renderers on the CPU call themselves.
_SOFTWARE = ("llvmpipe", "softpipe", "swrast")
# There where NVIDIA's kernel driver is loaded.
_GPU_DRIVER = Path("/proc/driver/nvidia/version")


class GraphicsError(RuntimeError):
    """The machine cannot draw frames without a screen."""


def choose_backend(load_library: Callable[[str], object] = ctypes.CDLL) -> str:
    """Sets `MUJOCO_GL` to headless EGL unless the user chose otherwise.

    On systems other than Linux MuJoCo's own default is kept. Mesa's drawing threads
    are switched off unless the user chose their number in `LP_NUM_THREADS`: at 64
    pixels they only take the other processes' cores.

    Args:
      load_library: loads a shared library by name, OSError where it cannot.

    Returns:
      The value of `MUJOCO_GL`, empty where MuJoCo's default is kept.

    Raises:
      GraphicsError: where the backend is unknown, or lacks what it needs: a library, a
        screen, or a `PYOPENGL_PLATFORM` that is not another.
    """
    # An empty value means "not chosen" to MuJoCo as well.
    backend = os.environ.get("MUJOCO_GL", "").lower()
    os.environ.setdefault("LP_NUM_THREADS", "0")
    if platform.system() != "Linux":
        return backend
    backend = backend or "egl"
    if backend not in _LINUX_BACKENDS:
        raise GraphicsError(
            f"MUJOCO_GL is {backend!r}: unset it, or set it to one of "
            f"{', '.join(_LINUX_BACKENDS)}"
        )
    if backend == "egl":
        _require_egl(load_library)
    elif backend == "osmesa":
        _require_osmesa(load_library)
    else:
        _require_screen()
    # Not asked by GLFW, which brings its own.
    opengl = os.environ.get("PYOPENGL_PLATFORM", "")
    if backend != "glfw" and opengl and opengl != backend:
        raise GraphicsError(
            f"PYOPENGL_PLATFORM is {opengl!r}, but frames are drawn by {backend} "
            "(MUJOCO_GL, by default egl): unset the one, or set both alike"
        )
    os.environ["MUJOCO_GL"] = backend
    return backend


def software_warning(gl_renderer: str, gpu_driver: Path = _GPU_DRIVER) -> str | None:
    """Returns what to tell the user if the CPU draws on a machine with a GPU.

    EGL falls back to Mesa without a word where it cannot use the GPU, and frames with
    shadows then take many times longer.

    Args:
      gl_renderer: what draws, in OpenGL's words.
      gpu_driver: a file that is there where a GPU's driver is.
    """
    if not gpu_driver.exists() or not gl_renderer.lower().startswith(_SOFTWARE):
        return None
    return (
        f"WARNING: this machine has an NVIDIA GPU, but frames are drawn on the CPU by "
        f"{gl_renderer}: profiles shaded and paper will be many times slower. Make "
        "the driver's libEGL_nvidia.so.0 and its 10_nvidia.json visible (in a "
        "container: NVIDIA_DRIVER_CAPABILITIES=all)"
    )


def _require_egl(load_library: Callable[[str], object]) -> None:
    if not _loads(_DISPATCH_LIBRARY, load_library):
        missing = _DISPATCH_LIBRARY
    elif not any(_loads(name, load_library) for name in _VENDOR_LIBRARIES):
        missing = " or ".join(_VENDOR_LIBRARIES)
    else:
        return
    raise GraphicsError(
        f"headless rendering needs EGL, but {missing} cannot be loaded: run "
        f"`{INSTALL_COMMAND}`, or set MUJOCO_GL to another backend of MuJoCo"
    )


def _require_osmesa(load_library: Callable[[str], object]) -> None:
    if not any(_loads(name, load_library) for name in _OSMESA_LIBRARIES):
        raise GraphicsError(
            f"MUJOCO_GL asks for osmesa, but {_OSMESA_LIBRARIES[0]} cannot be loaded: "
            "run `apt-get install -y libosmesa6`, or unset MUJOCO_GL to draw with EGL"
        )


def _require_screen() -> None:
    if not any(map(os.environ.get, _SCREENS)):
        raise GraphicsError(
            "MUJOCO_GL asks for glfw, which draws on a screen, but neither "
            f"{' nor '.join(_SCREENS)} is set: unset MUJOCO_GL to draw without one"
        )


def _loads(name: str, load_library: Callable[[str], object]) -> bool:
    try:
        load_library(name)
    except OSError:
        return False
    return True


def make_gl_context(size: int) -> Any:
    """Returns a context of MuJoCo's, made current, `size` pixels square.

    Raises:
      GraphicsError: where none can be made.
    """
    backend = choose_backend()
    # By name, because MuJoCo reads MUJOCO_GL only once, when it is first imported.
    module = f"mujoco.{backend}" if backend else "mujoco.gl_context"
    try:
        context = importlib.import_module(module).GLContext(size, size)
        context.make_current()
    except Exception as error:
        raise cannot_draw(error) from error
    return context


def cannot_draw(error: Exception) -> GraphicsError:
    """Returns what to raise where MuJoCo's backend failed with another error.

    Backends fail in ways of their own (ImportError, AttributeError, GLError); the
    commonest reason is a machine without any driver, which EGL finds out late.
    """
    backend = choose_backend() or "default"
    reason = " ".join(str(error).split()).rstrip(".")
    others = "" if backend == "egl" else "unset MUJOCO_GL to draw with EGL; "
    return GraphicsError(
        f"MuJoCo's {backend} backend (MUJOCO_GL) cannot draw ({reason}): {others}"
        f"`{INSTALL_COMMAND}` installs EGL for the CPU"
    )


def renderer_name() -> str:
    """Returns what draws here, in OpenGL's words; a context is made to ask it.

    Raises:
      GraphicsError: where no graphics context can be made.
    """
    context = make_gl_context(1)
    name = gl_renderer_name()
    context.free()
    return name


def gl_renderer_name() -> str:
    """Returns what draws in the current context."""
    # PyOpenGL picks its platform on import, which the context's module prepares.
    from OpenGL import GL

    return bytes(GL.glGetString(GL.GL_RENDERER) or b"").decode()
