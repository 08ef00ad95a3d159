"""`podium simulate`: the autoscaler on a trace of work, under a virtual clock."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from podium_cli import exits


def simulate_command(
    trace: Annotated[
        str, typer.Argument(help="steady, bursty, diurnal, backfill, trickle, all, or a file (.csv, .json).")
    ],
    plots: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder for a PNG of each trace.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the arrivals and of the clouds' failures.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="So many seeds from there; shows the worst of each trace.")] = 1,
    round_s: Annotated[float, typer.Option("--round", min=1, help="Seconds between two decisions.")] = 10.0,
    max_pods: Annotated[int, typer.Option(min=0, help="Most pods at once.")] = 20,
    usd_per_hour: Annotated[float | None, typer.Option(min=0, help="Hard budget.", show_default="none")] = None,
    usd_per_day: Annotated[float | None, typer.Option(min=0, help="Hard budget.", show_default="none")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Print every action with its reason.")] = False,
) -> int:
    """Run the scheduler's autoscaler on a trace: what it spends, beside other rules and the least that is possible.

    A file has the columns (CSV) or names (JSON list) at_s, items and, if wanted, window_s and workload. Needs
    podium-scheduler installed here; plots need its extra `simulate`.
    """
    if importlib.util.find_spec("podium_scheduler") is None:
        raise exits.BadInput("podium-scheduler is not installed here: pip install 'podium-scheduler[simulate]'")
    options = {
        "--plots": plots,
        "--seed": seed,
        "--seeds": seeds,
        "--round": round_s,
        "--max-pods": max_pods,
        "--usd-per-hour": usd_per_hour,
        "--usd-per-day": usd_per_day,
    }
    flags = [f"{name}={value}" for name, value in options.items() if value is not None]
    command = [sys.executable, "-m", "podium_scheduler.simulation", *flags, *(["--explain"] if explain else [])]
    return subprocess.run([*command, "--", trace], check=False).returncode
