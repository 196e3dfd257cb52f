"""The colours of error maps."""

import numpy as np

from nphm_core.report.colour_map import UNSEEN, colours_of, error_colours


def _lightness(colours: np.ndarray) -> np.ndarray:
    """CIE L* of sRGB."""
    c = colours / 255.0
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    y = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(y > 216 / 24389, 116 * np.cbrt(y) - 16, 24389 / 27 * y)


def test_lightness_falls_evenly():
    lightness = _lightness(error_colours())
    step = -np.diff(lightness[::16])
    assert (step > 0).all()
    assert step.max() < 1.8 * step.min()


def test_values_beyond_the_end_get_the_last_colour():
    colours = colours_of(np.array([0.0, 0.5, 7.0]), 0.5)
    assert (colours[0] == error_colours()[0]).all()
    assert (colours[1:] == error_colours()[-1]).all()


def test_unseen_is_no_colour_of_the_map():
    assert np.abs(error_colours().astype(int) - UNSEEN.astype(int)).max(1).min() > 25
