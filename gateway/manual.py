"""The generated parts of the manual: tables made from the rows of the settings and the metrics.

`python -m gateway.manual docs/OPERATIONS.md` writes them between their marker lines again; a test fails when they are stale.

Owns nothing. Does not know what the rows mean. Kind: pure, but for `main`, which rewrites the file it is given.
Spec: docs/OPERATIONS.md.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from gateway import metrics
from gateway.config import POOL_DEFAULTS, POOL_SETTINGS, SETTINGS, Known, format_value


def settings_tables() -> str:
    """A heading and a table a section, then where the two default pools differ."""
    sections: dict[str, list[Known]] = {}
    for known in (*SETTINGS.values(), *POOL_SETTINGS.values()):
        sections.setdefault(known.row.section, []).append(known)
    lines: list[str] = []
    for section, rows in sections.items():
        lines += [
            f"### {section}",
            "",
            "| setting | value | default | meaning | why this default |",
            "|---|---|---|---|---|",
        ]
        lines += ["| " + " | ".join(_cells(known)) + " |" for known in rows]
        lines.append("")
    lines += ["Where the pools that are always there differ from these defaults:", ""]
    for name, fields in POOL_DEFAULTS.items():
        shown = [f"`{field}` = `{format_value(POOL_SETTINGS[field], value)}`" for field, value in fields.items()]
        lines.append(f"- `{name}`: {', '.join(shown) or 'nowhere'}")
    return "\n".join(lines)


def _cells(known: Known) -> tuple[str, ...]:
    default = format_value(known, known.default)
    texts = (
        f"`{known.path}`",
        f"`{known.row.form}`",
        f"`{default}`" if default else "none",
        known.row.help,
        known.row.reason or "-",
    )
    return tuple(text.replace("|", "\\|") for text in texts)


BLOCKS: Final[Mapping[str, Callable[[], str]]] = {"settings": settings_tables, "metrics": metrics.markdown}


def renewed(text: str) -> str:
    """The text with each block between `<!-- NAME -->` and `<!-- end of NAME -->` made again. Raises ValueError."""
    for name, make in BLOCKS.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        if len(pattern.findall(text)) != 1:
            raise ValueError(f"the text must have one block {name}")
        text = pattern.sub(lambda match, make=make: f"{match[1]}\n{make()}\n\n{match[2]}", text)  # type: ignore[misc]
    return text


def main(path: str) -> None:
    """Rewrites the blocks of one file."""
    file = Path(path)
    file.write_text(renewed(file.read_text()))


if __name__ == "__main__":
    main(sys.argv[1])
