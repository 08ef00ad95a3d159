"""What the gateway must know of a workload to check and cut its jobs."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Modality(enum.Enum):
    """What the items of a job are. The value names the member of SubmitBatchRequest.items."""

    TEXT = "texts"
    IMAGE = "images"
    TASK = "tasks"


@dataclass(frozen=True, slots=True)
class WorkloadRules:
    """Limits in bytes; a limit of 0 means none. `dimension` counts vector elements, 0 for tasks."""

    name: str
    modalities: frozenset[Modality]
    dimension: int
    has_prefixes: bool
    max_text_bytes: int
    max_image_bytes: int
    max_task_bytes: int
    max_batch_items: int
    max_batch_bytes: int
