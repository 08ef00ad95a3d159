"""`Database.peek` is not fenced and takes no lasting lock: what it is used for must not write."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re

import pytest

from podium_scheduler.adapters import sql

_WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE|TRUNCATE|SHARE|pg_advisory\w*)\b")


def _peeks(tree: ast.Module) -> list[ast.AsyncWith]:
    found = [node for node in ast.walk(tree) if isinstance(node, ast.AsyncWith)]
    return [node for node in found if any("peek()" in ast.unparse(item.context_expr) for item in node.items)]


def written_in_peeks(source: str, module: object) -> list[str]:
    """Names of statements of a module that write and are run in a peek, and calls that build such."""
    wrong = []
    for block in _peeks(ast.parse(source)):
        for node in ast.walk(block):
            if isinstance(node, ast.Name) and _WRITES.search(str(getattr(module, node.id, ""))):
                wrong.append(node.id)
            if isinstance(node, ast.Call) and re.search(r"\b(insert|update|delete)\(", ast.unparse(node.func) + "("):
                wrong.append(ast.unparse(node.func))
    return wrong


@pytest.mark.parametrize("name", sorted(module.name for module in pkgutil.iter_modules(sql.__path__)))
def test_peeks_only_read(name: str) -> None:
    spec = importlib.util.find_spec(f"{sql.__name__}.{name}")
    assert spec is not None and spec.origin is not None
    with open(spec.origin, encoding="utf-8") as file:
        source = file.read()
    assert written_in_peeks(source, importlib.import_module(spec.name)) == []


def test_a_write_in_a_peek_is_found() -> None:
    class Module:
        _W = "UPDATE jobs SET state = 'RUNNING'"
        _R = "SELECT 1"

    source = "async def f(self):\n  async with self.pool.peek() as c:\n    await c.execute({})\n"
    assert written_in_peeks(source.format("_W"), Module) == ["_W"]
    assert written_in_peeks(source.format("insert(jobs)"), Module) == ["insert"]
    assert written_in_peeks(source.format("_R"), Module) == []
