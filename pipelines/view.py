"""Look at registered scans, or move a trained model by sliders, in a browser.

`--results` shows each scan with its linear fit, its registration and the error map. `--model`, by default the one that
comes along, shows heads that follow sliders: principal axes of identity and expression, the way from one subject to
another, regions taken from a third, and anybody's expression on anybody. What is shown can be saved as PLY or GLB. The
server listens on this machine alone; over SSH, forward its port as the first lines say. Needs the extra `view`. Ends
with Ctrl-C.
"""

import argparse
import contextlib
import getpass
import io
import logging
import socket
import sys
from pathlib import Path
from typing import Any

from nphm_core.errors import ExportError, NphmError, ViewerError
from nphm_core.models.pretrained import pretrained_folder

log = logging.getLogger("nphm")

_LOCAL = ("127.0.0.1", "localhost", "::1")


def main(arguments: list[str] | None = None) -> int:
    """Serve until stopped; give the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    logging.getLogger("websockets").setLevel(logging.WARNING)
    try:
        server = serve(options)
    except NphmError as error:
        log.error("%s", error)
        return 1
    print(address_text(options.host, server.get_port()), flush=True)
    try:
        server.sleep_forever()
    except KeyboardInterrupt:
        server.stop()
    return 0


def serve(options: argparse.Namespace) -> Any:
    """Start the server with the page that the options ask for."""
    try:
        import viser
    except ImportError:
        raise ViewerError(
            "the viewer's server, viser, is not installed; expected the extra `view`. Install it with "
            "`pip install '.[view]'`"
        ) from None
    # What is wrong with the input should be told before a port is taken.
    page = _model_page(options) if options.results is None else _scan_page(options)
    if options.port and not _is_free(options.host, options.port):
        raise ViewerError(
            f"port {options.port} is taken; expected a free one. Give another with --port, or 0 for any free one"
        )
    # It prints a frame of its own, and stdout is for results.
    with contextlib.redirect_stdout(io.StringIO()):
        server = viser.ViserServer(host=options.host, port=options.port or _free_port(options.host), verbose=False)
    server.gui.configure_theme(show_logo=False, show_share_button=False)
    server.gui.main_panel.dock_right()
    server.scene.set_up_direction("+y")
    server.initial_camera.position, server.initial_camera.look_at = (0.35, 0.15, 2.4), (0.0, -0.1, -0.1)
    server.initial_camera.fov = 0.6
    page.build(server)
    return server


def address_text(host: str, port: int) -> str:
    """Say where the page is, and how to reach it from elsewhere."""
    if host not in _LOCAL:
        return f"viewer: http://{socket.gethostname()}:{port} (anyone who reaches this port can use it)"
    forward = f"ssh -L {port}:localhost:{port} {getpass.getuser()}@{socket.gethostname()}"
    return f"viewer: http://localhost:{port}\nfrom another machine, first: {forward}"


def _model_page(options: argparse.Namespace) -> Any:
    from nphm_core.models.checkpoint import check_template, from_pretrained
    from nphm_core.template.template import read_template
    from nphm_core.viewing.shaper import head_shaper
    from pipelines.export_inputs import template_of_model
    from pipelines.view_model import ModelPage

    model = options.model or pretrained_folder()
    head = from_pretrained(model, device=options.device)
    template = None
    try:
        template = read_template(template_of_model(head, model, options))
        check_template(head.template_hash, template.hash, model)
    except ExportError as error:
        if options.template is not None:
            raise
        # A model can be looked at without its template, only less smoothly.
        log.warning("heads will follow sliders slowly, by coarse extraction: %s", error)
    log.info("bringing the template to the mean head")
    return ModelPage(head_shaper(head, template), resolution=options.resolution)


def _scan_page(options: argparse.Namespace) -> Any:
    from pipelines.export_inputs import choose_scans
    from pipelines.view_scans import ScanPage

    scans = choose_scans(options.results, [], [options.scan] if options.scan else [])
    every = choose_scans(options.results, [], [])
    return ScanPage(options.results, every.chosen, first=scans.chosen[0], largest_mm=options.max_mm)


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipelines.view", description=__doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--results", type=Path, metavar="FOLDER", help="results of a run")
    source.add_argument("--model", type=Path, metavar="FOLDER", help="a trained model, by default ours")
    parser.add_argument("--scan", metavar="SUBJECT/EXPRESSION", help="with --results: the scan to begin with")
    parser.add_argument("--max-mm", type=float, default=0.5, help="with --results: distance at the end of the colours")
    parser.add_argument("--template", type=Path, metavar="FOLDER", help="with --model; found in the cache by default")
    parser.add_argument("--cache", type=Path, default=Path(".cache"), metavar="FOLDER", help="where templates lie")
    parser.add_argument("--resolution", type=int, default=96, help="with --model: cells of the head at rest")
    parser.add_argument("--device", default="cpu", help="with --model: cpu or cuda")
    parser.add_argument("--port", type=int, default=8080, help="of the server; 0 takes any free one")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets others in")
    return parser


if __name__ == "__main__":
    sys.exit(main())
