"""Execute the notebooks of the tutorials from a fresh state, and keep what their cells give.

    python -m docs.run_notebooks [NOTEBOOK ...] [--out DIR]

Cells run one after the other in one namespace, as Jupyter runs them: what is printed becomes an output, and so does the
value of a last line. Pictures are kept as JPEG, so that a notebook stays small. No kernel and no server is needed, and
nothing of a notebook's text is changed. About two minutes on one core.
"""

import argparse
import ast
import base64
import contextlib
import hashlib
import io
import logging
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_output

log = logging.getLogger("docs.run_notebooks")

TUTORIALS = Path(__file__).parent / "tutorials"


def main(arguments: Sequence[str] | None = None) -> int:
    """Execute notebooks and write them, in place or into another folder."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    log.setLevel(logging.INFO)
    for path in options.notebooks or sorted(TUTORIALS.glob("*.ipynb")):
        started = time.process_time()
        notebook = nbformat.read(path, as_version=4)
        execute(notebook)
        notebook.metadata["executed_sha256"] = digest(notebook)
        out = path if options.out is None else options.out / path.name
        nbformat.write(notebook, out)
        log.info("%s: %.0f CPU seconds, %d KB", out, time.process_time() - started, out.stat().st_size // 1000)
    return 0


def execute(notebook: NotebookNode) -> None:
    """Run all code cells in order and replace their outputs; what a cell raises passes on, with the cell's number."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), start=1):
        try:
            cell.outputs = run_cell(cell.source, namespace, number)
        except Exception as error:
            error.add_note(f"in code cell {number}")
            raise
        cell.execution_count = number


def digest(notebook: NotebookNode) -> str:
    """Give the SHA-256 of all code: a notebook that was changed and not executed again shows by it."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()


def run_cell(source: str, namespace: dict[str, Any], number: int) -> list[NotebookNode]:
    """Run one cell and give what it printed and what its last line is worth."""
    statements = ast.parse(source).body
    last = statements.pop() if statements and isinstance(statements[-1], ast.Expr) else None
    where = f"<cell {number}>"
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        # The cells are this repository's own.
        exec(compile(ast.Module(statements, []), where, "exec"), namespace)  # noqa: S102
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), where, "eval"), namespace)  # noqa: S307
    outputs = [new_output("stream", name="stdout", text=printed.getvalue())] if printed.getvalue() else []
    if value is not None:
        outputs.append(new_output("execute_result", data=_shown(value), metadata={}, execution_count=number))
    return outputs


def _shown(value: Any) -> dict[str, str]:
    """Give a value as Jupyter would show it: a picture, and the text that stands for it."""
    # An object's address differs from run to run.
    text = {"text/plain": re.sub(r" at 0x[0-9A-Fa-f]+", "", repr(value))}
    if hasattr(value, "_repr_jpeg_"):
        return {"image/jpeg": base64.b64encode(value._repr_jpeg_()).decode("ascii")} | text
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m docs.run_notebooks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("notebooks", nargs="*", type=Path, help="some only (default: all of docs/tutorials)")
    parser.add_argument("--out", type=Path, help="folder to write to (default: in place)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
