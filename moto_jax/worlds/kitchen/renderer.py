"""Draws the kitchen from joint positions alone, in one of three render profiles.

`paper` is gymnasium's defaults: shadow maps of 4,096 pixels a side, reflections and
8-fold multisampling, about a second a frame on a CPU, and more than processes that
share a GPU can do at once.

`shaded` keeps that look for a seventh of the work: everything every frame with its
shadows, from smaller shadow maps and coarser meshes, each pixel the mean of 16 samples
as in the authors' frames. It is nearer to `paper` drawn at 256 pixels and averaged than
`paper` at 64 pixels is (`python -m experiments.benchmark --part=frames`).

`fast` is made for CPUs: hundreds of frames a second a core. What never moves is drawn
once in full quality, for the stove light on and off; a frame then draws the moving
bodies only, without shadows and from coarser meshes, and merges them by depth. It loses
the shadows of and on moving bodies, and the stove light switches instead of fading.

Images of the profiles differ by several grey levels, so every dataset and every run
names its profile.
"""

# MuJoCo's names come from compiled modules, which pyright cannot read.
# pyright: reportAttributeAccessIssue=false

import atexit
import weakref
from typing import Any

import mujoco
import numpy as np

from moto_jax.worlds.graphics import gl_renderer_name, make_gl_context
from moto_jax.worlds.kitchen import mesh_thinning
from moto_jax.worlds.kitchen.mujoco_compat import KITCHEN_XML

RENDER_PROFILES = ("fast", "shaded", "paper")

NUM_JOINT_POSITIONS = 30

# The camera of the paper's data, in metres and degrees.
_CAMERA_LOOKAT = (-0.3, 0.5, 2.0)
_CAMERA_DISTANCE = 1.86
_CAMERA_AZIMUTH = 90.0
_CAMERA_ELEVATION = -60.0

# The stove's lamp always burns; with the switch off a block stands before it, and only
# the block's shadow keeps the stove dark. Without shadows the lamp itself is switched.
_LAMP = "ovenlight"
_LAMP_BLOCK_BODY = "lightblock_hinge"
_SWITCH_QPOS = (17, 18)
_SWITCH_ON = (-0.7, -0.05)
_LAMP_BLOCK_QPOS = 18
_LAMP_FREE_BELOW = -0.02

# Each pixel is the mean of this many by this many samples.
_SUPERSAMPLING = {"fast": 2, "shaded": 4, "paper": 1}
# Triangles of a link of the robot, of 10,000 to 30,000.
_LINK_FACES = 500
# Slices, stacks and quads of a tessellated primitive; MuJoCo's 28, 16, 4 cost half of
# the frame rate, for handles and knobs that are a few pixels wide.
_TESSELLATION = (12, 6, 2)
# Pixels a side of a lamp's shadow map. Twice as many bring images nearer to `paper`'s
# by 0.2 grey levels for half of the frame rate.
_SHADOW_MAP = 1024

# A group that MuJoCo does not draw by default.
_HIDDEN_GROUP = 5
_MAX_GEOMS = 1000


class KitchenRenderer:
    """A graphics context with its own copy of the model; it never sees the physics.

    To be used from one thread at a time. Several may live in one process.

    Attributes:
      profile: one of `RENDER_PROFILES`.
      image_size: width and height of an image in pixels.
      gl_renderer: what draws, in OpenGL's words; "llvmpipe" is Mesa on the CPU.
    """

    def __init__(self, profile: str, image_size: int = 64):
        """Loads the model and makes the context; `fast` also draws its background.

        Raises:
          ValueError: for an unknown profile.
          GraphicsError: where no graphics context can be made.
        """
        check_profile(profile)
        self.profile = profile
        self.image_size = image_size
        self._supersampling = _SUPERSAMPLING[profile]
        size = self._supersampling * image_size
        self._gl = make_gl_context(size)
        self.gl_renderer = gl_renderer_name()
        model = mujoco.MjModel.from_xml_path(str(KITCHEN_XML))
        if profile == "shaded":
            _coarsen(model)
            model.vis.quality.shadowsize = _SHADOW_MAP
        picture = _FastPicture if profile == "fast" else _WholePicture
        self._picture = picture(model, size)
        self._release = weakref.finalize(self, _free_graphics, self._gl, self._picture)
        # Exit handlers run last in, first out: this one before MuJoCo's, which ends EGL
        # and would leave our context to fail while the interpreter shuts down.
        atexit.register(self._release)

    def render(self, qpos: np.ndarray) -> np.ndarray:
        """Returns the image uint8 [size, size, 3] of the joint positions [30].

        Raises:
          ValueError: for another number of positions, or a NaN or an infinity.
        """
        qpos = np.asarray(qpos, np.float64)
        if qpos.shape != (NUM_JOINT_POSITIONS,) or not np.isfinite(qpos).all():
            raise ValueError(
                f"qpos must be {NUM_JOINT_POSITIONS} finite joint positions, got "
                f"{qpos.tolist()}"
            )
        # Another renderer of this process may have made its context the current one.
        self._gl.make_current()
        samples = self._picture.draw(qpos)
        return box_filter(samples[::-1], self._supersampling)

    def close(self) -> None:
        """Frees the graphics context; further calls do nothing."""
        self._release()
        atexit.unregister(self._release)


def check_profile(profile: str) -> None:
    """Raises ValueError unless `profile` is one of `RENDER_PROFILES`."""
    if profile not in RENDER_PROFILES:
        raise ValueError(
            f"unknown render profile {profile!r}: use one of "
            f"{', '.join(RENDER_PROFILES)}"
        )


class _Scene:
    """MuJoCo's abstract scene and the context that draws it, `size` pixels square."""

    def __init__(self, model: mujoco.MjModel, size: int):
        self.model = model
        self.data = mujoco.MjData(model)
        # Also the size of the buffer that multisampling and clearing work on.
        model.vis.global_.offwidth = model.vis.global_.offheight = size
        self.scene = mujoco.MjvScene(model, _MAX_GEOMS)
        self._option = mujoco.MjvOption()
        self._perturbation = mujoco.MjvPerturb()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FREE
        self._camera.lookat[:] = _CAMERA_LOOKAT
        self._camera.distance = _CAMERA_DISTANCE
        self._camera.azimuth = _CAMERA_AZIMUTH
        self._camera.elevation = _CAMERA_ELEVATION
        self._viewport = mujoco.MjrRect(0, 0, size, size)
        self._context = mujoco.MjrContext(
            model, mujoco.mjtFontScale.mjFONTSCALE_50.value
        )
        # Near is 1 and far 0: floating-point depth then resolves the far end well.
        self._context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR.value
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self.rgb = np.zeros((size, size, 3), np.uint8)
        self.depth = np.zeros((size, size), np.float32)

    def draw(self, qpos: np.ndarray, read_depth: bool) -> None:
        """Fills `rgb`, and `depth` if asked for; their first row is the lowest one."""
        self.data.qpos[:] = qpos
        mujoco.mj_kinematics(self.model, self.data)
        # The lamp hangs from a body, so its position is part of the kinematics.
        mujoco.mj_camlight(self.model, self.data)
        mujoco.mjv_updateScene(
            self.model,
            self.data,
            self._option,
            self._perturbation,
            self._camera,
            mujoco.mjtCatBit.mjCAT_ALL.value,
            self.scene,
        )
        mujoco.mjr_render(self._viewport, self.scene, self._context)
        depth = self.depth if read_depth else None
        mujoco.mjr_readPixels(self.rgb, depth, self._viewport, self._context)

    def close(self) -> None:
        self._context.free()


class _WholePicture:
    """Everything, every frame, with MuJoCo's default flags and the model's quality."""

    def __init__(self, model: mujoco.MjModel, size: int):
        self._scene = _Scene(model, size)

    def draw(self, qpos: np.ndarray) -> np.ndarray:
        self._scene.draw(qpos, read_depth=False)
        return self._scene.rgb

    def close(self) -> None:
        self._scene.close()


class _FastPicture:
    """Moving bodies before a background that was drawn once for each lamp state."""

    def __init__(self, model: mujoco.MjModel, size: int):
        self._lamp = model.light(_LAMP).id
        self._default_qpos = model.qpos0.copy()
        group = model.geom_group.copy()
        moving = _moving_geoms(model)
        block = model.geom_bodyid == model.body(_LAMP_BLOCK_BODY).id

        model.geom_group[:] = np.where(moving & ~block, _HIDDEN_GROUP, group)
        full = _Scene(model, size)
        self._backgrounds = [self._draw_background(full, on) for on in (False, True)]
        full.close()

        _coarsen(model)
        _shrink_textures(model, used_by=moving)
        model.vis.quality.shadowsize = 0
        self._scene = _Scene(model, size)
        for flag in ("SHADOW", "REFLECTION", "SKYBOX", "HAZE"):
            self._scene.scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = 0

        # Depth is read without multisampling, which would mix near and far at edges.
        self._scene.draw(self._default_qpos, read_depth=True)
        self._background_depth = self._scene.depth.copy()
        model.geom_group[:] = np.where(moving & ~block, group, _HIDDEN_GROUP)

    def _draw_background(self, scene: _Scene, lamp_on: bool) -> np.ndarray:
        qpos = self._default_qpos.copy()
        if lamp_on:
            qpos[list(_SWITCH_QPOS)] = _SWITCH_ON
        scene.draw(qpos, read_depth=False)
        return scene.rgb.copy()

    def draw(self, qpos: np.ndarray) -> np.ndarray:
        lamp_on = bool(qpos[_LAMP_BLOCK_QPOS] < _LAMP_FREE_BELOW)
        self._scene.model.light_active[self._lamp] = lamp_on
        self._scene.draw(qpos, read_depth=True)
        nearer = self._scene.depth > self._background_depth
        return np.where(nearer[..., None], self._scene.rgb, self._backgrounds[lamp_on])

    def close(self) -> None:
        self._scene.close()


def _coarsen(model: mujoco.MjModel) -> None:
    """Leaves a model the triangles that few pixels show, each drawn once a pixel."""
    mesh_thinning.thin_meshes(model, "_viz", _LINK_FACES)
    quality = model.vis.quality
    quality.numslices, quality.numstacks, quality.numquads = _TESSELLATION
    quality.offsamples = 0


def _moving_geoms(model: mujoco.MjModel) -> np.ndarray:
    """Returns bool [geoms]: has the body, or a body that carries it, a joint?"""
    moves = np.zeros(model.nbody, bool)
    # Parents come before their children in a compiled model.
    for body in range(1, model.nbody):
        moves[body] = model.body_jntnum[body] > 0 or moves[model.body_parentid[body]]
    return moves[model.geom_bodyid]


def _shrink_textures(model: mujoco.MjModel, used_by: np.ndarray) -> None:
    """Reduces the textures of no geom in `used_by`, bool [geoms], to a pixel each.

    Uploaded with all their mipmaps, they would take some 130 MB in every process.
    """
    materials = model.geom_matid[used_by]
    used = np.unique(model.mat_texid[materials[materials >= 0]])
    for texture in set(range(model.ntex)) - set(used.tolist()):
        is_flat = model.tex_type[texture] == int(mujoco.mjtTexture.mjTEXTURE_2D)
        model.tex_width[texture] = 1
        # The six faces of a cube are stored as one column.
        model.tex_height[texture] = 1 if is_flat else 6


def box_filter(samples: np.ndarray, factor: int) -> np.ndarray:
    """Returns the rounded means of `factor` x `factor` blocks of uint8 [h, w, 3]."""
    total = np.zeros(
        (samples.shape[0] // factor, samples.shape[1] // factor, 3), np.uint16
    )
    for row in range(factor):
        for column in range(factor):
            total += samples[row::factor, column::factor]
    return ((total + factor**2 // 2) // factor**2).astype(np.uint8)


def _free_graphics(gl_context: Any, picture: "_WholePicture | _FastPicture") -> None:
    gl_context.make_current()
    picture.close()
    gl_context.free()
