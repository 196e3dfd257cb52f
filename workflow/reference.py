"""Write config.yaml, its schema and its reference page from the settings' own descriptions.

`python -m workflow.reference` writes all three in the repository; a test fails when one of them differs.
"""

import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nphm_core.config import Config, Section

_WIDTH = 118
_LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
}


def config_yaml() -> str:
    """Give config.yaml: every key with its default, under its description."""
    lines = ["# What a user may change, with the defaults. Delete a key to keep its default; unknown keys are errors."]
    lines += ["# Written by `python -m workflow.reference` from nphm_core/config.py.", ""]
    return "\n".join([*lines, *_yaml(Config())]) + "\n"


def config_schema() -> str:
    """Give the JSON schema of config.yaml, for editors that complete and check it."""
    return json.dumps(Config.model_json_schema(), indent=2) + "\n"


def config_page() -> str:
    """Give the reference page of the settings."""
    lines = ["# Settings", "", "Written by `python -m workflow.reference` from `nphm_core/config.py`.", ""]
    lines += ["## The whole run", "", *_table(Config()), *_pages(Config(), "")]
    return "\n".join(lines) + "\n"


DOCUMENTS = {
    "config.yaml": config_yaml,
    "workflow/schemas/config.schema.json": config_schema,
    "docs/reference/config.md": config_page,
}
"""What is written from the settings, by path in the repository."""


def _entries(section: Section) -> Iterator[tuple[str, Any, str]]:
    for name, field in type(section).model_fields.items():
        yield name, getattr(section, name), field.description or ""


def _yaml(section: Section) -> list[str]:
    lines = []
    for name, value, description in _entries(section):
        if isinstance(value, Section):
            inner = [f"  {line}" if line else "" for line in _yaml(value)]
            lines += ["", *_comment((type(value).__doc__ or "").strip()), f"{name}:", *inner]
        else:
            lines += _key(name, value, description)
    return lines


def _pages(section: Section, prefix: str) -> list[str]:
    lines = []
    for name, value, _ in _entries(section):
        if isinstance(value, Section):
            lines += ["", f"## `{prefix}{name}`", "", (type(value).__doc__ or "").strip(), "", *_table(value)]
            lines += _pages(value, f"{prefix}{name}.")
    return lines


def _key(name: str, value: Any, description: str) -> list[str]:
    # JSON is YAML; plain strings read better without quotes, and these are safe without.
    text = value if isinstance(value, str) and value else json.dumps(value)
    return [*_comment(description), f"{name}: {text}"]


def _comment(text: str) -> list[str]:
    # Room for two levels of indentation.
    return textwrap.wrap(text, _WIDTH - 2, initial_indent="# ", subsequent_indent="# ")


def _table(section: Section) -> list[str]:
    properties = type(section).model_json_schema()["properties"]
    rows = ["| key | default | allowed | meaning |", "|---|---|---|---|"]
    for name, value, description in _entries(section):
        if not isinstance(value, Section):
            rows.append(f"| `{name}` | `{json.dumps(value)}` | {_allowed(properties[name])} | {description} |")
    return rows


def _allowed(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    limits = [text.format(schema[key]) for key, text in _LIMITS.items() if key in schema]
    return ", ".join([{"array": "list"}.get(schema.get("type", ""), schema.get("type", "")), *limits])


def main() -> int:
    """Write the documents into the repository."""
    root = Path(__file__).parent.parent
    for name, text in DOCUMENTS.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
