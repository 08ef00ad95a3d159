"""`python -m tests.bench.idle`: what a Podium costs that has nothing to do.

A stack of real processes with default settings and one worker rests for a while. CPU seconds are counted, not time, so
other load on the machine changes little. Prints a table and writes `bench-out/idle.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench import report, spent
from tests.support import stack

SETTLED_S = 8.0
"""Imports, first rounds of all loops and the worker's first load are over by then."""
SCHEDULER_TARGET = 0.03
"""Share of a core that a scheduler may take which leads and has nothing to do."""


async def measure(seconds: float, settled_s: float = SETTLED_S) -> spent.Span:
    """One stack at rest for so long."""
    with tempfile.TemporaryDirectory(prefix="podium-bench-") as name:
        async with stack.running(
            Path(name), workers=1, as_deployed=True, workloads="hash-384", devices="cpu"
        ) as running:
            meter = spent.Meter(running)
            await asyncio.sleep(settled_s)
            first = await meter.read()
            await asyncio.sleep(seconds)
            return spent.Span(first, await meter.read())


def show(span: spent.Span, console: Console) -> None:
    """Prints the table."""
    table = Table(title=f"An idle Podium, {span.seconds:.0f} s on {report.cores()} cores")
    table.add_column("process")
    table.add_column("CPU, % of a core", justify="right")
    for name, share in span.core_shares().items():
        table.add_row(name, f"{share:.2%}")
    console.print(table)
    console.print(
        f"{span.transactions_per_s:.1f} transactions/s, {span.commands_per_s:.1f} Redis commands/s; "
        f"target: scheduler <= {SCHEDULER_TARGET:.0%}"
    )


def main() -> None:
    """Runs, writes, prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.idle", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long it rests (default 60)")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder of idle.json")
    asked = parser.parse_args()
    span = asyncio.run(measure(asked.seconds))
    asked.out.mkdir(parents=True, exist_ok=True)
    found = {
        "machine": report.machine(),
        "seconds": span.seconds,
        "core_shares": span.core_shares(),
        "transactions_per_s": span.transactions_per_s,
        "commands_per_s": span.commands_per_s,
    }
    path = asked.out / "idle.json"
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    show(span, Console())
    print(f"written to {path}")


if __name__ == "__main__":
    main()
