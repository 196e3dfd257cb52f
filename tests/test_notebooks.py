"""The notebooks of the tutorials: executed, up to date with the code, and among the pages."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from docs.hooks.notebooks import on_page_markdown, page_of
from docs.run_notebooks import digest, execute, run_cell
from nphm_core.stages import STAGES

REPOSITORY = Path(__file__).parent.parent
TUTORIALS = REPOSITORY / "docs" / "tutorials"
NOTEBOOKS = sorted(TUTORIALS.glob("*.ipynb"))
MAX_BYTES = 1_000_000
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def read(path: Path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell) -> str:
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def test_there_are_two_notebooks():
    assert [path.name for path in NOTEBOOKS] == ["code-space.ipynb", "one-scan.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestCommittedNotebook:
    def test_is_valid_and_small(self, path):
        nbformat.validate(read(path))
        assert path.stat().st_size <= MAX_BYTES

    def test_was_executed_in_order_as_it_stands(self, path):
        notebook = read(path)
        cells = code_cells(notebook)
        assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
        assert notebook.metadata.get("executed_sha256") == digest(notebook), "run `make notebooks`"

    def test_shows_pictures_and_no_error(self, path):
        outputs = [output for cell in code_cells(read(path)) for output in cell.outputs]
        assert {output.output_type for output in outputs} <= {"stream", "execute_result"}
        assert {output.name for output in outputs if output.output_type == "stream"} <= {"stdout"}
        assert sum("image/jpeg" in output.get("data", {}) for output in outputs) >= 6
        assert all(cell.outputs for cell in code_cells(read(path)))

    def test_names_no_place_of_a_machine(self, path):
        text = re.sub(r'"image/jpeg": "[^"]*"', "", path.read_text())
        assert re.findall(r"(?<![\w.])/(?:home|root|tmp|var|work|mnt|opt|Users)\b", text) == []
        assert re.findall(r"0x[0-9a-f]{6,}", text) == []

    def test_is_a_page_of_the_documents(self, path):
        # Without the loader's tags of Python, which mkdocs.yml has none of.
        nav = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())["nav"]
        assert f"tutorials/{path.stem}.md" in json.dumps(nav)
        for page in (REPOSITORY / "README.md", REPOSITORY / "docs" / "index.md"):
            assert f"tutorials/{path.name})" in page.read_text()

    def test_links_lead_somewhere(self, path):
        text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
        targets = re.findall(r"\]\(([^)\s]+)\)", text)
        assert targets
        assert [target for target in targets if not (path.parent / target).exists()] == []


def test_the_scan_goes_through_every_stage_up_to_its_picture():
    text = "".join(cell.source for cell in code_cells(read(TUTORIALS / "one-scan.ipynb")))
    wanted = [name for name in STAGES if name not in ("watertight", "sample_sdf", "sample_delta")]
    assert wanted[-1] == "evaluate"
    assert [name for name in wanted if f"config.{name}" not in text] == []


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_still_gives_what_it_shows(path, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    # Without its outputs, so that nothing of them can pass through.
    bare, shown = read(path), code_cells(read(path))
    for cell in code_cells(bare):
        cell.outputs = []
    nbformat.write(bare, tmp_path / path.name)
    command = [sys.executable, "-m", "docs.run_notebooks", str(tmp_path / path.name)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    for was, now in zip(shown, code_cells(read(tmp_path / path.name)), strict=True):
        assert [sorted(output.get("data", {})) for output in was.outputs] == [
            sorted(output.get("data", {})) for output in now.outputs
        ]
        assert _NUMBER.sub("#", printed(was)) == _NUMBER.sub("#", printed(now))
        # Another machine rounds otherwise and may draw with another renderer.
        for old, new in zip(_NUMBER.findall(printed(was)), _NUMBER.findall(printed(now)), strict=True):
            assert math.isclose(float(old), float(new), rel_tol=0.25, abs_tol=0.02), printed(now)


class TestExecution:
    def test_keeps_what_is_printed_and_the_last_value(self):
        outputs = run_cell("x = 2\nprint('two')\nx + 1", {}, 4)
        assert [output.output_type for output in outputs] == ["stream", "execute_result"]
        assert outputs[0].text == "two\n"
        assert outputs[1].data == {"text/plain": "3"}
        assert outputs[1].execution_count == 4

    @pytest.mark.parametrize("source", ["", "y = 1", "None"])
    def test_shows_nothing_where_there_is_nothing_to_show(self, source):
        assert run_cell(source, {}, 1) == []

    def test_keeps_pictures_as_jpeg(self):
        source = "from PIL import Image\nImage.new('RGB', (4, 3))"
        (output,) = run_cell(source, {}, 1)
        assert sorted(output.data) == ["image/jpeg", "text/plain"]
        assert " at 0x" not in output.data["text/plain"]

    def test_cells_share_their_names_and_nothing_of_an_earlier_run(self):
        notebook = new_notebook(cells=[new_code_cell("x = 1"), new_markdown_cell("text"), new_code_cell("x + 1")])
        execute(notebook)
        assert notebook.cells[2].outputs[0].data["text/plain"] == "2"
        notebook.cells[0].source = ""
        with pytest.raises(NameError) as caught:
            execute(notebook)
        assert caught.value.__notes__ == ["in code cell 2"]

    def test_a_changed_cell_changes_the_digest_and_a_changed_text_does_not(self):
        notebook = new_notebook(cells=[new_markdown_cell("a"), new_code_cell("1")])
        before = digest(notebook)
        notebook.cells[0].source = "b"
        assert digest(notebook) == before
        notebook.cells[1].source = "2"
        assert digest(notebook) != before


class TestPage:
    def test_has_text_code_output_and_pictures(self):
        picture = run_cell("from PIL import Image\nImage.new('RGB', (4, 3))", {}, 1)
        code = new_code_cell("draw()", outputs=[new_output("stream", name="stdout", text="drawn\n"), *picture])
        cells = [new_markdown_cell("# Title\n\nHello."), new_markdown_cell("## Heads"), code]
        text, pictures = page_of(json.loads(nbformat.writes(new_notebook(cells=cells))), "walk")
        assert text.startswith("# Title\n\nHello.\n\n")
        assert '<a href="walk.ipynb" download>' in text
        assert "```python\ndraw()\n```" in text
        assert '```text title="output"\ndrawn\n```' in text
        assert "![Heads](walk/picture-1.jpg)" in text
        assert list(pictures) == ["picture-1.jpg"]
        assert pictures["picture-1.jpg"].startswith(b"\xff\xd8")

    def test_links_to_notebooks_lead_to_their_pages(self):
        text = "[a](walk.ipynb), [b](../x/walk.ipynb#heads), [c](https://there.org/walk.ipynb), [d](walk.md)"
        there = "[a](walk.md), [b](../x/walk.md#heads), [c](https://there.org/walk.ipynb), [d](walk.md)"
        assert on_page_markdown(text, page=None) == there
