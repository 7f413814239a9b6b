"""What may be compiled is written so that compiling it changes nothing. See docs/decisions/0014-compiled-hot-path.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
HOT: Final = tuple(re.findall(r'^    "(.+\.py)",$', (ROOT / "setup.py").read_text(), re.MULTILINE))
HARMLESS: Final = frozenset({"len", "min", "max"})
"""Calls that may be made twice."""
KEYWORDS: Final = frozenset({"thread", "signed", "const", "volatile", "inline", "restrict", "asm", "typeof", "complex"})
"""With two underscores before, keywords of the C compiler; one of them is put there by mypyc."""


def test_the_list_names_modules_that_are_there() -> None:
    assert len(HOT) > 10
    assert [path for path in HOT if not (ROOT / path).is_file()] == []


@pytest.mark.parametrize("path", HOT)
def test_no_bound_of_a_slice_does_anything(path: str) -> None:
    """mypyc makes such a call twice where the sliced value is a memoryview, as once a response's head was sent twice."""
    bounds = [
        bound
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, ast.Slice)
        for bound in (node.lower, node.upper, node.step)
        if bound is not None
    ]
    calls = [node for bound in bounds for node in ast.walk(bound) if isinstance(node, ast.Call)]
    assert [ast.unparse(call) for call in calls if ast.unparse(call.func) not in HARMLESS] == []


@pytest.mark.parametrize("path", HOT)
def test_no_attribute_is_a_keyword_of_c(path: str) -> None:
    named = {node.attr for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.Attribute)}
    assert named & {f"_{keyword}" for keyword in KEYWORDS} == set()


def _waits(body: list[ast.stmt]) -> list[ast.AST]:
    """Where a function's statements may be suspended, those of functions inside it left out."""
    found: list[ast.AST] = []
    todo: list[ast.AST] = list(body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.Await | ast.Yield | ast.YieldFrom | ast.AsyncFor | ast.AsyncWith):
            found.append(node)
        todo.extend(ast.iter_child_nodes(node))
    return found


@pytest.mark.parametrize("path", HOT)
def test_nothing_is_awaited_while_an_exception_is_handled(path: str) -> None:
    """A compiled coroutine has no state of exceptions of its own: suspended there, it leaves its exception to the whole thread
    as the one being handled, and whoever else is will be given back another's."""
    tries = [node for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.Try)]
    bodies = [handler.body for node in tries for handler in node.handlers] + [node.finalbody for node in tries]
    assert [ast.unparse(wait) for body in bodies for wait in _waits(body)] == []
