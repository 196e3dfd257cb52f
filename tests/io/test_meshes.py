"""Scans come back as they were written, in every format, with their vertex order."""

import contextlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import trimesh

from nphm_core.errors import NphmError, ScanFileError, TopologyError
from nphm_core.geometry.mesh import Mesh
from nphm_core.io.images import write_image
from nphm_core.io.meshes import read_facts, read_mesh, read_scan, read_scan_file, write_mesh

_spec = importlib.util.spec_from_file_location("io_shapes", Path(__file__).with_name("shapes.py"))
shapes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(shapes)

FACTS = {"space": "scan", "unit": "mm"}


def as_ascii_ply(mesh: Mesh, extra: str = "") -> str:
    lines = ["ply", "format ascii 1.0", f"element vertex {mesh.n_vertices}"]
    lines += [f"property double {axis}" for axis in "xyz"]
    lines += [f"element face {mesh.n_faces}", "property list uchar int vertex_indices", "end_header"]
    lines += [" ".join(map(repr, row)) for row in mesh.vertices.tolist()]
    lines += [f"3 {a} {b} {c}" for a, b, c in mesh.faces.tolist()]
    return "\n".join(lines) + "\n" + extra


def assert_same(found: Mesh, expected: Mesh, atol: float = 1e-6):
    np.testing.assert_allclose(found.vertices, expected.vertices, atol=atol)
    np.testing.assert_array_equal(found.faces, expected.faces)


# PLY


def test_a_written_mesh_comes_back_with_all_it_has(tmp_path):
    mesh = shapes.textured_sphere()
    mesh = Mesh(mesh.vertices, mesh.faces, mesh.vertices, mesh.colours, mesh.texture)
    write_mesh(tmp_path / "m.ply", mesh, FACTS | {"template_hash": "abc"})
    back = read_mesh(tmp_path / "m.ply", template_hash="abc")
    assert_same(back, mesh)
    np.testing.assert_allclose(back.normals, mesh.normals, atol=1e-6)
    np.testing.assert_array_equal(back.colours, mesh.colours)
    np.testing.assert_allclose(back.texture.uv, mesh.texture.uv, atol=1e-6)
    np.testing.assert_array_equal(back.texture.image, mesh.texture.image)
    assert read_facts(tmp_path / "m.ply")["unit"] == "mm"
    with pytest.raises(TopologyError, match="belongs to the template abc"):
        read_mesh(tmp_path / "m.ply", template_hash="other")
    with pytest.raises(ValueError, match="lack unit"):
        write_mesh(tmp_path / "n.ply", mesh, {"space": "scan"})


def test_positions_far_from_the_origin_keep_their_digits(tmp_path):
    mesh = shapes.sphere(8, radius=100.0, centre=(5e6, 4e5, 0.0))
    write_mesh(tmp_path / "m.ply", mesh, FACTS)
    assert_same(read_mesh(tmp_path / "m.ply"), mesh, atol=1e-4)
    assert b"property double x" in (tmp_path / "m.ply").read_bytes()


def test_ascii_ply_agrees_with_trimesh(tmp_path):
    mesh = shapes.sphere(8)
    (tmp_path / "a.ply").write_text(as_ascii_ply(mesh))
    assert_same(read_scan(tmp_path / "a.ply"), mesh, atol=0)
    loaded = trimesh.load_mesh(tmp_path / "a.ply", process=False)
    np.testing.assert_allclose(loaded.vertices, read_scan(tmp_path / "a.ply").vertices)


@pytest.mark.parametrize("order", ["little", "big"])
def test_ply_reads_both_byte_orders_mixed_polygons_and_unknown_elements(tmp_path, order):
    c = "<" if order == "little" else ">"
    header = (
        f"ply\r\nformat binary_{order}_endian 1.0\r\ncomment made by a test\r\n"
        "element metadata 3\r\nproperty uchar char\r\n"
        "element vertex 5\r\nproperty float64 x\r\nproperty short quality\r\n"
        "property float64 y\r\nproperty float64 z\r\n"
        "property uchar red\r\nproperty uchar green\r\nproperty uchar blue\r\nproperty uchar alpha\r\n"
        "element face 3\r\nproperty list uint8 uint32 vertex_index\r\nproperty uchar flags\r\n"
        "element tail 1\r\nproperty list uchar float numbers\r\nend_header\r\n"
    )
    position = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.5, 2, 0]])
    row = np.dtype([("x", c + "f8"), ("q", c + "i2"), ("y", c + "f8"), ("z", c + "f8"), ("rgba", "u1", (4,))])
    rows = np.zeros(5, row)
    rows["x"], rows["y"], rows["z"] = position.T
    rows["rgba"] = np.arange(20).reshape(5, 4)
    faces = b""
    for corners in ([0, 1, 2, 3], [2, 4, 3], [0, 1, 2, 4, 3]):
        faces += bytes([len(corners)]) + np.array(corners, c + "u4").tobytes() + b"\x07"
    body = b"abc" + rows.tobytes() + faces + b"\x00"
    (tmp_path / "m.ply").write_bytes(header.encode() + body)
    scan = read_scan_file(tmp_path / "m.ply")
    np.testing.assert_array_equal(scan.mesh.vertices, position)
    expected = [[0, 1, 2], [0, 2, 3], [2, 4, 3], [0, 1, 2], [0, 2, 4], [0, 4, 3]]
    np.testing.assert_array_equal(scan.mesh.faces, expected)
    np.testing.assert_array_equal(scan.mesh.colours, np.arange(20).reshape(5, 4)[:, :3])
    assert scan.n_file_faces == 3
    assert any("metadata" in note for note in scan.notes)


def test_ply_takes_triangle_strips_apart(tmp_path):
    text = "ply\nformat ascii 1.0\nelement vertex 5\nproperty float x\nproperty float y\nproperty float z\n"
    text += "element tristrips 1\nproperty list int int vertex_indices\nend_header\n"
    text += "0 0 0\n1 0 0\n0 1 0\n1 1 0\n0 2 0\n8 0 1 2 3 -1 2 3 4\n"
    (tmp_path / "s.ply").write_text(text)
    np.testing.assert_array_equal(read_scan(tmp_path / "s.ply").faces, [[0, 1, 2], [2, 1, 3], [2, 3, 4]])


def test_ply_reads_colours_and_normals_of_clouds(tmp_path):
    text = "ply\nformat ascii 1.0\nelement vertex 2\n"
    text += "".join(f"property float {n}\n" for n in ("x", "y", "z", "nx", "ny", "nz"))
    text += "".join(f"property float {n}\n" for n in ("red", "green", "blue")) + "end_header\n"
    (tmp_path / "c.ply").write_text(text + "0 0 0 0 0 2 0.5 0 1\n1 2 3 1 0 0 0 0.2 1\n")
    cloud = read_scan(tmp_path / "c.ply")
    assert cloud.n_faces == 0
    np.testing.assert_array_equal(cloud.normals, [[0, 0, 1], [1, 0, 0]])
    np.testing.assert_array_equal(cloud.colours, [[128, 0, 255], [0, 51, 255]])


# OBJ


def test_obj_keeps_vertices_unsplit_at_texture_seams(tmp_path):
    mesh = shapes.textured_sphere()
    uv = mesh.texture.uv.reshape(-1, 2)
    lines = ["mtllib a head.mtl", *("v {} {} {}".format(*row) for row in mesh.vertices.tolist())]
    lines += ["vt {} {}".format(*row) for row in uv.tolist()] + ["usemtl skin"]
    corner = np.arange(len(uv)).reshape(-1, 3) + 1
    for face, t in zip((mesh.faces + 1).tolist(), corner.tolist(), strict=True):
        lines.append("f " + " ".join(f"{v}/{w}" for v, w in zip(face, t, strict=True)))
    (tmp_path / "m.obj").write_text("\n".join(lines))
    (tmp_path / "a head.mtl").write_text("newmtl skin\nKd 1 1 1\nmap_Kd -s 1 1 1 C:\\scans\\Skin Map.PNG\n")
    write_image(tmp_path / "skin map.png", mesh.texture.image)
    scan = read_scan_file(tmp_path / "m.obj")
    assert_same(scan.mesh, mesh, atol=1e-15)
    np.testing.assert_allclose(scan.mesh.texture.uv, mesh.texture.uv)
    np.testing.assert_array_equal(scan.mesh.texture.image, mesh.texture.image)
    assert scan.notes == ()


def test_obj_reads_polygons_negative_indices_comments_and_colours(tmp_path):
    (tmp_path / "m.obj").write_bytes(
        b"# head\r\no part\r\nv 0 0 0 1 0 0 # first\r\nv\t1 0 0 0 1 0\r\n  v 1 1 0 0 0 1\r\nv 0 1 -1.5e-1 .5 .5 .5\r\n"
        b"vn 0 0 1\r\ns off\r\nl 1 2\r\nf -4//1 -3//1 -2//1 \\\r\n -1//1\r\nf 1 2 3\r\n"
    )
    mesh = read_scan(tmp_path / "m.obj")
    np.testing.assert_array_equal(mesh.vertices, [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, -0.15]])
    np.testing.assert_array_equal(mesh.faces, [[0, 1, 2], [0, 2, 3], [0, 1, 2]])
    np.testing.assert_array_equal(mesh.colours, [[255, 0, 0], [0, 255, 0], [0, 0, 255], [128, 128, 128]])


def test_obj_numbers_are_those_of_python(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(200, 3)) * 10.0 ** rng.integers(-12, 12, (200, 1))
    (tmp_path / "m.obj").write_text("\n".join("v {!r} {!r} {:.7e}".format(*row) for row in values.tolist()))
    found = read_scan(tmp_path / "m.obj").vertices
    np.testing.assert_allclose(found[:, :2], values[:, :2], rtol=3e-16)
    np.testing.assert_allclose(found[:, 2], values[:, 2], rtol=1e-7)


def test_obj_packs_several_images_into_one(tmp_path):
    red, blue = np.zeros((4, 4, 3), np.uint8), np.zeros((2, 8, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    write_image(tmp_path / "red.png", red)
    write_image(tmp_path / "blue.png", blue)
    (tmp_path / "m.mtl").write_text("newmtl a\nmap_Kd red.png\nnewmtl b\nmap_Kd blue.png\n")
    (tmp_path / "m.obj").write_text(
        "mtllib m.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0.1 0.1\nvt 0.9 0.1\nvt 0.1 0.9\n"
        "usemtl a\nf 1/1 2/2 3/3\nusemtl b\nf 3/3 2/2 1/1\n"
    )
    texture = read_scan(tmp_path / "m.obj").texture
    height, width = texture.image.shape[:2]
    x, y = texture.uv[..., 0] * width, (1 - texture.uv[..., 1]) * height
    colours = texture.image[y.astype(int), x.astype(int)]
    assert (colours[0] == [255, 0, 0]).all()
    assert (colours[1] == [0, 0, 255]).all()


def test_obj_without_material_takes_the_image_of_its_name(tmp_path):
    image = np.full((4, 4, 3), 90, np.uint8)
    write_image(tmp_path / "m.png", image)
    (tmp_path / "m.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nf 1/1 2/2 3/3\n")
    scan = read_scan_file(tmp_path / "m.obj")
    np.testing.assert_array_equal(scan.mesh.texture.image, image)
    assert "m.png" in scan.notes[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v 0 0\n", "line 1 of the OBJ file is 'v 0 0', expected at least three numbers"),
        ("v 0 0 0\nv 1 zero 0\n", "line 2 of the OBJ file .* expected numbers"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 4\n", "names vertex 3, expected 0 to 2"),
        ("v 0 0 0\nf 1 -3 1\n", "expected indices"),
        ("v 0 0 0\nf 0 1 1\n", "expected indices"),
        ("v 0 0 0\nf 1/x 1 1\n", "expected indices"),
        ("v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nf 1/1 2/2 3/1\n", "names texture coordinate 2"),
        ("hello\n", "no line `v x y z`"),
    ],
)
def test_obj_errors_name_the_line(tmp_path, text, message):
    (tmp_path / "m.obj").write_text(text)
    with pytest.raises(ScanFileError, match=message):
        read_scan(tmp_path / "m.obj")


# Other formats


def test_stl_and_off_are_read_as_trimesh_writes_them(tmp_path):
    mesh = shapes.sphere(6)
    out = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    for name in ("m.stl", "m.off"):
        out.export(tmp_path / name)
        found = read_scan_file(tmp_path / name)
        assert found.mesh.n_vertices == mesh.n_vertices
        corners = found.mesh.vertices[found.mesh.faces]
        np.testing.assert_allclose(corners, mesh.vertices[mesh.faces], atol=1e-6)
    out.export(tmp_path / "a.stl", file_type="stl_ascii")
    assert read_scan(tmp_path / "a.stl").n_vertices == mesh.n_vertices


def test_glb_applies_transforms_and_welds_what_seams_split(tmp_path):
    from PIL import Image

    mesh = shapes.textured_sphere()
    corners, uv = mesh.vertices[mesh.faces].reshape(-1, 3), mesh.texture.uv.reshape(-1, 2)
    visual = trimesh.visual.TextureVisuals(
        uv=uv, material=trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(mesh.texture.image))
    )
    part = trimesh.Trimesh(corners, np.arange(len(corners)).reshape(-1, 3), visual=visual, process=False)
    scene = trimesh.Scene()
    scene.add_geometry(part, transform=trimesh.transformations.translation_matrix([1, 2, 3]))
    scene.export(tmp_path / "m.glb")
    scan = read_scan_file(tmp_path / "m.glb")
    assert scan.mesh.n_vertices == mesh.n_vertices
    np.testing.assert_allclose(scan.mesh.vertices[scan.mesh.faces], mesh.vertices[mesh.faces] + [1, 2, 3], atol=1e-6)
    np.testing.assert_allclose(scan.mesh.texture.uv, mesh.texture.uv, atol=1e-6)
    np.testing.assert_array_equal(scan.mesh.texture.image, mesh.texture.image)
    assert "welded" in scan.notes[0]


def test_compressed_gltf_is_refused_by_name(tmp_path):
    (tmp_path / "m.gltf").write_text('{"asset": {}, "extensionsRequired": ["KHR_draco_mesh_compression"]}')
    with pytest.raises(ScanFileError, match="compressed by Draco"):
        read_scan(tmp_path / "m.gltf")


def test_a_texture_of_the_table_replaces_the_files_own(tmp_path):
    mesh = shapes.textured_sphere()
    write_mesh(tmp_path / "m.ply", mesh, FACTS)
    image = np.full((2, 2, 3), 7, np.uint8)
    write_image(tmp_path / "other.png", image)
    as_is = read_scan_file(tmp_path / "m.ply", texture=tmp_path / "other.png").mesh.texture
    np.testing.assert_array_equal(as_is.image, image)
    np.testing.assert_allclose(as_is.uv, mesh.texture.uv, atol=1e-6)
    turned = read_scan_file(tmp_path / "m.ply", texture=tmp_path / "other.png", texture_origin="top").mesh.texture
    np.testing.assert_allclose(turned.uv[..., 1], 1 - mesh.texture.uv[..., 1], atol=1e-6)
    write_mesh(tmp_path / "plain.ply", Mesh(mesh.vertices, mesh.faces), FACTS)
    with pytest.raises(ScanFileError, match="no texture coordinates"):
        read_scan_file(tmp_path / "plain.ply", texture=tmp_path / "other.png")


def test_points_as_text_are_read_with_normals_and_colours(tmp_path):
    (tmp_path / "c.xyz").write_text("x,y,z,r,g,b,nx,ny,nz\n1,2,3,255,0,9,0,0,1\n4,5,6,1,2,3,0,1,0\n")
    cloud = read_scan(tmp_path / "c.xyz")
    np.testing.assert_array_equal(cloud.vertices, [[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(cloud.colours, [[255, 0, 9], [1, 2, 3]])
    np.testing.assert_array_equal(cloud.normals, [[0, 0, 1], [0, 1, 0]])
    np.save(tmp_path / "c.npy", np.arange(12.0).reshape(4, 3))
    assert read_scan(tmp_path / "c.npy").n_vertices == 4


# What cannot be read


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.ply", b"", "0 bytes"),
        ("m.ply", b"solid", "does not start with `ply`"),
        ("m.ply", b"ply\nformat ascii 1.0\nelement vertex 3\n", "does not end"),
        ("m.ply", b"ply\nformat ascii 1.0\nelement vertex three\nend_header\n", "'element vertex three'"),
        ("m.ply", b"ply\nformat ascii 1.0\nelement face 0\nend_header\n", "expected an element vertex"),
        ("m.ply", b"ply\nformat wavelet 1.0\nend_header\n", "'wavelet'"),
        ("m.stl", b"solid x\nfacet normal", "STL"),
        ("m.glb", b"glTF\x02\x00\x00\x00\xff\xff\x00\x00", "glTF"),
        ("m.off", b"OFF\n3 1 0\n0 0 0\n1 0 0\n", "OFF"),
        ("m.xyz", b"1 2 3\n4 5\n", "differ"),
        ("m.npy", b"\x93NUMPY", "NPY"),
        ("m.fbx", b"x", "kind .fbx"),
    ],
)
def test_unreadable_files_say_what_was_expected(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ScanFileError, match=message) as caught:
        read_scan(path)
    assert str(caught.value).endswith(f"File {path}")
    assert len(str(caught.value).splitlines()) == 3


def test_missing_files_and_folders_are_told_apart(tmp_path):
    with pytest.raises(ScanFileError, match="does not exist"):
        read_scan(tmp_path / "gone.ply")
    with pytest.raises(ScanFileError, match="is a folder"):
        read_scan(tmp_path)


def test_nan_vertices_and_faces_out_of_range_are_refused(tmp_path):
    mesh = shapes.sphere(6)
    text = as_ascii_ply(mesh)
    (tmp_path / "m.ply").write_text(text.replace("0.0 1.0 0.0\n", "nan 1.0 0.0\n", 1))
    with pytest.raises(ScanFileError, match="1 of 62 vertices are NaN"):
        read_scan(tmp_path / "m.ply")
    (tmp_path / "m.ply").write_text(text.replace("3 0 1 2\n", "3 0 1 62\n", 1))
    with pytest.raises(ScanFileError, match="names vertex 62, expected 0 to 61"):
        read_scan(tmp_path / "m.ply")
    empty = Mesh(np.empty((0, 3)), np.empty((0, 3), np.int64))
    write_mesh(tmp_path / "e.ply", empty, FACTS)
    with pytest.raises(ScanFileError, match="no vertices"):
        read_scan(tmp_path / "e.ply")


@pytest.mark.parametrize("kind", ["binary.ply", "ascii.ply", "mixed.ply", "m.obj", "m.stl", "m.glb", "m.off"])
def test_damaged_files_never_raise_anything_but_our_errors(tmp_path, kind):
    mesh = shapes.textured_sphere(4)
    path = tmp_path / kind
    if kind == "binary.ply":
        write_mesh(path, mesh, FACTS)
    elif kind == "ascii.ply":
        path.write_text(as_ascii_ply(mesh))
    elif kind == "mixed.ply":
        path.write_text(as_ascii_ply(mesh).replace(f"face {mesh.n_faces}", f"face {mesh.n_faces + 1}") + "4 0 1 2 3\n")
    else:
        trimesh.Trimesh(mesh.vertices, mesh.faces, process=False).export(path)
    data = path.read_bytes()
    read_scan(path)
    rng = np.random.default_rng(7)
    for _ in range(150):
        broken = bytearray(data[: rng.integers(1, len(data) + 1)] if rng.random() < 0.5 else data)
        for place in rng.integers(0, len(broken), rng.integers(0, 6)):
            broken[place] = rng.integers(0, 256)
        path.write_bytes(bytes(broken))
        with contextlib.suppress(NphmError):
            read_scan(path)


def test_real_scans_are_read(shared_dir):
    scans = shared_dir / "scans"
    james = read_scan(scans / "menpo_james/james.obj")
    assert (james.n_vertices, james.n_faces) == (6393, 12228)
    assert james.texture is not None
    assert read_scan(scans / "lee_perry_smith/LeePerrySmith.glb").n_faces == 17684
    cloud = read_scan(scans / "standardcyborg_sven/Expected.ply")
    assert (cloud.n_vertices, cloud.n_faces) == (45428, 0)
    with pytest.raises(ScanFileError, match="depth frames are not scans"):
        read_scan(scans / "standardcyborg_sven/DepthFrames/frame-000.ply")
