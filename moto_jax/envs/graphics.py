"""Chooses MuJoCo's graphics backend and says plainly when the machine lacks one.

Imports nothing of MuJoCo: the choice must be made, and a missing system library
reported, before anything slow is loaded.
"""

import ctypes
import os
import platform
from collections.abc import Callable

INSTALL_COMMAND = "apt-get install -y libegl1 libegl-mesa0 libgl1-mesa-dri"

_LINUX_BACKENDS = ("egl", "osmesa", "glfw")

# libEGL only dispatches; a vendor's implementation must be there too. On machines with
# an NVIDIA driver that may be the driver's own.
_DISPATCH_LIBRARY = "libEGL.so.1"
_VENDOR_LIBRARIES = ("libEGL_mesa.so.0", "libEGL_nvidia.so.0")


class GraphicsError(RuntimeError):
    """The machine cannot draw frames without a screen."""


def choose_backend(load_library: Callable[[str], object] = ctypes.CDLL) -> str:
    """Sets `MUJOCO_GL` to headless EGL unless the user chose otherwise.

    On systems other than Linux MuJoCo's own default is kept.

    Args:
      load_library: loads a shared library by name, OSError where it cannot.

    Returns:
      The value of `MUJOCO_GL`, empty where MuJoCo's default is kept.

    Raises:
      GraphicsError: where the user chose an unknown backend, or EGL is the backend but
        cannot be loaded.
    """
    # An empty value means "not chosen" to MuJoCo as well.
    backend = os.environ.get("MUJOCO_GL", "").lower()
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
    os.environ["MUJOCO_GL"] = backend
    return backend


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


def _loads(name: str, load_library: Callable[[str], object]) -> bool:
    try:
        load_library(name)
    except OSError:
        return False
    return True
