"""The layers of a scan, and meshes as files."""

import numpy as np
import pytest
import trimesh

from nphm_core.geometry.mesh import Mesh
from nphm_core.report.colour_map import UNSEEN, error_colours
from nphm_core.spaces import Similarity
from nphm_core.viewing.mesh_bytes import mesh_bytes
from nphm_core.viewing.scan_layers import colour_bar, error_map, joined_mesh, scan_layers

CORNERS = np.array([[0.0, 0, 0], [100, 0, 0], [0, 100, 0], [0, 0, 100]])
MESH = Mesh(CORNERS, np.array([[0, 1, 2], [0, 2, 3]]))
TURN = Similarity(1.0, np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), np.array([1.0, 2, 3]))


@pytest.fixture
def layers():
    distance = np.array([0.0, 0.5, np.inf, 0.1])
    weight = np.array([1.0, 1.0, 1.0, 0.0])
    scan = Mesh(CORNERS, MESH.faces, colours=np.full((4, 3), 7, np.uint8))
    return scan_layers(scan, MESH, MESH, distance, weight, TURN, largest_mm=0.5)


def test_every_layer_is_in_the_head_frame(layers):
    assert [layer.name for layer in layers] == ["scan", "linear fit", "registration", "error"]
    for layer in layers:
        np.testing.assert_allclose(layer.mesh.vertices, TURN.apply(CORNERS))


def test_the_error_map_is_pale_without_error_dark_at_its_end_and_grey_where_nothing_was_measured(layers):
    colours = layers[3].mesh.colours
    np.testing.assert_array_equal(colours[0], error_colours()[0])
    np.testing.assert_array_equal(colours[1], error_colours()[-1])
    np.testing.assert_array_equal(colours[2:], [UNSEEN, UNSEEN])
    np.testing.assert_array_equal(error_map(np.array([9.0]), np.ones(1), 0.5)[0], error_colours()[-1])
    np.testing.assert_array_equal(colour_bar()[5], error_colours())


def test_what_is_shown_together_is_saved_together(layers):
    joined = joined_mesh([layers[0], layers[1]])
    assert (joined.n_vertices, joined.n_faces) == (8, 4)
    np.testing.assert_array_equal(joined.faces[2:], MESH.faces + 4)
    np.testing.assert_array_equal(joined.colours[:4], np.full((4, 3), 7))
    np.testing.assert_array_equal(joined.colours[4:], [layers[1].colour] * 4)
    with pytest.raises(ValueError, match="no layer"):
        joined_mesh([])


@pytest.mark.parametrize(("kind", "mm"), [("ply", 1.0), ("glb", 1000.0)])
def test_saved_meshes_load_in_their_unit(kind, mm):
    data = mesh_bytes(MESH, kind)
    loaded = trimesh.load(trimesh.util.wrap_as_stream(data), file_type=kind, process=False, force="mesh")
    np.testing.assert_allclose(np.asarray(loaded.vertices) * mm, CORNERS, atol=1e-4)
    np.testing.assert_array_equal(loaded.faces, MESH.faces)
    with pytest.raises(ValueError, match="expected ply or glb"):
        mesh_bytes(MESH, "stl")
