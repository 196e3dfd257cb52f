"""README and documents: they build without a warning, their links lead somewhere, their commands are what we have."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from nphm_core.geometry.mesh import Mesh
from nphm_core.io.meshes import write_mesh
from tests.report.gallery_results import ball

REPOSITORY = Path(__file__).parent.parent
PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").rglob("*.md")])
NOTEBOOKS = sorted((REPOSITORY / "docs").rglob("*.ipynb"))
# What stands for the reader's own things.
STAND_INS = {
    "FOLDER": "delivered",
    "path/to/NPHM": "nphm",
    "path/to/flame2023.pkl": "flame.pkl",
    "path/to/head.npz": "head.npz",
    "NAME": "embedded",
}
CLONED = ("nphm_core", "pipelines", "workflow", "benchmarks", "tests", "envs", "Snakefile", "Makefile", "setup.sh")
# A server, and minutes of work; `tests/pipelines` runs them on small models.
ONLY_HELP = ("pipelines.view", "pipelines.template", "pipelines.fit", "pipelines.mesh", "pipelines.demo_scans")
# Left to the machine that the reader sits at.
NOT_RUN = (". .venv/bin/activate", "pip install", "jupyter lab")


def text_of(page: Path) -> str:
    """Give a page's text; of a notebook, without its code."""
    if page.suffix != ".ipynb":
        return page.read_text()
    cells = json.loads(page.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def commands_of(page: Path) -> Iterator[str]:
    """Give the commands in a page's blocks without a language, a line each."""
    for block in re.findall(r"^```\n(.*?)^```", text_of(page), flags=re.MULTILINE | re.DOTALL):
        lines = re.sub(r"\\\n\s*", " ", block).splitlines()
        if any(re.match(r"(make|snakemake|python|torchrun|pip|\.) ", line) for line in lines):
            yield from (re.sub(r"\s+#.*$", "", line).strip() for line in lines if line.strip() and line[0] != "#")


# The same command may stand in several pages: once is enough.
COMMANDS = sorted(
    {command: page.name for page in reversed([*PAGES, *NOTEBOOKS]) for command in commands_of(page)}.items()
)


def clone_into(folder: Path) -> None:
    """Give a folder what a clone has, and a config of its own."""
    for name in CLONED:
        (folder / name).symlink_to(REPOSITORY / name)
    shutil.copy(REPOSITORY / "config.yaml", folder)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A clone with a reader's scans in it, and nothing made yet."""
    folder = tmp_path_factory.mktemp("reader")
    clone_into(folder)
    head = ball(2)
    for subject, expression in (("S001", "neutral"), ("S001", "smile"), ("S012", "neutral")):
        write_mesh(folder / "delivered" / subject / f"{expression}.ply", head, {"space": "scan", "unit": ""})
    for number in ("001", "002"):
        write_mesh(folder / "nphm" / "017" / number / "scan.ply", head, {"space": "scan", "unit": ""})
    (folder / "demo").mkdir()
    rows = ["subject\texpression\tneutral\tpath", *(f"s00{k}\tneutral\topen\tx.ply" for k in range(1, 7))]
    (folder / "demo" / "scans.tsv").write_text("\n".join(rows) + "\n")
    for name in ("flame.pkl", "head.npz"):
        (folder / name).write_bytes(b"")
    (folder / "verdicts.tsv").write_text("scan\tverdict\nS001/smile\trejected\n")
    write_mesh(folder / "scan.ply", Mesh(np.zeros((3, 3)), np.array([[0, 1, 2]])), {"space": "scan", "unit": ""})
    run([sys.executable, "-m", "pipelines.init", "delivered", "--out", "scans.tsv"], folder)
    return folder


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "120"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


def rehearse_make(words: list[str], place: Path) -> None:
    """Let make say what it would do, and rehearse what the demo would have Snakemake do."""
    done = run(["make", "--dry-run", f"VENV={sys.prefix}", *words[1:]], place)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        if "/snakemake --cores" in line:
            rehearse_snakemake(["snakemake", *shlex.split(line)[1:]], place)


def rehearse_snakemake(words: list[str], place: Path) -> None:
    """Let Snakemake plan all of it."""
    options = [word for word in words[1:] if word not in ("-n", "--dry-run")]
    done = run([sys.executable, "-m", "snakemake", "--dry-run", *options], place)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def rehearse_python(words: list[str], place: Path) -> None:
    """Run a command as far as it gets without models: it may miss a file, and not know no option."""
    if words[2].startswith("benchmarks.") or words[2] in ONLY_HELP:
        help_text = run([sys.executable, "-m", words[2], "--help"], place)
        assert help_text.returncode == 0, help_text.stderr
        assert [word for word in words[3:] if word.startswith("--") and word not in help_text.stdout] == []
        return
    done = run([sys.executable, *words[1:]], place)
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "page"), COMMANDS, ids=[f"{page}: {command[:60]}" for command, page in COMMANDS])
def test_a_command_that_is_told_works_as_told(command, page, place):
    if command.startswith(NOT_RUN):
        return
    # Placeholders in upper case, such as MODEL, are named in the page; options in brackets may be left out.
    text = re.sub(r"\[[^\]]*\]$", "", command)
    for name, stand_in in STAND_INS.items():
        text = re.sub(rf"(?<![\w/]){re.escape(name)}(?![\w])|(?<=/){re.escape(name)}(?![\w.])", stand_in, text)
    words = shlex.split(text)
    if words[0] == "torchrun":
        words = ["python", *words[words.index("-m") :]]
    rehearse = {"make": rehearse_make, "snakemake": rehearse_snakemake, "python": rehearse_python}
    assert words[0] in rehearse, f"what is {words[0]}?"
    rehearse[words[0]]([word for word in words if word != "..."], place)


def test_the_readme_and_the_tutorials_have_commands():
    pages = {page.name for page in PAGES if any(commands_of(page))}
    assert {"README.md", "demo.md", "your-own-scans.md", "judge-scans.md"} <= pages


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        linked = page if not path else (page.parent / path).resolve()
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor and linked.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", linked.read_text(), flags=re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings], target


def test_every_file_that_a_page_names_in_the_repository_exists():
    pattern = r"`((?:nphm_core|pipelines|workflow|benchmarks|tests|docs)/[\w/.-]+\.\w+)`"
    named = {(page.name, path) for page in PAGES for path in re.findall(pattern, page.read_text())}
    assert [(page, path) for page, path in sorted(named) if not (REPOSITORY / path).exists()] == []


@pytest.mark.slow
def test_the_documents_build_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = run(command, REPOSITORY)
    assert done.returncode == 0, done.stderr[-3000:]
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= len(PAGES) - 1 + len(NOTEBOOKS)
    for notebook in NOTEBOOKS:
        page = (tmp_path / "site" / notebook.relative_to(REPOSITORY / "docs")).with_suffix(".html")
        shown = re.findall(r'<img alt="[^"]+" src="([^"]+)"', page.read_text())
        assert len(shown) >= 6
        assert all((page.parent / path).is_file() for path in [*shown, notebook.name])
    text = "".join(page.read_text() for page in pages)
    loaded = re.findall(r'<(?:script|img)[^>]+src="(https?:[^"]+)"', text)
    loaded += re.findall(r'<link rel="stylesheet" href="(https?:[^"]+)"', text)
    assert loaded == [], "the pages must be read without a network"
