"""Coarse meshes keep the shape of the fine ones."""

import mujoco
import numpy as np
import pytest

from moto_jax.worlds.kitchen import mesh_thinning

SLICES, STACKS, RADIUS = 32, 16, 0.5


def sphere_obj() -> str:
    """A sphere of 32 slices and 16 stacks with a seam of duplicate vertices."""
    lines = []
    for stack in range(STACKS + 1):
        for column in range(SLICES + 1):
            polar, around = np.pi * stack / STACKS, 2 * np.pi * column / SLICES
            x = RADIUS * np.sin(polar) * np.cos(around)
            y = RADIUS * np.sin(polar) * np.sin(around)
            lines.append(f"v {x:.7f} {y:.7f} {RADIUS * np.cos(polar):.7f}")
    for stack in range(STACKS):
        for column in range(SLICES):
            a = stack * (SLICES + 1) + column + 1
            b = a + SLICES + 1
            if stack > 0:
                lines.append(f"f {a} {b} {a + 1}")
            if stack < STACKS - 1:
                lines.append(f"f {a + 1} {b} {b + 1}")
    return "\n".join(lines)


@pytest.fixture
def model() -> mujoco.MjModel:
    xml = """<mujoco><asset>
      <mesh name="before_viz" file="sphere.obj"/>
      <mesh name="middle_col" file="sphere.obj"/>
      <mesh name="after_viz" file="sphere.obj"/>
    </asset><worldbody><body>
      <geom type="mesh" mesh="before_viz"/><geom type="mesh" mesh="middle_col"/>
      <geom type="mesh" mesh="after_viz"/>
    </body></worldbody></mujoco>"""
    return mujoco.MjModel.from_xml_string(xml, {"sphere.obj": sphere_obj().encode()})


def mesh_of(model: mujoco.MjModel, name: str) -> tuple[np.ndarray, ...]:
    mesh = model.mesh(name).id
    vertices = model.mesh_vert[model.mesh_vertadr[mesh] :][: model.mesh_vertnum[mesh]]
    faces = model.mesh_face[model.mesh_faceadr[mesh] :][: model.mesh_facenum[mesh]]
    normals = model.mesh_normal[model.mesh_normaladr[mesh] :]
    normals = normals[: model.mesh_normalnum[mesh]]
    indices = model.mesh_facenormal[model.mesh_faceadr[mesh] :]
    return vertices, faces, normals, indices[: model.mesh_facenum[mesh]]


def volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """The signed volume, negative where faces are turned inside out."""
    return float(np.linalg.det(vertices[faces].astype(np.float64)).sum() / 6)


def test_thinned_meshes_keep_volume_extent_and_outward_normals(model):
    fine_volume = volume(*mesh_of(model, "after_viz")[:2])
    mesh_thinning.thin_meshes(model, "_viz", target_faces=200)
    for name in ("before_viz", "after_viz"):
        vertices, faces, normals, normal_indices = mesh_of(model, name)
        assert 150 <= len(faces) <= 250
        assert faces.max() < len(vertices)
        assert volume(vertices, faces) == pytest.approx(fine_volume, rel=0.05)
        np.testing.assert_allclose(np.abs(vertices).max(axis=0), RADIUS, rtol=0.05)
        # A sphere's normals point along its radii.
        corners = vertices[faces] / np.linalg.norm(
            vertices[faces], axis=-1, keepdims=True
        )
        assert (normals[normal_indices] * corners).sum(axis=-1).min() > 0.9


def test_other_and_coarse_meshes_stay(model):
    before = [array.copy() for array in mesh_of(model, "middle_col")]
    mesh_thinning.thin_meshes(model, "_viz", target_faces=200)
    for old, new in zip(before, mesh_of(model, "middle_col"), strict=True):
        np.testing.assert_array_equal(old, new)
    coarse = [array.copy() for array in mesh_of(model, "after_viz")]
    mesh_thinning.thin_meshes(model, "_viz", target_faces=300)
    for old, new in zip(coarse, mesh_of(model, "after_viz"), strict=True):
        np.testing.assert_array_equal(old, new)


def test_vertex_normals_weigh_faces_by_area():
    # Two right triangles share vertex 0: area 2 in the plane z = 0, area 1 in y = 0.
    vertices = np.array([[0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 2], [1, 0, 0]], float)
    normals = mesh_thinning.vertex_normals(vertices, np.array([[0, 1, 2], [0, 4, 3]]))
    np.testing.assert_allclose(normals[0], np.array([0, -1, 2]) / np.sqrt(5))
    np.testing.assert_allclose(normals[1], [0, 0, 1])
    np.testing.assert_allclose(normals[3], [0, -1, 0])
