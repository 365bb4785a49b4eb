"""Coarser meshes for drawing: 64 pixels cannot show 20,000 triangles a robot link."""

# MuJoCo's names come from compiled modules, which pyright cannot read.
# pyright: reportAttributeAccessIssue=false

import fast_simplification
import mujoco
import numpy as np

# How readily the simplifier trades shape for speed, 0 to 10; at the face counts used
# here a low value keeps the links' outlines.
_AGGRESSION = 3


def thin_meshes(model: mujoco.MjModel, name_suffix: str, target_faces: int) -> None:
    """Replaces, in place, every finely tessellated mesh of `model` by a coarse one.

    The arrays of a compiled model are fixed in size, so the coarse mesh takes the first
    rows of the fine one's place and the rest falls out of use. Only vertices, faces and
    normals are replaced: the model is good for drawing, and no longer for physics.

    Args:
      model: a model of one's own, of which no graphics context was made yet.
      name_suffix: which meshes, by the end of their names.
      target_faces: meshes with more triangles are brought down to about as many.
    """
    for mesh in range(model.nmesh):
        name = model.mesh(mesh).name
        if name.endswith(name_suffix) and model.mesh_facenum[mesh] > target_faces:
            _thin_mesh(model, mesh, target_faces)


def _thin_mesh(model: mujoco.MjModel, mesh: int, target_faces: int) -> None:
    first_vertex, first_face = model.mesh_vertadr[mesh], model.mesh_faceadr[mesh]
    first_normal = model.mesh_normaladr[mesh]
    vertices = model.mesh_vert[first_vertex:][: model.mesh_vertnum[mesh]]
    faces = model.mesh_face[first_face:][: model.mesh_facenum[mesh]]

    # Duplicate vertices along seams would be torn apart by the simplifier.
    welded, welded_index = np.unique(np.round(vertices, 6), axis=0, return_inverse=True)
    vertices, faces = fast_simplification.simplify(
        welded,
        welded_index.reshape(-1)[faces].astype(np.int32),
        target_count=target_faces,
        agg=_AGGRESSION,
    )[:2]

    model.mesh_vertnum[mesh] = model.mesh_normalnum[mesh] = len(vertices)
    model.mesh_facenum[mesh] = len(faces)
    model.mesh_vert[first_vertex:][: len(vertices)] = vertices
    model.mesh_normal[first_normal:][: len(vertices)] = vertex_normals(vertices, faces)
    model.mesh_face[first_face:][: len(faces)] = faces
    model.mesh_facenormal[first_face:][: len(faces)] = faces


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Returns unit normals [V, 3], the area-weighted mean over each vertex's faces.

    Args:
      vertices: [V, 3].
      faces: integer [F, 3], counter-clockwise seen from outside.
    """
    corner = vertices[faces]
    # The length of this cross product is twice the triangle's area.
    area_normal = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    normals = np.zeros(vertices.shape)
    for column in range(3):
        np.add.at(normals, faces[:, column], area_normal)
    lengths = np.linalg.norm(normals, axis=-1, keepdims=True)
    return normals / np.maximum(lengths, 1e-12)
