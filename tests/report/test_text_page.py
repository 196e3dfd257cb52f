"""Tables and texts as pages that open by themselves."""

import re

from nphm_core.report.text_page import table_page, text_page

ROWS = [
    {"scan": "a/<x>", "median_mm": "0.125", "reason": "", "sha256": "0123456789abcdef" * 4},
    {"scan": "b/y", "median_mm": "", "reason": "", "sha256": ""},
]


def test_a_table_has_every_row_and_each_column_that_says_something():
    page = table_page("Summary", ROWS)
    assert re.findall(r"<th>(.*?)</th>", page) == ["scan", "median_mm", "sha256"]
    assert page.count("<tr>") == 3
    assert "<h1>Summary</h1>" in page
    assert "<script" not in page
    assert "http" not in page


def test_what_a_cell_holds_is_text_and_no_markup():
    assert "<td class=short>a/&lt;x&gt;</td>" in table_page("Summary", ROWS)
    assert "<x>" not in table_page("<x>", ROWS)


def test_numbers_stand_right_and_digests_are_cut_short():
    page = table_page("Summary", ROWS)
    assert "<td class=number>0.125</td>" in page
    assert f'<td title="{ROWS[0]["sha256"]}">01234567…</td>' in page


def test_long_names_of_columns_break_at_their_dots():
    assert "<th>surface.<br>face.<br>l1_mm</th>" in table_page("Fits", [{"surface.face.l1_mm": "1"}])


def test_an_empty_table_says_so():
    assert "No rows." in table_page("Summary", [])


def test_a_text_keeps_its_headings_and_paragraphs():
    page = text_page("Methods", "# Methods\n\n6 scans, a < b.\n\nSecond [@key].\n")
    assert "<h1>Methods</h1>" in page
    assert "<p>6 scans, a &lt; b.</p>" in page
    assert "<p>Second [@key].</p>" in page
