"""The viewer's page for registered scans: one scan at a time, its layers, its numbers."""

import threading
from pathlib import Path
from typing import Any

import numpy as np

from nphm_core.io.files import read_json, read_npz
from nphm_core.io.meshes import read_mesh
from nphm_core.records import scan_folder
from nphm_core.spaces import MM_PER_CANONICAL_UNIT, Similarity
from nphm_core.viewing.mesh_bytes import mesh_bytes
from nphm_core.viewing.scan_layers import Layer, colour_bar, joined_mesh, scan_layers
from pipelines.stage_inputs import metric_scan

_FIRST_SHOWN = "error"
_POINT_SIZE = 0.006
_NUMBERS = {
    "median_mm": "registration to scan, median (mm)",
    "p95_mm": "95 % below (mm)",
    "scan_median_mm": "scan to registration, median (mm)",
    "linear_fit_mm": "linear fit, median (mm)",
    "landmark_mm": "landmarks, median (mm)",
}


class ScanPage:
    """A list of scans, a switch for each layer."""

    def __init__(self, results: Path, scan_ids: tuple[str, ...], *, first: str, largest_mm: float) -> None:
        """Take the run's folder; `largest_mm` is the distance at the end of the error map's colours."""
        self._results, self._ids, self._first, self._largest_mm = results, scan_ids, first, largest_mm
        self._layers: dict[str, Layer] = {}
        self._handles: dict[str, Any] = {}
        self._lock = threading.Lock()

    def build(self, server: Any) -> None:
        """Put the controls on a server's page and show the first scan."""
        self._server, gui = server, server.gui
        self._scan = gui.add_dropdown("scan", self._ids, initial_value=self._first)
        self._numbers = gui.add_markdown("")
        with gui.add_folder("Layers"):
            names = ("scan", "linear fit", "registration", "error", "landmarks")
            self._switches = {name: gui.add_checkbox(name, name == _FIRST_SHOWN) for name in names}
        gui.add_image(colour_bar(), label=f"error: 0 to {self._largest_mm:g} mm")
        gui.add_markdown("Grey vertices follow the template, as the scan does not show them.")
        gui.add_button("Save PLY (mm, head frame)").on_click(self._save)
        self._scan.on_update(lambda _: self.load(self._scan.value))
        for switch in self._switches.values():
            switch.on_update(lambda _: self._switch())
        self.load(self._first)

    def load(self, scan_id: str) -> None:
        """Read a scan and show it."""
        folder = scan_folder(self._results, scan_id)
        facts, weights = read_json(folder / "landmarks3d.json"), read_npz(folder / "registered_weights.npz")
        T_head_metric = Similarity.from_json(facts["T_head_metric"])
        layers = scan_layers(
            metric_scan(folder),
            read_mesh(folder / "flame.ply"),
            read_mesh(folder / "registered.ply"),
            weights["distance_mm"].astype(float),
            weights["weight"].astype(float),
            T_head_metric,
            largest_mm=self._largest_mm,
        )
        points = T_head_metric.apply(np.array(facts["points_mm"], float).reshape(-1, 3))
        with self._lock:
            self._layers = {layer.name: layer for layer in layers}
            for layer in layers:
                self._handles[layer.name] = self._add(layer)
            self._handles["landmarks"] = self._server.scene.add_point_cloud(
                "/landmarks",
                (points / MM_PER_CANONICAL_UNIT).astype(np.float32),
                (200, 30, 60),
                point_size=_POINT_SIZE,
                point_shape="circle",
            )
        self._switch()
        self._numbers.content = self._told(folder)

    def _add(self, layer: Layer) -> Any:
        vertices = (layer.mesh.vertices / MM_PER_CANONICAL_UNIT).astype(np.float32)
        name = "/" + layer.name.replace(" ", "-")
        if layer.mesh.colours is None:
            return self._server.scene.add_mesh_simple(
                name, vertices, layer.mesh.faces, color=layer.colour, side="double"
            )
        import trimesh

        mesh = trimesh.Trimesh(vertices, layer.mesh.faces, vertex_colors=layer.mesh.colours, process=False)
        return self._server.scene.add_mesh_trimesh(name, mesh)

    def _switch(self) -> None:
        for name, handle in self._handles.items():
            handle.visible = self._switches[name].value

    def _told(self, folder: Path) -> str:
        path = folder / "metrics.json"
        if not path.is_file():
            return ""
        metrics = read_json(path)
        rows = [f"| {text} | {metrics[key]} |" for key, text in _NUMBERS.items() if metrics.get(key) is not None]
        verdict = metrics.get("verdict", "")
        reasons = "; ".join(metrics.get("reasons", []))
        return "\n".join([f"**{verdict}** {reasons}", "", "| | |", "|---|---|", *rows])

    def _save(self, event: Any) -> None:
        with self._lock:
            shown = [layer for name, layer in self._layers.items() if self._switches[name].value]
        if not shown:
            self._numbers.content = "Switch a layer on: nothing is shown that could be saved."
        elif event.client is not None:
            name = self._scan.value.replace("/", "-")
            event.client.send_file_download(f"{name}.ply", mesh_bytes(joined_mesh(shown), "ply"), save_immediately=True)
