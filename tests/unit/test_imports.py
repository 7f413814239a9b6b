"""The layout of the source, read from the source: which way imports go, who imports what, and the first lines of modules."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("gateway", "s3api", "tiering")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MODULES = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in SOURCES}
KINDS = ("table", "pure", "owner", "shell", "protocol", "value types", "composition", "duty")

ALLOWED = {
    "tiering": ("tiering",),
    "s3api": ("s3api", "tiering.contract"),
    "gateway.http": ("gateway.http", "s3api.message", "tiering.contract"),
    "gateway": ("gateway", "s3api", "tiering"),
}
"""The longest matching prefix counts. gateway.http also sees the body types of tiering.contract that message.py names."""

ONLY_IN = {
    "lmdb": ("tiering.index", "tiering.pages"),
    "minio": ("tiering.backing.minio",),
    "aiohttp": ("gateway.webhook",),
    "awscrt": ("tiering", "s3api.checksums"),
    "httptools": ("gateway.http", "tiering.backing.http"),
    "prometheus_client": ("gateway.metrics", "gateway.commands"),
    "uvloop": ("gateway",),
    "cryptography": ("s3api.sealing", "gateway.tls"),
}
"""A library that is imported in one place can be replaced in one place."""


def imports(tree: ast.Module, module: str) -> Iterator[str]:
    """Every imported module by its full name; `from a import b` as `a.b`, which may be a module or a name in one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are written absolutely"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def layer(module: str) -> str:
    return max((package for package in ALLOWED if within(module, package)), key=len)


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def wrong_imports(tree: ast.Module, module: str) -> list[str]:
    """What a module may not import: against the direction, or a library that has its one place elsewhere."""
    allowed = ALLOWED[layer(module)]
    wrong = []
    for name in imports(tree, module):
        if name.partition(".")[0] in PACKAGES and not any(within(name, package) for package in allowed):
            wrong.append(name)
        places = ONLY_IN.get(name.partition(".")[0])
        if places and not any(within(module, place) for place in places):
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: MODULES[path])
def test_imports_go_one_way(path: Path) -> None:
    assert wrong_imports(parsed(path), MODULES[path]) == []


def test_clients_of_other_servers_are_loaded_only_where_they_are_used() -> None:
    # With them each process starts a third more slowly and has 14 MiB more.
    asked = "import sys, gateway.keeper, gateway.worker; print(sorted({'aiohttp', 'minio', 'urllib3'} & sys.modules.keys()))"
    loaded = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=True)
    assert loaded.stdout == "[]\n"


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("tiering.pool", "import s3api.errors", ["s3api.errors"]),
        ("tiering.pool", "from gateway import config", ["gateway.config"]),
        ("s3api.xml", "from tiering import pool", ["tiering.pool"]),
        ("s3api.xml", "from tiering import contract", []),
        ("s3api.xml", "from tiering.contract import Ttl", []),
        ("s3api.xml", "def f():\n    import gateway.log", ["gateway.log"]),
        ("gateway.http.flow", "from s3api import call", ["s3api.call"]),
        ("gateway.http.flow", "from gateway import config", ["gateway.config"]),
        ("gateway.worker", "import tiering.pool, s3api.call, gateway.http.flow", []),
        ("gateway.worker", "import lmdb", ["lmdb"]),
    ],
)
def test_wrong_imports_are_found(module: str, source: str, wrong: list[str]) -> None:
    assert wrong_imports(ast.parse(source), module) == wrong


@pytest.mark.parametrize(
    "path",
    [path for path in SOURCES if path.name != "__init__.py" or path.stat().st_size],
    ids=lambda path: MODULES[path],
)
def test_modules_say_what_they_are(path: Path) -> None:
    said = ast.get_docstring(parsed(path)) or ""
    assert said, "a module begins with a docstring"
    kind = said.partition("Kind:")[2].lower()
    assert any(word in kind for word in KINDS), f"the docstring says its kind: one of {', '.join(KINDS)}"


def test_no_module_is_named_after_nothing() -> None:
    vague = {"utils", "helpers", "common", "base", "manager", "misc"}
    assert not [MODULES[path] for path in SOURCES if path.stem in vague]


def test_there_are_sources() -> None:
    assert {MODULES[path].partition(".")[0] for path in SOURCES} == set(PACKAGES)
