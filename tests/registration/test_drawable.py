import numpy as np

from nphm_core.geometry.mesh import Mesh, Texture
from nphm_core.geometry.rays import RayCaster
from nphm_core.registration.cameras import framing
from nphm_core.registration.drawable import drawable_of, light_of, texture_at, with_texture_for
from nphm_core.registration.render_backends import see

NO_FACES = np.zeros((0, 3), np.int64)


def _sphere_cloud(n: int) -> np.ndarray:
    k = np.arange(n) + 0.5
    z, angle = 1 - 2 * k / n, np.pi * (1 + 5**0.5) * k
    r = np.sqrt(1 - z**2)
    return np.stack([r * np.cos(angle), r * np.sin(angle), z], axis=1)


def test_a_cloud_renders_as_a_closed_surface():
    points = _sphere_cloud(20_000)
    drawable = drawable_of(Mesh(points, NO_FACES))
    camera = framing(np.zeros(3), np.array([0, 0, 1.0]), np.array([0, 1.0, 0]), height=2.4, fov_rad=0.3, pixels=200)
    view = see(drawable, RayCaster(drawable.vertices, drawable.faces), camera)
    centres = camera.pixel_centres()
    inside = np.linalg.norm(centres - 100, axis=1) < 0.97 * 100 / 1.2
    seen = np.zeros(len(centres), bool)
    seen[view.pixel] = True
    assert (seen[inside]).mean() > 0.999
    # Splats are tangent discs: their points lie near the sphere.
    hit = np.einsum("nk,nkc->nc", view.barycentric, drawable.vertices[drawable.faces[view.face]])
    assert np.abs(np.linalg.norm(hit, axis=1) - 1).max() < 0.02


def test_fitted_normals_of_a_sphere_point_along_the_radius():
    points = _sphere_cloud(5_000)
    drawable = drawable_of(Mesh(points, NO_FACES))
    source = points[drawable.source_point[::4]]
    normals = drawable.normals[drawable.faces[::4, 0]]
    assert np.abs((source * normals).sum(1)).min() > 0.999


def test_delivered_normals_and_colours_stay_with_their_points():
    points = _sphere_cloud(1_000)
    colours = np.random.default_rng(0).integers(0, 256, (1_000, 3)).astype(np.uint8)
    drawable = drawable_of(Mesh(points, NO_FACES, normals=points, colours=colours))
    corner = drawable.faces[:, 1]
    np.testing.assert_allclose(drawable.colours[corner], colours[drawable.source_point] / 255)
    np.testing.assert_allclose(drawable.normals[corner], points[drawable.source_point])


def test_one_colour_for_all_tells_nothing():
    points = _sphere_cloud(100)
    assert not drawable_of(Mesh(points, NO_FACES, colours=np.full((100, 3), 128, np.uint8))).is_coloured


def _quad(image: np.ndarray) -> Mesh:
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    return Mesh(vertices, faces, texture=Texture(vertices[faces][:, :, :2].copy(), image))


def test_texture_row_zero_is_at_the_top():
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 1] = [255, 0, 0]
    mesh = _quad(image)
    # The middles of the lower left texel, (0.25, 0.25), and of the upper right one.
    colour = texture_at(mesh.texture, np.array([0, 0]), np.array([[0.75, 0.0, 0.25], [0.25, 0.0, 0.75]]))
    np.testing.assert_allclose(colour, [[0, 0, 0], [1, 0, 0]], atol=1e-12)


def test_a_texture_repeats_beyond_its_edge():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    mesh = _quad(image)
    moved = Texture(mesh.texture.uv + [3.0, -2.0], image)
    face, bary = np.array([0, 1]), np.array([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])
    np.testing.assert_allclose(texture_at(moved, face, bary), texture_at(mesh.texture, face, bary), atol=1e-9)


def test_a_fine_texture_shrinks_to_a_texel_a_pixel():
    image = np.full((512, 512, 3), 90, np.uint8)
    drawable = with_texture_for(drawable_of(_quad(image)), 1 / 128)
    assert drawable.texture.image.shape == (128, 128, 3)
    assert (drawable.texture.image == 90).all()
    assert with_texture_for(drawable, 1 / 128) is drawable


def test_light_comes_from_above_and_turns_with_the_roll():
    normals = np.array([[0, 0.8, 0.6], [0, -0.8, 0.6], [0.8, 0, 0.6], [-0.8, 0, 0.6]])
    up, down, right, left = light_of(normals, flat=False)
    assert up > right > down
    np.testing.assert_allclose(right, left)
    # A quarter turn counter-clockwise brings the light to the left.
    np.testing.assert_allclose(light_of(normals, flat=False, roll_rad=np.pi / 2)[3], up)
