"""The manual against the code: generated tables, links, the sections that modules name, the names that prose names."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from gateway import manual
from gateway.config import load
from s3api import extensions
from s3api.operations import TABLE
from tiering import layout

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = sorted(
    [ROOT / "README.md", ROOT / "bench/README.md", ROOT / "clients/README.md", *(ROOT / "docs").rglob("*.md")]
)
SOURCES: Final = sorted(
    path for package in (*manual.PACKAGES, "clients", "bench", "tests") for path in (ROOT / package).rglob("*.py")
)
PACKAGE_SOURCES: Final = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in manual.PACKAGES]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def prose(path: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)


def headings(path: Path) -> list[str]:
    return re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)


def anchor(heading: str) -> str:
    """As the usual renderers make it: lower case, punctuation gone, spaces to dashes."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


# generated parts


@pytest.mark.parametrize("document", sorted(manual.DOCUMENTS))
def test_generated_parts_are_those_of_the_code(document: str) -> None:
    text = (ROOT / "docs" / document).read_text()
    assert text == manual.renewed(text, manual.DOCUMENTS[document]), "run `make docs`"


def test_make_docs_writes_every_document_with_generated_parts() -> None:
    line = re.search(r"-m gateway\.manual (.+)", (ROOT / "Makefile").read_text())
    assert line
    assert sorted(line[1].split()) == sorted(f"docs/{document}" for document in manual.DOCUMENTS)


def test_every_operation_is_in_the_table_once() -> None:
    rows = re.findall(r"^\| (\w+) \| `[A-Z]+ /", manual.operations_tables(), re.MULTILINE)
    assert sorted(rows) == sorted(row.name for row in TABLE)


def test_operations_table_says_served_unset_refused_and_how_it_differs() -> None:
    table = manual.operations_tables()
    assert "| GetBucketLocation | `GET /BUCKET?location` | served | `s3:GetBucketLocation` | - |" in table
    assert "`PUT /BUCKET/KEY?partNumber&uploadId` with `x-amz-copy-source`" in table
    assert "`GET /BUCKET?list-type=2`" in table
    assert "| 404 ReplicationConfigurationNotFoundError: nothing of the kind can be configured |" in table
    assert "| `POST /BUCKET/KEY?select&select-type` | refused: 501 NotImplemented |" in table
    for name, text in manual.DIFFERENCES.items():
        assert re.search(rf"^\| {name} \| .* \| {re.escape(text)} \|$", table, re.MULTILINE), name


def test_errors_table_has_status_retry_and_store_fact() -> None:
    table = manual.errors_table()
    assert "| `PinLimitExceeded` | 507 | - | `PinLimit` |" in table
    assert "| `SlowDown` | 503 | 1 s | `Busy`, `ColdUnavailable` |" in table


def test_modules_table_names_every_module() -> None:
    table = manual.modules_tables()
    for path in PACKAGE_SOURCES:
        if path.read_text().strip():
            assert f"| `{path.relative_to(ROOT / path.relative_to(ROOT).parts[0])}` |" in table, name(path)


# names in prose are names in the code


def links() -> Iterator[tuple[Path, str, str]]:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            if not target.startswith(("http://", "https://")):
                path, _, fragment = target.partition("#")
                yield page, path, fragment


def test_links_lead_to_files_and_headings() -> None:
    wrong = []
    for page, path, fragment in links():
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (fragment and fragment not in map(anchor, headings(there))):
            wrong.append(f"{name(page)}: {path}#{fragment}")
    assert not wrong


def spec_references() -> Iterator[tuple[Path, str, str]]:
    """(module, page, section) wherever a module names a page and a section in quotes, over line breaks too."""
    for path in SOURCES:
        text = re.sub(r"\s+", " ", path.read_text())
        for page, sections in re.findall(r'(docs/[\w/.-]+?\.md),((?:,? ?(?:and )?"[^"]+")+)', text):
            for section in re.findall(r'"([^"]+)"', sections):
                yield path, page, section


def test_modules_name_sections_that_exist() -> None:
    wrong = []
    for path, page, section in spec_references():
        found = [heading.lower() for heading in headings(ROOT / page)] if (ROOT / page).exists() else []
        if section.lower() not in found:
            wrong.append(f'{name(path)}: {page}, "{section}"')
    assert not wrong


def test_modules_name_pages_that_exist() -> None:
    wrong = []
    for path in SOURCES:
        for page in re.findall(r"docs/[\w/-]+\.md", path.read_text()):
            if not (ROOT / page).exists():
                wrong.append(f"{name(path)}: {page}")
    assert not wrong


def test_decisions_that_modules_name_exist() -> None:
    numbers = {path.name[:4] for path in (ROOT / "docs/decisions").glob("*.md")}
    for path in PACKAGE_SOURCES:
        for number in re.findall(r"docs/decisions/(\d{4})", path.read_text()):
            assert number in numbers, f"{name(path)}: decision {number}"


def test_decisions_have_numbers_of_their_own_without_gaps() -> None:
    pages = sorted((ROOT / "docs/decisions").glob("*.md"))
    assert [page.name[:4] for page in pages] == [f"{number:04d}" for number in range(1, len(pages) + 1)]
    for page in pages:
        assert page.read_text().startswith(f"# {int(page.name[:4])}. "), name(page)


def test_names_in_capitals_are_names_of_the_code() -> None:
    """Prose refers to constants by name, so that no number in it can be wrong; the name must be right."""
    words = set(re.findall(r"\w+", "\n".join(path.read_text() for path in PACKAGE_SOURCES)))
    foreign = ("AWS_", "LMCACHE_", "MDB_", "PR_SET_")
    wrong = []
    for page in PAGES:
        if page.parent.name != "bench":
            named = set(re.findall(r"`([A-Z]+_[A-Z_]+)`", prose(page)))
            wrong += [f"{name(page)}: {word}" for word in named - words if not word.startswith(foreign)]
    assert not wrong


def test_format_names_every_database() -> None:
    text = (ROOT / "docs/FORMAT.md").read_text()
    for database in layout.DATABASES:
        assert f"\n| `{database}` |" in text, database


def test_format_says_where_fields_stand_that_others_read() -> None:
    text = (ROOT / "docs/FORMAT.md").read_text()
    rows = re.findall(r"^\| `(\w+Record)` \| (\d+) \| `(\w+)`", text, re.MULTILINE)
    records = {"ObjectRecord": layout.ObjectRecord, "BucketRecord": layout.BucketRecord}
    assert len(rows) == 8
    for record, place, field in rows:
        assert records[record].__struct_fields__[int(place)] == field


def test_extensions_names_every_header_metadata_and_tag() -> None:
    text = (ROOT / "docs/EXTENSIONS.md").read_text()
    for word in (
        extensions.PIN_HEADER,
        extensions.TTL_HEADER,
        extensions.TIER_HEADER,
        extensions.POOL_HEADER,
        extensions.PIN_META,
        extensions.TTL_META,
        extensions.PIN_TAG,
        extensions.TTL_TAG,
        "x-recall-pinned-until",
        "x-recall-expires",
    ):
        assert f"`{word}`" in text, word


def test_extensions_values_are_those_the_parser_takes() -> None:
    table = (ROOT / "docs/EXTENSIONS.md").read_text().split("## Values")[1].split("\n\n")[1]
    readers = {"pin": extensions.parse_pin, "TTL": extensions.parse_ttl}
    seen = 0
    kind = ""
    for first, values in re.findall(r"^\| (\w*) *\| (`.+?) \|", table, re.MULTILINE):
        kind = first or kind
        for value in re.findall(r"`([^`]+)`", values):
            if kind == "tier":
                assert extensions.parse_tier({b"x-recall-tier": value.encode()}) == value
            else:
                readers[kind](value)
            seen += 1
    assert seen == 11


@pytest.mark.parametrize("page", ["README.md", "docs/EXTENSIONS.md", "docs/OPERATIONS.md"])
def test_settings_examples_load(page: str, tmp_path: Path) -> None:
    secrets = {"RECALL_BACKING_ACCESS_KEY": "key", "RECALL_BACKING_SECRET_KEY": "secret"}
    for example in re.findall(r"```toml\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
        if "object" not in tomllib.loads(example):  # another program's
            (tmp_path / "recall.toml").write_text(example)
            load(secrets, file=str(tmp_path / "recall.toml"))


def test_python_examples_compile() -> None:
    found = 0
    for page in PAGES:
        for example in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
            compile(example, name(page), "exec")
            found += 1
    assert found
