"""The colours of error maps: pale for small, dark for large, lightness falling evenly.

Interpolated between few anchors in OKLab (Ottosson 2020), where equal steps look equally large, also to people who
do not see hues and in print.
"""

from functools import cache

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

UNSEEN = np.array([186, 190, 196], np.uint8)
"""Vertices that were not measured."""

# Lightness, chroma and hue in degrees: cream, orange, rose, magenta, violet.
_ANCHORS = np.array([[0.95, 0.045, 105], [0.83, 0.120, 75], [0.67, 0.175, 30], [0.48, 0.170, -5], [0.27, 0.120, -50]])
_N_COLOURS = 256


@cache
def error_colours() -> UInt8[ndarray, "256 3"]:
    """Give the map's colours, sRGB, from no error to the largest."""
    lightness, chroma, hue = _ANCHORS.T
    at, anchors_at = np.linspace(0, 1, _N_COLOURS), np.linspace(0, 1, len(_ANCHORS))
    lab = np.stack([lightness, chroma * np.cos(np.radians(hue)), chroma * np.sin(np.radians(hue))], axis=1)
    return _srgb(np.stack([np.interp(at, anchors_at, column) for column in lab.T], axis=1))


def colours_of(values: Float[ndarray, " n"], largest: float) -> UInt8[ndarray, "n 3"]:
    """Give the colours of values from 0 to `largest`; larger ones get the last colour."""
    index = np.clip(np.asarray(values) / largest * (_N_COLOURS - 1), 0, _N_COLOURS - 1)
    return error_colours()[np.round(index).astype(np.int64)]


def _srgb(lab: Float[ndarray, "n 3"]) -> UInt8[ndarray, "n 3"]:
    to_lms = np.array(
        [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.291485548]]
    )
    to_linear = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.707614701],
        ]
    )
    linear = np.clip((lab @ to_lms.T) ** 3 @ to_linear.T, 0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(encoded * 255).astype(np.uint8)
