"""What the gateway must know of a workload to check and cut its jobs."""

from __future__ import annotations

import enum
from dataclasses import dataclass

# Number in podium.common.v1; a test holds it against the generated one.
DTYPE_FLOAT32 = 1


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
    dtypes: frozenset[int] = frozenset({DTYPE_FLOAT32})
    """Element types that a job may ask for, by their numbers in podium.common.v1."""
    truncated_dimensions: tuple[int, ...] = ()
    """Lengths to which vectors may be cut, ascending."""
    accepts_token_ids: bool = False
    """Whether a text may come as token ids."""
