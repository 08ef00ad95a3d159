"""`podium canary`: records what a workload computes now, as the registry wants it."""

from __future__ import annotations

import base64
import json
import textwrap
from pathlib import Path
from typing import Annotated, Literal, cast

import numpy as np
import numpy.typing as npt
import typer

from podium_cli import exits, output
from podium_cli.connection import connection_of

MAX_IMAGE_BYTES = 64 * 1024
"""Every worker gets the whole registry at its Hello."""
_WIDTH = 100


def canary_command(
    context: typer.Context,
    workload: Annotated[str, typer.Argument(help="Name of the workload.")],
    text: Annotated[str | None, typer.Argument(help="A text whose vector is to be remembered.")] = None,
    image: Annotated[Path | None, typer.Option(help="An image file, instead of a text; at most 64 KiB.")] = None,
    input_type: Annotated[str | None, typer.Option(help="query or passage, for asymmetric models.")] = None,
) -> None:
    """Print an entry for `canaries:` of a workload in the registry, from what the service computes now.

    Record it where you trust the model files: from then on workers refuse a model that computes something else.
    """
    if input_type not in (None, "query", "passage"):
        raise exits.BadInput(f"--input-type {input_type}: query or passage is needed")
    if (text is None) == (image is None):
        raise exits.BadInput("give either a TEXT or --image FILE")
    if image is not None and input_type is not None:
        raise exits.BadInput("--input-type: is for texts")
    side = cast(Literal["query", "passage"] | None, input_type)
    data = _read(image) if image is not None else b""
    with connection_of(context).client() as client:
        if text is not None:
            result = client.embed_texts([text], workload=workload, input_type=side, on_error="return")
        else:
            result = client.embed_images([data], workload=workload, on_error="return")
    if result.errors:
        failed = result.errors[0]
        what = "text" if text is not None else "image"
        raise exits.BadInput(f"workload {workload} has no vector for this {what}: {failed.reason}: {failed.message}")
    output.say(entry(text if text is not None else data, result.vectors[0], input_type))


def _read(image: Path) -> bytes:
    """The file; BadInput when it is too large for a registry."""
    size = image.stat().st_size
    if size > MAX_IMAGE_BYTES:
        limit = f"a canary has at most {MAX_IMAGE_BYTES:,}: a small picture will do"
        raise exits.BadInput(f"{image}: is {size:,} bytes; {limit}")
    if not size:
        raise exits.BadInput(f"{image}: is empty")
    return image.read_bytes()


def entry(known: str | bytes, vector: npt.NDArray[np.float32], input_type: str | None = None) -> str:
    """The YAML of one canary, of a text or of an image file, indented as it stands in the registry."""
    if isinstance(known, str):
        first = f"text: {json.dumps(known, ensure_ascii=False)}"
    else:
        first = f"image: >-\n{_folded(known)}"
    side = f"        input_type: {input_type}\n" if input_type else ""
    return f"      - {first}\n{side}        vector: >-\n{_folded(vector.astype('<f4').tobytes())}"


def _folded(data: bytes) -> str:
    return textwrap.indent("\n".join(textwrap.wrap(base64.b64encode(data).decode(), _WIDTH)), " " * 10)
