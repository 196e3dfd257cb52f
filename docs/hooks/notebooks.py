"""Make a page of each executed notebook: its text, its code and what came of it, without a plugin or a kernel.

`tutorials/NAME.ipynb` becomes the page `tutorials/NAME.md`, with its pictures in `tutorials/NAME/`; the notebook itself
lies beside it for download. Links to notebooks, from any page, lead to their pages.
"""

import base64
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

SUFFIX = ".ipynb"
_LINK = re.compile(r"(\]\([^)\s:]+)\.ipynb(?=[)#])")
_HEADING = re.compile(r"^#+ (.+)$", flags=re.MULTILINE)


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the pages and their pictures."""
    for file in [file for file in files if file.src_uri.endswith(SUFFIX)]:
        stem = file.src_uri.removesuffix(SUFFIX)
        page, pictures = page_of(json.loads(Path(file.abs_src_path).read_text()), Path(stem).name)
        files.append(File.generated(config, f"{stem}.md", content=page))
        for name, data in pictures.items():
            files.append(File.generated(config, f"{stem}/{name}", content=data))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links to notebooks lead to their pages."""
    return _LINK.sub(r"\1.md", markdown)


def page_of(notebook: dict[str, Any], name: str) -> tuple[str, dict[str, bytes]]:
    """Give the Markdown of a notebook, and its pictures by file name."""
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    heading = name
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            heading = next(iter(_HEADING.findall(source)[::-1]), heading)
            parts.append(source)
            if len(parts) == 1:
                parts.append(f'<a href="{name}{SUFFIX}" download>This page as a notebook</a>')
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/jpeg" in data:
                file = f"picture-{len(pictures) + 1}.jpg"
                pictures[file] = base64.b64decode("".join(data["image/jpeg"]))
                parts.append(f"![{heading}]({name}/{file})")
            else:
                text = "".join(output.get("text", data.get("text/plain", "")))
                parts.append(f'```text title="output"\n{text.rstrip()}\n```')
    return "\n\n".join(parts) + "\n", pictures
