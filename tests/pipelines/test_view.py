"""The viewer's command, and its pages on a server without a browser."""

import argparse
import logging
import socket
import sys
import time

import numpy as np
import pytest

from nphm_core.errors import ExportError, ViewerError
from nphm_core.models import checkpoint
from nphm_core.template.template import write_template
from pipelines import view
from pipelines.view_model import ModelPage
from pipelines.view_scans import ScanPage
from tests.exports import small_run
from tests.meshing import sphere_head as shapes

viser = pytest.importorskip("viser", reason="the extra `view` is not installed")
# Its connection handling belongs to a library that warns of its own future.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:websockets", "ignore::ResourceWarning")


@pytest.fixture
def sphere_model(tmp_path, monkeypatch):
    """A model of spheres whose template lies in a cache."""
    head, template = shapes.SphereHead(), shapes.ball_template()
    head.template_hash = template.hash
    monkeypatch.setattr(checkpoint, "from_pretrained", lambda folder, device="cpu": head)
    write_template(tmp_path / "cache/templates/ball", template)
    return tmp_path


@pytest.fixture
def run(tmp_path):
    template = small_run.ball_template()
    small_run.write_run(tmp_path / "results", template, small_run.registered_scans(template))
    return tmp_path / "results"


def options(*arguments) -> argparse.Namespace:
    return view._parser().parse_args([*map(str, arguments), "--port", "0"])


@pytest.fixture
def serve(monkeypatch):
    """Serve what options ask for, and give the server and its page."""
    servers, pages = [], []
    for kind in (ModelPage, ScanPage):
        build = kind.build

        def kept(self, server, build=build):
            pages.append(self)
            build(self, server)

        monkeypatch.setattr(kind, "build", kept)

    def start(*arguments):
        servers.append(view.serve(options(*arguments)))
        return servers[-1], pages[-1]

    yield start
    for server in servers:
        server.stop()


def wait_until(condition, seconds=20.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "nothing changed in time"
        time.sleep(0.02)


def radius(mesh) -> float:
    return float(np.median(np.linalg.norm(mesh.vertices, axis=1)))


def test_the_head_follows_a_slider_and_is_extracted_when_it_rests(sphere_model, serve):
    _, page = serve("--model", sphere_model, "--cache", sphere_model / "cache", "--resolution", 48)
    wait_until(lambda: "at rest, 48 cells" in page._status.content)
    assert radius(page._shown) == pytest.approx(0.35, abs=2e-3)
    page._identity[0].value = 1.0
    wished = float(page._shaper.codes.identity(page.wish()))
    assert abs(wished - 0.35) > 0.05
    wait_until(lambda: radius(page._shown) == pytest.approx(wished, abs=2e-3))
    wait_until(lambda: "at rest" in page._status.content)
    wait_until(lambda: page._handle.vertices.shape == page._shown.vertices.shape)


def test_lists_choose_subjects_and_expressions(sphere_model, serve):
    _, page = serve("--model", sphere_model, "--cache", sphere_model / "cache")
    page._fine.value = False
    page._subject.value, page._whose.value = "large", "large"
    wait_until(lambda: page._which.options == ("low",))
    assert page.wish().expression == "large/low"
    wait_until(lambda: page._shown is not None and np.ptp(page._shown.vertices[:, 0]) > 0.79)
    height, width = np.ptp(page._shown.vertices, axis=0)[[1, 0]]
    assert height / width == pytest.approx(0.8, abs=0.05)
    page._set_axes(np.random.default_rng(1))
    assert any(page.wish().identity_axes)
    page._set_axes(None)
    assert not any(page.wish().identity_axes)


def test_what_is_shown_is_saved_in_mm(sphere_model, serve):
    _, page = serve("--model", sphere_model, "--cache", sphere_model / "cache")
    wait_until(lambda: page._shown is not None)
    client = Client()
    page._save(argparse.Namespace(client=client), "ply")
    (name, data) = client.saved
    assert name == "mean-canonical.ply"
    assert data.startswith(b"ply\nformat binary_little_endian 1.0\n")


def test_a_model_without_its_template_is_shown_by_coarse_extraction(sphere_model, serve, caplog):
    caplog.set_level(logging.WARNING)
    _, page = serve("--model", sphere_model, "--cache", sphere_model / "nowhere")
    wait_until(lambda: page._shown is not None)
    assert "heads will follow sliders slowly" in caplog.text
    assert radius(page._shown) == pytest.approx(0.35, abs=5e-3)


def test_a_scan_that_the_run_lacks_is_refused(sphere_model):
    with pytest.raises(ExportError, match="are not there"):
        view.serve(options("--results", sphere_model_run(sphere_model), "--scan", "s001/frown"))


def sphere_model_run(folder):
    template = small_run.ball_template()
    small_run.write_run(folder / "results", template, small_run.registered_scans(template, ("s001",)))
    return folder / "results"


def test_a_scan_is_shown_with_its_error_map_and_numbers(run, serve):
    _, page = serve("--results", run, "--scan", "s002/smile", "--max-mm", 2)
    assert page._scan.value == "s002/smile"
    assert set(page._handles) == {"scan", "linear fit", "registration", "error", "landmarks"}
    assert [name for name, handle in page._handles.items() if handle.visible] == ["error"]
    assert "| registration to scan, median (mm) | 0.123 |" in page._numbers.content
    page._switches["error"].value, page._switches["scan"].value = False, True
    wait_until(lambda: page._handles["scan"].visible and not page._handles["error"].visible)
    before = page._layers["scan"].mesh.vertices
    page._scan.value = "s001/neutral"
    wait_until(lambda: not np.array_equal(page._layers["scan"].mesh.vertices, before))
    client = Client()
    page._save(argparse.Namespace(client=client))
    assert client.saved[0] == "s001-neutral.ply"


class Client:
    """Stands in for a browser that saves a file."""

    def send_file_download(self, name, data, save_immediately=False):
        assert save_immediately
        self.saved = (name, data)


def test_the_address_is_local_and_says_how_to_come_from_elsewhere():
    text = view.address_text("127.0.0.1", 8123)
    assert "http://localhost:8123" in text
    assert "ssh -L 8123:localhost:8123 " in text
    assert "anyone who reaches this port" in view.address_text("0.0.0.0", 8123)
    assert view._parser().parse_args(["--model", "m"]).host == "127.0.0.1"


def test_a_taken_port_and_a_missing_package_are_told(run, monkeypatch, caplog):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert view.main(["--results", str(run), "--port", str(port)]) == 1
    assert f"port {port} is taken" in caplog.text
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(ViewerError, match=r"pip install '.\[view\]'"):
        view.serve(options("--results", run))
