"""`podium up`: a whole Podium on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from podium_cli import exits
from podium_client.config import data_dir

SERVICES = ("scheduler", "gateway", "worker")


def up_command(
    data: Annotated[
        Path | None,
        typer.Option(
            "--data-dir", envvar="PODIUM_DATA_DIR", help="Where data, secrets and logs live.", show_default=False
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, envvar="PODIUM_UP_WORKERS", help="Local workers that always run; 1, or 0 with --pods."),
    ] = None,
    pods: Annotated[
        int,
        typer.Option(min=0, envvar="PODIUM_UP_PODS", help="Local pods at most, started for work and ended when idle."),
    ] = 0,
    gateway_listen: Annotated[
        str, typer.Option(envvar="PODIUM_GATEWAY_LISTEN", help="Where clients connect; port 0: a free one.")
    ] = "127.0.0.1:0",
    http_listen: Annotated[
        str,
        typer.Option(
            envvar="PODIUM_GATEWAY_HTTP_LISTEN", help="Where OpenAI clients connect (HTTP); port 0: a free one."
        ),
    ] = "127.0.0.1:0",
    scheduler_listen: Annotated[
        str, typer.Option(envvar="PODIUM_SCHEDULER_LISTEN", help="Where workers connect; port 0: a free one.")
    ] = "127.0.0.1:0",
    metrics: Annotated[str, typer.Option(help="Address of the metrics endpoints (ports are free ones).")] = "127.0.0.1",
    registry: Annotated[
        Path | None,
        typer.Option(envvar="PODIUM_REGISTRY", exists=True, dir_okay=False, help="Registry of workloads (YAML)."),
    ] = None,
    postgres_url: Annotated[
        str | None, typer.Option(envvar="PODIUM_POSTGRES_URL", help="Your Postgres instead of the embedded one.")
    ] = None,
    redis_url: Annotated[
        str | None, typer.Option(envvar="PODIUM_REDIS_URL", help="Your Redis instead of the embedded one.")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="When ready, print one line of JSON.")] = False,
) -> None:
    """Start Podium on this machine: databases, gateway, scheduler and workers, until Ctrl-C."""
    for service in SERVICES:
        if importlib.util.find_spec(f"podium_{service}") is None:
            raise exits.BadInput(f"podium-{service} is not installed here: pip install podium-{service}")
    # Here, not above: the database drivers would slow down every other command.
    from podium_cli.stack import StackError, StackOptions, foreground
    from podium_embedded import DirectoryInUse, EmbeddedError

    options = StackOptions(
        data_dir=(data or data_dir()).expanduser().absolute(),
        workers=workers if workers is not None else 0 if pods else 1,
        pods=pods,
        gateway_listen=gateway_listen,
        http_listen=http_listen,
        scheduler_listen=scheduler_listen,
        metrics_host=metrics,
        registry=registry,
        postgres_url=postgres_url,
        redis_url=redis_url,
    )
    try:
        asyncio.run(foreground.run(options, json_output))
    except DirectoryInUse as error:
        exits.say_error(str(error))
        raise typer.Exit(exits.WRONG_STATE) from None
    except (StackError, EmbeddedError) as error:
        exits.say_error(str(error))
        raise typer.Exit(exits.SERVICE_FAILED) from None
