"""The `podium` command: wiring only. Exit codes are in exits.py."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Annotated, Any

import typer

import podium_client
from podium_cli import (
    canary,
    consume,
    embed,
    exits,
    explain,
    fleet,
    jobs,
    models,
    operator,
    pods,
    serve,
    simulate,
    submit,
    up,
)
from podium_cli.connection import Connection

EPILOG = "Exit codes: 0 done, 1 items failed, 2 bad input, 3 unreachable, 4 not found, 5 no access, 6 wrong state."

app = typer.Typer(
    name="podium",
    help="Embed batches of texts on your own GPUs.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"podium {metadata.version('podium-cli')}\n")
        raise typer.Exit


@app.callback()
def connect(
    context: typer.Context,
    address: Annotated[
        str | None, typer.Option(help="Gateway as host:port. Default: PODIUM_ADDRESS, else what `podium up` wrote.")
    ] = None,
    token: Annotated[str | None, typer.Option(help="App token. Better in PODIUM_TOKEN: ps shows options.")] = None,
    retry_for: Annotated[
        float, typer.Option(min=0, help="Seconds to go on without progress when the service is away.")
    ] = 300.0,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options for all commands."""
    context.obj = Connection(address, token, retry_for)


app.command("up")(up.up_command)
app.command("submit")(submit.submit_command)
app.command("embed")(embed.embed_command)
app.command("jobs")(jobs.jobs_command)
app.command("job")(jobs.job_command)
app.command("watch")(jobs.watch_command)
app.command("cancel")(jobs.cancel_command)
app.command("results")(jobs.results_command)
app.command("consume")(consume.consume_command)
app.command("workloads")(jobs.workloads_command)
app.command("canary")(canary.canary_command)
app.command("queues")(operator.queues_command)
app.command("stats")(operator.stats_command)
app.command("failures")(operator.failures_command)
app.command("requeue")(operator.requeue_command)
app.command("explain")(explain.explain_command)
app.command("simulate")(simulate.simulate_command)
app.command("serve")(serve.serve_command)
app.command("migrate")(serve.migrate_command)
app.add_typer(operator.apps, name="apps")
app.add_typer(fleet.workers, name="workers")
app.add_typer(pods.pods, name="pods")
app.add_typer(models.models, name="models")

# The command-line library's own errors; older typer takes them from click, newer has its copy.
_UsageProblem: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def run(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code; errors become one line on stderr."""
    try:
        code = app(args=list(arguments), prog_name="podium", standalone_mode=False)
    except typer.Exit as ended:
        return _interrupted() if ended.exit_code == exits.INTERRUPTED else ended.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return _interrupted()
    except exits.BadInput as error:
        exits.say_error(str(error))
        return exits.BAD_INPUT
    except podium_client.PodiumError as error:
        exits.say_error(exits.describe(error))
        return exits.code_for(error)
    except BrokenPipeError:
        return exits.OK
    except OSError as error:
        exits.say_error(f"{error.filename or 'input or output'}: {error.strerror or error}")
        return exits.BAD_INPUT
    except _UsageProblem as error:
        error.show()
        return int(error.exit_code)
    if code == exits.INTERRUPTED:
        return _interrupted()
    return code if isinstance(code, int) else exits.OK


def _interrupted() -> int:
    exits.say_error("interrupted; jobs already submitted go on, and the same command takes them up again")
    return exits.INTERRUPTED


def main() -> None:
    """Entry point."""
    # gRPC's own remarks about connections that come and go are not for the people who read our error lines.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    code = run(sys.argv[1:])
    sys.stderr.flush()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    # Not sys.exit: a thread may wait for ever in a read of stdin, and nothing is left to clean up.
    os._exit(code)
