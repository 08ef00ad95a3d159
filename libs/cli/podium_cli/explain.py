"""`podium explain`: why a queue has the pods it has."""

from __future__ import annotations

from typing import Annotated

import typer

from podium.operator.v1 import operator_pb2
from podium_cli import operator, output


def explain_command(
    workload: Annotated[str, typer.Argument(metavar="WORKLOAD", help="From `podium queues`.")],
    as_json: output.AsJson = False,
) -> None:
    """Say why a workload's queue has the pods it has: what holds now, then the newest decisions, times in UTC."""
    request = operator_pb2.ExplainQueueRequest(workload=workload)
    answer = operator.call("ExplainQueue", request, operator_pb2.ExplainQueueResponse)
    if as_json:
        output.print_json(answer)
        return
    for reason in answer.reasons:
        output.say(reason)
