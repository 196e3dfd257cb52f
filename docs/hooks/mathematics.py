"""Turn TeX between `$$` into MathML, which browsers show by themselves: the pages load nothing from a network."""

import re
from typing import Any

from latex2mathml.converter import convert

_BLOCK = re.compile(r"^\$\$\n(.+?)\n\$\$$", flags=re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<![\w$\\`])\$(?![\s$])([^$\n`]+?)(?<!\s)\$(?![\w$])")
_CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", flags=re.MULTILINE | re.DOTALL)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace the formulae of one page."""
    if "$" not in markdown:
        return markdown
    parts = _CODE.split(markdown)
    # Every second part is code, where a dollar is a dollar.
    return "".join(part if k % 2 else _with_formulae(part) for k, part in enumerate(parts))


def _with_formulae(text: str) -> str:
    text = _BLOCK.sub(lambda found: f"<p>{convert(' '.join(found[1].split()), display='block')}</p>", text)
    return _INLINE.sub(lambda found: convert(found[1]), text)
