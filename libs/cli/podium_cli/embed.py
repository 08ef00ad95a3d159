"""`podium embed`: a few texts, answered at once."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

import typer

from podium_cli import exits, output
from podium_cli.connection import connection_of
from podium_client.queries import DEFAULT_TIMEOUT_S


def embed_command(
    context: typer.Context,
    texts: Annotated[list[str], typer.Argument(help="1 to 64 texts.")],
    workload: Annotated[str, typer.Option("--workload", "-w", help="Name of the workload.")],
    input_type: Annotated[str | None, typer.Option(help="query or passage, for asymmetric models.")] = None,
    dimensions: Annotated[int | None, typer.Option(min=1, help="Only the first so many elements.")] = None,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds to wait for the answer.")] = DEFAULT_TIMEOUT_S,
) -> int:
    """Embed texts at once, ahead of all jobs, and print a JSON line for each. For more than a few, see `submit`."""
    if input_type not in (None, "query", "passage"):
        raise exits.BadInput(f"--input-type {input_type}: query or passage is needed")
    side = cast(Literal["query", "passage"] | None, input_type)
    with connection_of(context).client() as client:
        result = client.query_texts(
            texts, workload=workload, input_type=side, dimensions=dimensions, on_error="return", timeout_s=timeout
        )
    errors = {error.index: error for error in result.errors}
    for index, vector in enumerate(result.vectors):
        line: dict[str, Any] = {"index": index}
        if error := errors.get(index):
            line["error"] = {"reason": error.reason, "message": error.message}
        else:
            line["vector"] = vector.tolist()
        output.print_json(line)

    return exits.ITEMS_FAILED if errors else exits.OK
