"""The gallery in a headless Chromium, from a disk: what a person does with it, and whether everyone can."""

import io
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from nphm_core.io.scan_table import read_scan_table
from nphm_core.io.verdicts import read_verdicts
from nphm_core.report.gallery import Gallery, write_gallery
from nphm_core.stages import STAGES
from pipelines.report import gallery_scans
from tests.browser import chromium, page_of
from tests.report.gallery_results import ball, scan_ids_of, write_scan, write_table

pytestmark = pytest.mark.slow

IDS = scan_ids_of(4, 5)
FAILED = "s002/smile"
CARD = "#cards .card"
PAGES = {
    "list": ("index.html", CARD),
    "scan": ("index.html#/scan/s003/smile", ".scan-page"),
    "failed": (f"index.html#/scan/{FAILED}", ".scan-page"),
    "subjects": ("index.html#/subjects", "#page table"),
    "subject": ("index.html#/subject/s003", "#page .card"),
    "distributions": ("index.html#/distributions", ".metric"),
    "3D": ("view.html#s003/smile", "html[data-ready]"),
}


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """A gallery in a folder of its own, as on a stick: the results are gone."""
    folder = tmp_path_factory.mktemp("gallery")
    rng, head = np.random.default_rng(0), ball()
    for k, scan_id in enumerate(IDS):
        write_scan(folder / "results", scan_id, rng, head, None if scan_id == FAILED else 0.05 + 0.07 * k)
    write_table(folder / "scans.tsv", IDS)
    scans = gallery_scans(read_scan_table(folder / "scans.tsv"), folder / "results")
    write_gallery(folder / "stick", Gallery("test heads", "test", scans, tuple(STAGES), {}, head.faces, 0.5))
    shutil.rmtree(folder / "results")
    return folder / "stick"


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser, gallery):
    with page_of(browser, gallery) as page:
        page.open("index.html", CARD)
        yield page
        assert page.troubles == []


def shown(page) -> list[str]:
    return page.page.eval_on_selector_all(CARD, "cards => cards.map(card => card.dataset.id)")


def press(page, *keys: str) -> None:
    for key in keys:
        page.page.keyboard.press(key)


@pytest.mark.parametrize(("scheme", "width", "other_width"), [("light", 1400, 390), ("dark", 390, 1400)])
def test_every_page_is_quiet_accessible_and_fits(browser, gallery, scheme, width, other_width):
    with page_of(browser, gallery, scheme=scheme, width=width) as page:
        for name, (address, ready) in PAGES.items():
            page.open(address, ready)
            assert page.axe() == [], name
            assert not page.is_wider_than_the_screen(), name
            page.page.set_viewport_size({"width": other_width, "height": 900})
            assert not page.is_wider_than_the_screen(), name
            page.page.set_viewport_size({"width": width, "height": 900})
        assert page.troubles == []


def test_the_worst_scan_comes_first(page):
    first = shown(page)
    assert first[0] == FAILED
    assert len(first) == len(IDS)
    # The numbers rise with the scans' order, so that they fall in the gallery.
    assert first[1:] == [scan_id for scan_id in reversed(IDS) if scan_id != FAILED]


def test_scans_can_be_sorted_by_the_table_and_by_any_stages_number(page):
    page.page.select_option("#sort", "p95_mm:best")
    assert shown(page)[0] == IDS[0]
    assert shown(page)[-1] == FAILED, "without a number last, either way"
    page.page.select_option("#sort", "flame_fit.residual_mm:worst")
    page.page.wait_for_selector("text=residual:")
    texts = page.page.eval_on_selector_all(CARD, "cards => cards.map(card => card.innerText)")
    values = [float(re.search(r"residual: ([\d.]+) mm", text)[1]) for text in texts]
    assert values == sorted(values, reverse=True)
    page.page.select_option("#sort", "id")
    assert shown(page) == sorted(IDS)


def test_search_and_filters_narrow_the_list(page):
    page.page.fill("#search", "s003 smi")
    assert shown(page) == ["s003/smile"]
    assert "1 of 20" in page.page.inner_text("#count")
    page.page.click("#clear")
    page.page.wait_for_function("document.querySelectorAll('#cards .card').length === 20")
    page.page.select_option("#stage", "landmarks")
    assert shown(page) == [FAILED]
    page.page.select_option("#stage", "")
    page.page.select_option("#verdict", "suspicious")
    suspicious = shown(page)
    assert suspicious == list(reversed(IDS[14:]))
    page.page.select_option("#verdict", "")
    kind = page.page.locator("#reason option", has_text="percentile of the distance").get_attribute("value")
    page.page.select_option("#reason", kind)
    assert shown(page) == suspicious


def test_two_scans_are_rejected_by_keyboard_and_downloaded(page, tmp_path):
    press(page, "ArrowRight", "x", "ArrowRight", "ArrowRight", "x", "n")
    page.page.fill("#note-text", 'hair\tover "the" brow')
    press(page, "Enter", "ArrowRight", "a", "ArrowRight", "x", "u")
    order = shown(page)
    assert "1 accepted, 2 rejected" in page.page.inner_text("#judged")
    with page.page.expect_download() as download:
        page.page.click("#download")
    assert download.value.suggested_filename == "verdicts.tsv"
    download.value.save_as(tmp_path / "verdicts.tsv")
    said = {verdict.scan_id: verdict for verdict in read_verdicts(tmp_path / "verdicts.tsv")}
    assert {scan: verdict.verdict for scan, verdict in said.items()} == {
        order[0]: "rejected",
        order[2]: "rejected",
        order[3]: "accepted",
    }
    assert said[order[2]].note == 'hair over "the" brow'
    assert all(re.fullmatch("[0-9a-f]{12}", verdict.result) for verdict in said.values())
    page.open("index.html", CARD)
    assert "1 accepted, 2 rejected" in page.page.inner_text("#judged"), "kept by the browser"
    page.page.select_option("#hand", "rejected")
    assert shown(page) == [order[0], order[2]]


def test_verdicts_that_were_downloaded_can_be_loaded(page):
    text = b"scan\tverdict\tnote\tresult\ns001/smile\trejected\twrong person\tother\n"
    page.page.set_input_files("#upload", {"name": "verdicts.tsv", "mimeType": "text/plain", "buffer": text})
    page.page.wait_for_selector("text=1 rejected")
    page.page.select_option("#hand", "changed")
    assert shown(page) == ["s001/smile"], "another result was judged"
    assert "wrong person" in page.page.inner_text(CARD)


def test_a_scan_is_opened_judged_and_left_by_keyboard(page):
    press(page, "ArrowRight", "ArrowRight", "Enter")
    page.page.wait_for_selector(".scan-page")
    opened = page.page.inner_text(".scan-page h2")
    assert opened.startswith(shown(page)[1])
    assert page.page.locator(".tile").count() == 11
    assert "left ear" in page.page.inner_text(".tables")
    press(page, "x")
    page.page.wait_for_selector(".scan-page .judge.rejected[aria-pressed=true]")
    press(page, "ArrowRight")
    page.page.wait_for_selector(f".scan-page h2:has-text('{shown(page)[2].split('/')[1]}')")
    press(page, "Escape")
    page.page.wait_for_selector("#list:not([hidden])")
    assert page.page.evaluate("document.activeElement.dataset.id") == shown(page)[2]
    assert page.page.locator(".card.rejected").count() == 1


def test_one_click_opens_a_head_that_turns(page):
    page.open("index.html#/scan/s003/smile", ".scan-page")
    page.page.click("text=3D view")
    page.page.wait_for_selector("html[data-ready]")
    canvas = page.page.locator("#canvas")

    def picture() -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(canvas.screenshot())).convert("RGB"), int)

    first = picture()
    # A ball in the middle on the page's own colour.
    middle, corner = first[first.shape[0] // 2, first.shape[1] // 2], first[12, 12]
    assert np.abs(middle - corner).max() > 20
    press(page, "ArrowUp", "ArrowUp", "ArrowUp")
    assert np.abs(picture() - first).max() > 20
    press(page, "r")
    assert np.abs(picture() - first).max() <= 2
    page.page.check("input[value=scan]")
    assert np.abs(picture() - first).max() > 20
    assert not page.page.is_visible("#legend")


def test_a_scan_without_a_3d_view_says_so(page):
    page.open(f"view.html#{FAILED}", "text=There is no 3D view of this scan.")
    # The browser tells of the missing file itself.
    page.troubles.clear()
