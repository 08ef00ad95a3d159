"""`make demo`: a whole Podium from nothing, real text in, vectors out, and three questions answered from them.

The text is what every machine with Python has: the docstrings of the standard library. Everything runs in a
folder of its own and is gone afterwards, except demo-out/.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import json
import os
import signal
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet

from podium_cli import exits, output
from podium_cli.stack import Stack, StackError, StackOptions
from podium_client import AsyncClient, CallProgress, PodiumError, Summary
from podium_embedded import EmbeddedError

QUERIES = (
    "parse command-line options",
    "compress a file",
    "secure random numbers for passwords and tokens",
)
TOP = 3
SHOWN_CHARACTERS = 76
NOT_LIBRARY = {"__pycache__", "idlelib", "lib2to3", "site-packages", "dist-packages", "test", "tests", "turtledemo"}

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
Matrix = np.ndarray[tuple[int, int], np.dtype[np.float32]]


@dataclass(frozen=True, slots=True)
class Docstring:
    """A docstring with the full name of what it documents, such as json.JSONEncoder.default."""

    name: str
    text: str


class ProgressLines:
    """A line for every tenth, where there is no terminal to draw a bar on."""

    def __init__(self) -> None:
        self._silent = sys.stderr.isatty()
        self._started = time.monotonic()
        self._tenths = 0

    def update(self, now: CallProgress) -> None:
        """Says how far the call is, when it is another tenth further."""
        tenths = 10 * now.items_done // now.items_total if now.items_total else 0
        if self._silent or tenths <= self._tenths:
            return
        self._tenths = tenths
        rate = now.items_done / max(time.monotonic() - self._started, 1e-9)
        output.note(f"{now.items_done:>7,} of {now.items_total:,} ({tenths}0%)  {rate:,.0f} texts/s")


def standard_library_docstrings() -> Iterator[Docstring]:
    """Every distinct docstring of the standard library's Python sources, read without importing anything."""
    root = Path(sysconfig.get_paths()["stdlib"])
    seen: set[str] = set()
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if NOT_LIBRARY.intersection(inside.parts):
            continue
        parts = [*inside.parts[:-1], inside.stem]
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for found in _docstrings(tree, module):
            if found.text not in seen:
                seen.add(found.text)
                yield found


def _docstrings(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str
) -> Iterator[Docstring]:
    text = ast.get_docstring(node)
    if text:
        yield Docstring(name, text)
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child, f"{name}.{child.name}")


def chosen(items: int) -> list[Docstring]:
    """That many docstrings, 0 for all: public ones before private ones, modules before what is deep inside them."""
    found = sorted(standard_library_docstrings(), key=lambda one: (_is_private(one.name), one.name.count(".")))
    return found[:items] if items else found


def _is_private(name: str) -> bool:
    return any(part.startswith("_") for part in name.split("."))


async def demo(items: int, workload: str, workers: int, out: Path) -> int:
    """Runs the demonstration and returns the exit code: 0 when every text got its vector."""
    docstrings = await asyncio.to_thread(chosen, items)
    output.say(f"{len(docstrings):,} docstrings of Python's standard library")
    with tempfile.TemporaryDirectory(prefix="podium-demo-") as folder:
        options = StackOptions(data_dir=Path(folder), workers=workers)
        async with Stack(options, lambda line: output.note(f"podium: {line}")) as stack:
            output.say(f"Podium is ready: gateway {stack.address}, {workers} worker{'' if workers == 1 else 's'}")
            async with AsyncClient(stack.address, stack.credentials.app) as client:
                return await _embed_and_ask(client, docstrings, workload, out)


async def _embed_and_ask(client: AsyncClient, docstrings: Sequence[Docstring], workload: str, out: Path) -> int:
    # The questions go first: they bring the model up, whose start should not count as embedding time.
    started = time.monotonic()
    questions = await client.embed_texts(QUERIES, workload=workload)
    loading = time.monotonic() - started
    parquet = out / "vectors.parquet"
    started = time.monotonic()
    with output.ItemsBar(workload, len(docstrings)) as bar:
        lines = ProgressLines()

        def progress(now: CallProgress) -> None:
            bar.update(now)
            lines.update(now)

        summary = await client.embed_texts_to(
            parquet, [one.text for one in docstrings], workload=workload, progress=progress
        )
    seconds = time.monotonic() - started
    _report(summary, workload, seconds, loading, out / "report.json")
    output.say(
        f"{summary.succeeded:,} of {summary.items:,} texts -> {parquet} ({summary.dimension} dimensions) "
        f"in {seconds:.1f} s: {summary.items / seconds:,.0f} texts/s"
    )
    vectors = await asyncio.to_thread(_stored_vectors, parquet, summary.dimension)
    _answer(docstrings, vectors, questions.vectors)
    return exits.OK if summary.failed == 0 and summary.succeeded == len(docstrings) else exits.ITEMS_FAILED


def _stored_vectors(parquet: Path, dimension: int) -> Matrix:
    """(items, dimension) float32, as a reader of the file gets them; a failed item is zeros."""
    column = pyarrow.parquet.read_table(parquet, columns=["vector"])["vector"].to_pylist()
    zeros = [0.0] * dimension
    return np.asarray([zeros if vector is None else vector for vector in column], dtype=np.float32)


def _answer(
    docstrings: Sequence[Docstring],
    vectors: Matrix,
    questions: Matrix,
) -> None:
    """Prints the nearest docstrings of each question by cosine."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(lengths > 0, lengths, 1)
    for query, question in zip(QUERIES, questions, strict=True):
        scores = unit @ (question / np.linalg.norm(question))
        output.say(f"\n{query}?")
        for index in np.argsort(-scores)[:TOP]:
            first_line = docstrings[index].text.splitlines()[0][:SHOWN_CHARACTERS]
            output.say(f"  {scores[index]:.2f}  {docstrings[index].name:<42} {first_line}")


def _report(summary: Summary, workload: str, seconds: float, loading: float, path: Path) -> None:
    report = {
        "items": summary.items,
        "succeeded": summary.succeeded,
        "failed": summary.failed,
        "truncated": summary.truncated,
        "dimension": summary.dimension,
        "seconds": round(seconds, 3),
        "items_per_second": round(summary.items / seconds, 1),
        "workload": workload,
        "model": summary.provenance.model_name if summary.provenance else None,
        "revision": summary.provenance.revision if summary.provenance else None,
        "first_answer_seconds": round(loading, 3),
    }
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """`python -m podium_cli.demo`."""
    parser = argparse.ArgumentParser(prog="python -m podium_cli.demo", description="Embed and search docstrings.")
    parser.add_argument("--items", type=int, default=3000, help="how many docstrings; 0 for all (default 3000)")
    parser.add_argument("--workload", default="minilm")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("demo-out"))
    chosen_options = parser.parse_args()
    chosen_options.out.mkdir(parents=True, exist_ok=True)
    try:
        code = asyncio.run(_until_terminated(chosen_options))
    except (StackError, EmbeddedError, PodiumError) as error:
        exits.say_error(str(error))
        code = exits.SERVICE_FAILED
    except (KeyboardInterrupt, asyncio.CancelledError):
        exits.say_error("interrupted")
        code = exits.INTERRUPTED
    sys.exit(code)


async def _until_terminated(options: argparse.Namespace) -> int:
    """The demo, which SIGTERM ends as Ctrl-C does: in order."""
    work = asyncio.ensure_future(demo(options.items, options.workload, options.workers, options.out))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
    # Nothing of this machine's own Podium may leak in.
    for name in ("PODIUM_ADDRESS", "PODIUM_TOKEN", "PODIUM_TLS_CA"):
        os.environ.pop(name, None)
    return await work


if __name__ == "__main__":
    main()
