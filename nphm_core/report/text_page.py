"""Tables, short texts and pictures as pages of HTML that open by themselves.

Snakemake's report shows pages; tables and texts it would only download, and of a picture larger than the window it
would hide the top and the left.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape

_DIGEST = re.compile(r"[0-9a-f]{40,}")
_N_DIGEST = 8
_MAX_SHORT = 40
_NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?|nan|inf")
_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; color: #20242a; background: #fff; margin: 16px; }
h1 { font-size: 20px; } p { max-width: 46em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 10px; border-bottom: 1px solid #dadde1; text-align: left; vertical-align: top; max-width: 36em; }
th { position: sticky; top: 0; background: #f2f4f6; vertical-align: bottom; }
td.number { text-align: right; }
td.short, td.number { white-space: nowrap; }
"""


def table_page(title: str, rows: Sequence[Mapping[str, str]]) -> str:
    """Give a page with one table.

    Numbers stand right, digests are cut short, columns without a value are left out.
    """
    names = [name for name in (rows[0] if rows else {}) if any(row[name] for row in rows)]
    header = "".join(f"<th>{escape(name).replace('.', '.<br>')}</th>" for name in names)
    body = "".join("<tr>" + "".join(map(_cell, (row[name] for name in names))) + "</tr>\n" for row in rows)
    table = f"<table><thead><tr>{header}</tr></thead>\n<tbody>\n{body}</tbody></table>" if rows else "<p>No rows.</p>"
    return _page(title, f"<h1>{escape(title)}</h1>\n{table}")


def text_page(title: str, markdown: str) -> str:
    """Give a page with headings and paragraphs, all that such a text may have."""
    parts = []
    for part in re.split(r"\n\s*\n", markdown.strip()):
        heading = re.fullmatch(r"(#+) (.+)", part)
        if heading:
            parts.append(f"<h{len(heading[1])}>{escape(heading[2])}</h{len(heading[1])}>")
        else:
            parts.append(f"<p>{escape(part)}</p>")
    return _page(title, "\n".join(parts))


def picture_page(title: str, data: bytes, mime: str) -> str:
    """Give a page with a picture at its own size."""
    encoded = base64.b64encode(data).decode("ascii")
    return _page(title, f'<h1>{escape(title)}</h1>\n<img alt="{escape(title)}" src="data:{mime};base64,{encoded}">')


def _cell(value: str) -> str:
    if _DIGEST.fullmatch(value):
        return f'<td title="{value}">{value[:_N_DIGEST]}…</td>'
    kind = "number" if _NUMBER.fullmatch(value) else "short" if len(value) <= _MAX_SHORT else "text"
    return f"<td class={kind}>{escape(value)}</td>"


def _page(title: str, body: str) -> str:
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )
