"""`podium canary`: records what a workload computes now, as the registry wants it."""

from __future__ import annotations

import base64
import json
import textwrap
from typing import Annotated, Literal, cast

import numpy as np
import numpy.typing as npt
import typer

from podium_cli import exits, output
from podium_cli.connection import connection_of

_WIDTH = 100


def canary_command(
    context: typer.Context,
    workload: Annotated[str, typer.Argument(help="Name of the workload.")],
    text: Annotated[str, typer.Argument(help="A text whose vector is to be remembered.")],
    input_type: Annotated[str | None, typer.Option(help="query or passage, for asymmetric models.")] = None,
) -> None:
    """Print an entry for `canaries:` of a workload in the registry, from what the service computes now.

    Record it where you trust the model files: from then on workers refuse a model that computes something else.
    """
    if input_type not in (None, "query", "passage"):
        raise exits.BadInput(f"--input-type {input_type}: query or passage is needed")
    side = cast(Literal["query", "passage"] | None, input_type)
    with connection_of(context).client() as client:
        result = client.embed_texts([text], workload=workload, input_type=side)
    if not result.ok.all():
        raise exits.BadInput(f"workload {workload} has no vector for this text")
    output.say(entry(text, result.vectors[0], input_type))


def entry(text: str, vector: npt.NDArray[np.float32], input_type: str | None = None) -> str:
    """The YAML of one canary, indented as it stands in the registry."""
    digits = base64.b64encode(vector.astype("<f4").tobytes()).decode()
    side = f"        input_type: {input_type}\n" if input_type else ""
    lines = textwrap.indent("\n".join(textwrap.wrap(digits, _WIDTH)), " " * 10)
    return f"      - text: {json.dumps(text, ensure_ascii=False)}\n{side}        vector: >-\n{lines}"
