"""Text and marks on pictures."""

import numpy as np

from nphm_core.report.sheet import Sheet, printable, text_width, with_marks, wrapped


def test_wrapped_lines_fit_and_lose_no_word():
    text = "the median distance on the face is 0.31 mm, above 0.2 mm (evaluate.max_median_mm)\nand a second line"
    lines = wrapped(text, 15, 220)
    assert all(text_width(line, 15) <= 220 for line in lines)
    assert " ".join(lines).split() == text.split()


def test_words_longer_than_the_line_are_cut():
    path = "/results/" + "scan" * 40
    lines = wrapped(f"file {path}", 15, 120)
    assert all(text_width(line, 15) <= 120 for line in lines)
    assert "".join(lines) == f"file{path}"


def test_signs_that_the_font_lacks_are_spelt():
    assert printable("a → b ≥ 3 — 日") == "a -> b > 3 - ?"


def test_a_paragraph_stops_at_its_last_line():
    page = Sheet(200, 400)
    assert page.paragraph(0, 0, "word " * 200, 15, 180, max_lines=3) == 3 * 20


def test_a_mark_is_drawn_where_its_landmark_is():
    tile = np.full((60, 80, 3), 255, np.uint8)
    at = np.array([[20.5, 30.5]])
    out = with_marks(tile, at, at, np.array([[20, 110, 200]], np.uint8), radius=3)
    changed = np.argwhere((out != tile).any(2))
    assert np.abs(changed.mean(0) - [30, 20]).max() < 0.6
    assert (out[30, 20] == [20, 110, 200]).all()
