"""`podium serve` and `podium migrate`: become one of the services' own processes."""

from __future__ import annotations

import importlib.util
import os
import sys
from enum import StrEnum
from typing import Annotated, NoReturn

import typer

from podium_cli import exits


class Service(StrEnum):
    """What can be served."""

    GATEWAY = "gateway"
    SCHEDULER = "scheduler"
    WORKER = "worker"


def become(service: Service, *arguments: str) -> NoReturn:
    """Replace this process by the service's. BadInput when its distribution is not installed."""
    module = f"podium_{service}"
    if importlib.util.find_spec(module) is None:
        raise exits.BadInput(f"podium-{service} is not installed here: pip install podium-{service}")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])


def serve_command(service: Annotated[Service, typer.Argument(help="Which service.")]) -> None:
    """Run one service in the foreground, configured by PODIUM_ variables."""
    become(service)


def migrate_command() -> None:
    """Bring the ledger's schema (PODIUM_POSTGRES_URL) up to date."""
    become(Service.SCHEDULER, "migrate")
