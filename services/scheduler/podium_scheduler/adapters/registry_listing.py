"""`python -m podium_scheduler registry [--file FILE]`: the registry for other programs, such as an image build."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from google.protobuf import json_format

from podium.scheduler.v1 import scheduler_pb2
from podium_scheduler.adapters import registry_file


def main(arguments: Sequence[str], configured: Path | None) -> int:
    """Prints a ListWorkloadsResponse as protobuf JSON, fields named as in the contract; returns the exit code.

    The registry is `--file`, else `configured`, else the shipped one. One that cannot be used is one line on stderr,
    and 2. Needs neither Postgres nor Redis, nor their settings.
    """
    parser = argparse.ArgumentParser("podium_scheduler registry", description="Prints the registry's workloads (JSON).")
    parser.add_argument("--file", type=Path, default=configured, metavar="FILE", help="instead of PODIUM_REGISTRY")
    file = parser.parse_args(arguments).file
    try:
        found = registry_file.load(file) if file else registry_file.load_default()
    except registry_file.RegistryError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    listing = scheduler_pb2.ListWorkloadsResponse(workloads=found.workloads.values())
    print(json_format.MessageToJson(listing, preserving_proto_field_name=True))
    return 0
