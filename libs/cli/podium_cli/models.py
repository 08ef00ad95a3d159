"""`podium models`: the files of the registry's models."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from podium_cli import exits

models = typer.Typer(name="models", help="The files of the registry's models.", no_args_is_help=True)


@models.callback()
def _group() -> None:
    """The files of the registry's models."""


@models.command("prefetch")
def prefetch_command(
    workloads: Annotated[
        list[str] | None, typer.Argument(help="Only these workloads.", show_default="all of the registry")
    ] = None,
    registry: Annotated[
        Path | None,
        typer.Option(
            envvar="PODIUM_REGISTRY", dir_okay=False, help="Registry of workloads (YAML).", show_default=False
        ),
    ] = None,
    offline_check: Annotated[
        bool, typer.Option("--offline-check", help="Download nothing; verify that all is here.")
    ] = False,
) -> int:
    """Download the models that a registry names, and verify that they work without a network.

    For image builds: a worker with HF_HUB_OFFLINE=1 and the same HF_HOME then starts without a network. Each model is
    loaded from this machine and computes its canaries. Needs podium-scheduler and podium-worker installed here. Exit
    code 1 when a model cannot be had.
    """
    file = [] if registry is None else ["--file", str(registry)]
    listing = subprocess.run([*_python("scheduler"), "registry", *file], stdout=subprocess.PIPE, check=False)
    if listing.returncode:
        # It has said why.
        return exits.BAD_INPUT
    flags = ["--offline-check"] if offline_check else []
    command = [*_python("worker"), "prefetch", *flags, "--", *(workloads or ())]
    return subprocess.run(command, input=listing.stdout, check=False).returncode


def _python(service: str) -> list[str]:
    """How to run a service's own command. BadInput when its distribution is not installed."""
    if importlib.util.find_spec(f"podium_{service}") is None:
        raise exits.BadInput(f"podium-{service} is not installed here: pip install podium-{service}")
    return [sys.executable, "-m", f"podium_{service}"]
