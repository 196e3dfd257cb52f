"""The viewer in a headless Chromium: a person moves a slider, sees the head change, and saves it."""

import io

import numpy as np
import pytest
import trimesh
from PIL import Image

from nphm_core.models import checkpoint
from nphm_core.template.template import write_template
from pipelines import view
from tests.browser import chromium
from tests.exports import foreign_readers as foreign
from tests.exports import small_run
from tests.meshing import sphere_head as shapes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:websockets", "ignore::ResourceWarning"),
]
WAIT_MS = 120_000
# Small: software draws every frame.
WIDTH, HEIGHT, PANEL, BELOW_NOTICE = 720, 520, 330, 200


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def open_page(browser):
    """Serve what a command line asks for and open it; nothing may be asked of the network or complained of."""
    servers, contexts, troubles = [], [], []

    def start(*arguments):
        options = view._parser().parse_args([*map(str, arguments), "--port", "0"])
        servers.append(view.serve(options))
        address = f"http://localhost:{servers[-1].get_port()}"
        contexts.append(browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, accept_downloads=True))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: _note_foreign(request.url, address, troubles))
        page.goto(address)
        return page

    yield start
    for context in contexts:
        context.close()
    for server in servers:
        server.stop()
    assert troubles == []


def _note_foreign(url, address, troubles):
    if not url.startswith((address, address.replace("http", "ws"), "data:", "blob:")):
        troubles.append(f"network: {url}")


def seen(page) -> np.ndarray:
    """Give the picture of the scene, without the controls and the browser's notices."""
    picture = Image.open(io.BytesIO(page.screenshot(timeout=WAIT_MS))).convert("RGB")
    return np.asarray(picture)[BELOW_NOTICE:, : WIDTH - PANEL].astype(float)


def saved(page, button, folder):
    with page.expect_download(timeout=WAIT_MS) as download:
        page.get_by_text(button).click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def wait_for_text(page, text):
    page.get_by_text(text).first.wait_for(timeout=WAIT_MS)


def radius(vertices) -> float:
    return float(np.median(np.linalg.norm(vertices, axis=1)))


def test_a_slider_moves_the_head_and_what_is_shown_is_saved(open_page, tmp_path, monkeypatch):
    head, template = shapes.SphereHead(), shapes.ball_template()
    head.template_hash = template.hash
    monkeypatch.setattr(checkpoint, "from_pretrained", lambda folder, device="cpu": head)
    write_template(tmp_path / "cache/templates/ball", template)
    page = open_page("--model", tmp_path, "--cache", tmp_path / "cache", "--resolution", 48)
    wait_for_text(page, "at rest, 48 cells")
    page.wait_for_timeout(3000)
    before, mean = seen(page), saved(page, "PLY (mm)", tmp_path)
    assert radius(foreign.meshio_mesh(mean)[0]) == pytest.approx(0.35 * 250, abs=0.5)

    slider = page.get_by_role("slider").nth(1)  # after the share: the first axis
    slider.focus()
    for _ in range(30):  # one and a half standard deviations
        slider.press("ArrowRight")
    expected = 250 * (0.35 + 1.5 * np.std([0.3, 0.4], ddof=1) * np.sign(head.identity_prior.basis[0, 0].item()))
    page.wait_for_function("document.body.innerText.includes('following')", timeout=WAIT_MS)
    wait_for_text(page, "at rest, 48 cells")
    page.wait_for_timeout(3000)
    moved = saved(page, "PLY (mm)", tmp_path)
    assert radius(foreign.meshio_mesh(moved)[0]) == pytest.approx(expected, abs=0.5)
    assert np.abs(seen(page) - before).max() > 30
    scene = trimesh.load_scene(saved(page, "GLB (m)", tmp_path))
    assert radius(next(iter(scene.geometry.values())).vertices) == pytest.approx(expected / 1000, abs=5e-4)


def test_a_scans_layers_are_switched_and_saved(open_page, tmp_path):
    template = small_run.ball_template()
    scans = small_run.registered_scans(template, ("s001",))
    small_run.write_run(tmp_path / "results", template, scans)
    page = open_page("--results", tmp_path / "results", "--scan", "s001/smile")
    wait_for_text(page, "registration to scan, median (mm)")
    page.wait_for_timeout(5000)
    error = saved(page, "Save PLY", tmp_path)
    vertices, faces = foreign.meshio_mesh(error)
    np.testing.assert_array_equal(faces, scans[2].registered.faces)
    assert error.name == "s001-smile.ply"
    boxes = page.get_by_role("checkbox")
    boxes.nth(0).click()  # the scan as well
    expected = len(vertices) + scans[2].read_scan().n_vertices
    for _ in range(10):  # a busy machine takes its time to hear of the click
        both, _ = foreign.meshio_mesh(saved(page, "Save PLY", tmp_path))
        if len(both) == expected:
            break
        page.wait_for_timeout(2000)
    assert len(both) == expected
    picture = seen(page)
    assert picture.std() > 5
