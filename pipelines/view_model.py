"""The viewer's page for a trained model: sliders and lists, a head that follows them, and its download."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from nphm_core.geometry.mesh import Mesh
from nphm_core.spaces import MM_PER_CANONICAL_UNIT
from nphm_core.viewing.latest import LatestWorker
from nphm_core.viewing.mesh_bytes import mesh_bytes
from nphm_core.viewing.shaper import HeadShaper, SupersededError
from nphm_core.viewing.wish import CANONICAL, MEAN, NOBODY, HeadWish

_N_AXES = 8
_AXIS_RANGE = 3.0
_CLAY = (186, 154, 134)
_RESOLUTIONS = (48, 64, 96, 128, 192, 256)


class ModelPage:
    """Controls on the right, the head in the middle."""

    def __init__(self, shaper: HeadShaper, *, resolution: int) -> None:
        """Take what makes the heads; `resolution` is that of the head at rest."""
        self._shaper, self._resolution = shaper, resolution
        self._shown: Mesh | None = None
        self._handle: Any = None
        self._lock = threading.Lock()
        self._rng = np.random.default_rng(0)
        self._expressions: dict[str, list[str]] = {}
        for scan in shaper.codes.scans:
            subject, expression = scan.split("/")
            self._expressions.setdefault(subject, []).append(expression)

    def build(self, server: Any) -> None:
        """Put the controls on a server's page and show the first head."""
        self._server, gui, codes = server, server.gui, self._shaper.codes
        self._status = gui.add_markdown("...")
        self._add_buttons(gui)
        with gui.add_folder("Identity"):
            self._subject = gui.add_dropdown("subject", (MEAN, *codes.subjects))
            self._towards = gui.add_dropdown("towards", (NOBODY, MEAN, *codes.subjects))
            self._share = gui.add_slider("share", 0.0, 1.0, 0.01, 0.0)
            self._identity = self._axes(gui, "identity", codes.n_identity_axes)
        self._regions: dict[str, Any] = {}
        if codes.regions:
            with gui.add_folder("Regions of another", expand_by_default=False):
                self._regions_from = gui.add_dropdown("from", (NOBODY, MEAN, *codes.subjects))
                self._regions = {name: gui.add_checkbox(name, False) for name in codes.regions}
        with gui.add_folder("Expression"):
            # Whose and which: a model may know thousands of scans, too many for one list.
            self._whose = gui.add_dropdown("of", (CANONICAL, MEAN, *self._expressions))
            self._which = gui.add_dropdown("shown", (NOBODY,), disabled=True)
            self._strength = gui.add_slider("strength", 0.0, 1.5, 0.01, 1.0)
            self._carried = gui.add_dropdown(
                "less", (NOBODY,), disabled=True, hint="carry over only what is beyond this one, such as the neutral"
            )
            self._axis = self._axes(gui, "expression", codes.n_expression_axes)
        with gui.add_folder("Extraction", expand_by_default=False):
            self._fine = gui.add_checkbox("extract when the sliders rest", True)
            choices = sorted({*_RESOLUTIONS, self._resolution})
            self._cells = gui.add_dropdown("cells", [str(n) for n in choices], initial_value=str(self._resolution))
        self._worker: LatestWorker[HeadWish] = LatestWorker(self._quick, self._proper, failed=self._tell_failure)
        self._whose.on_update(lambda _: self._list_expressions())
        for control in self._controls():
            control.on_update(lambda _: self._worker.submit(self.wish()))
        self._worker.submit(self.wish())

    def wish(self) -> HeadWish:
        """Read all controls."""
        return HeadWish(
            subject=self._subject.value,
            towards=self._towards.value,
            share=float(self._share.value),
            identity_axes=tuple(float(axis.value) for axis in self._identity),
            regions=tuple(name for name, box in self._regions.items() if box.value),
            regions_from=self._regions_from.value if self._regions else NOBODY,
            expression=self._named(self._which.value) if self._whose.value in self._expressions else self._whose.value,
            strength=float(self._strength.value),
            carried=self._carried.value != NOBODY,
            carried_from=self._named(self._carried.value),
            expression_axes=tuple(float(axis.value) for axis in self._axis),
        )

    def _named(self, expression: str) -> str:
        """Give the scan of the chosen subject with an expression."""
        return NOBODY if expression == NOBODY else f"{self._whose.value}/{expression}"

    def _list_expressions(self) -> None:
        """Offer the expressions of the chosen subject; lists of others would only be in the way."""
        own = self._expressions.get(self._whose.value, [])
        for control, options in ((self._which, own or [NOBODY]), (self._carried, [NOBODY, *own])):
            control.options = options
            control.value = options[0]
            control.disabled = not own

    def _controls(self) -> list[Any]:
        regions = [self._regions_from, *self._regions.values()] if self._regions else []
        lists = [self._subject, self._towards, self._whose, self._which, self._carried, self._fine, self._cells]
        return [*lists, *regions, self._share, self._strength, *self._identity, *self._axis]

    def _axes(self, gui: Any, noun: str, n_all: int) -> list[Any]:
        n = min(_N_AXES, n_all)
        return [gui.add_slider(f"{noun} {k + 1}", -_AXIS_RANGE, _AXIS_RANGE, 0.05, 0.0) for k in range(n)]

    def _add_buttons(self, gui: Any) -> None:
        draw, save = "draw", {"PLY (mm)": "ply", "GLB (m)": "glb"}
        sliders = gui.add_button_group("sliders", ("reset", draw))
        sliders.on_click(lambda event: self._set_axes(self._rng if event.target.value == draw else None))
        gui.add_button_group("save", tuple(save)).on_click(lambda event: self._save(event, save[event.target.value]))

    def _set_axes(self, rng: np.random.Generator | None) -> None:
        for axis in self._identity:
            axis.value = 0.0 if rng is None else float(np.clip(rng.standard_normal(), -_AXIS_RANGE, _AXIS_RANGE))
        if rng is None:
            for axis in self._axis:
                axis.value = 0.0
            self._share.value, self._strength.value = 0.0, 1.0
        self._worker.submit(self.wish())

    def _save(self, event: Any, kind: str) -> None:
        with self._lock:
            mesh = self._shown
        if mesh is not None and event.client is not None:
            scaled = mesh.with_vertices(MM_PER_CANONICAL_UNIT * mesh.vertices)
            event.client.send_file_download(
                f"{self.wish().name}.{kind}", mesh_bytes(scaled, kind), save_immediately=True
            )

    def _quick(self, wish: HeadWish, is_late: Callable[[], bool]) -> None:
        started = time.perf_counter()
        self._show(self._shaper.quick(wish), "following", started)

    def _proper(self, wish: HeadWish, is_late: Callable[[], bool]) -> None:
        if not self._fine.value:
            return
        started, cells = time.perf_counter(), int(self._cells.value)
        self._status.content += f", extracting {cells} cells"
        try:
            mesh = self._shaper.proper(wish, cells, is_late)
        except SupersededError:
            return
        if not is_late() and mesh.n_faces:
            self._show(mesh, f"at rest, {cells} cells", started)

    def _show(self, mesh: Mesh, what: str, started: float) -> None:
        with self._lock:
            same = self._shown is not None and np.array_equal(self._shown.faces, mesh.faces)
            self._shown = mesh
        vertices = mesh.vertices.astype(np.float32)
        if same and self._handle is not None:
            self._handle.vertices = vertices
        else:
            self._handle = self._server.scene.add_mesh_simple("/head", vertices, mesh.faces, color=_CLAY, side="double")
        took = time.perf_counter() - started
        self._status.content = f"**{mesh.n_vertices:,} vertices** ({what}, {took:.2f} s)"

    def _tell_failure(self, error: Exception) -> None:
        self._status.content = f"**not shown:** {error}"
