"""Training curves as SVG: the loss of each stage over its steps, and that of held-out subjects beside it."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_WIDTH, _HEIGHT = 420, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 40, 40
_COLOURS = {"total": "#17529e", "held out": "#b4510a"}
_N_TICKS = 4


def training_curves(journals: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Give one drawing with a panel for each training, by name; entries as `train.jsonl` has them."""
    panels = [_panel(name, entries, k * _WIDTH) for k, (name, entries) in enumerate(journals.items()) if entries]
    width = max(1, len(panels)) * _WIDTH
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_HEIGHT}" width="{width}" height="{_HEIGHT}"'
        f' font-family="sans-serif" font-size="12"><rect width="{width}" height="{_HEIGHT}" fill="white"/>'
        + "".join(panels or ['<text x="10" y="30">nothing was trained by steps</text>'])
        + "</svg>\n"
    )


def _panel(name: str, entries: Sequence[Mapping[str, Any]], x: int) -> str:
    series = {
        "total": [(e["step"], e["terms"]["total"]) for e in entries if e["terms"].get("total", 0) > 0],
        "held out": [(e["step"], v) for e in entries if (v := e.get("validation", {}).get("total", 0)) > 0],
    }
    values = [math.log10(value) for points in series.values() for _, value in points]
    if not values:
        return ""
    low, high = min(values), max(max(values), min(values) + 0.1)
    last = max(entry["step"] for entry in entries)

    def place(step: int, value: float) -> tuple[float, float]:
        right = _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / last
        down = _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - value) / (high - low)
        return round(right, 1), round(down, 1)

    parts = [f'<text x="{_LEFT}" y="20" font-size="14" font-weight="bold">{escape(name)}</text>']
    for k in range(_N_TICKS + 1):
        value = low + (high - low) * k / _N_TICKS
        y = place(0, value)[1]
        parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}" stroke="#dddddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4}" text-anchor="end">{10**value:.2g}</text>')
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 12}" text-anchor="end">{last:,} steps</text>')
    for k, (label, points) in enumerate(series.items()):
        if points:
            path = " ".join("{},{}".format(*place(step, math.log10(value))) for step, value in points)
            parts.append(f'<polyline fill="none" stroke="{_COLOURS[label]}" stroke-width="2" points="{path}"/>')
            parts.append(f'<text x="{_LEFT + 70 * k}" y="{_HEIGHT - 12}" fill="{_COLOURS[label]}">{label}</text>')
    return f'<g transform="translate({x} 0)">{"".join(parts)}</g>'
