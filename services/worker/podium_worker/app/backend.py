"""What a model backend is: the one protocol between the executor's pipeline and whatever computes.

A backend is made for one workload in one executor. `prepare_texts` and `prepare_pictures` run on the executor's prepare
thread, and for interactive calls on its compute thread; `compute` on its compute thread: at the same time for different
batches, and none may keep state that the others change. A `board` of the company may itself prepare and compute
interactive calls. `close` comes when nothing else is under way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

import numpy as np
import numpy.typing as npt

from podium_worker.domain import pictures, problems

Text = str | tuple[int, ...]
"""A text, or the ids of its tokens, which only a model that `accepts_token_ids` is given."""
PoolingName = Literal["mean", "cls", "none"]
SourceKind = Literal["none", "local_path", "python_package", "hub_id"]


@dataclass(frozen=True, slots=True)
class Canary:
    """A text or an encoded image, and the first elements of its vector."""

    text: str
    elements: Sequence[float]
    image: bytes = b""
    """The image file; empty for a text."""


@dataclass(frozen=True, slots=True)
class Model:
    """What to load, as the registry says it."""

    workload: str
    backend: str
    dimension: int
    model_name: str = ""
    revision: str = ""
    source_kind: SourceKind = "none"
    source: str = ""
    pooling: PoolingName = "none"
    normalized: bool = False
    max_tokens: int = 0
    """0: the model's own."""
    precision: str = ""
    """"float32", "bfloat16", "float16", "auto"; empty: float32."""
    token_budget: int = 0
    """Tokens of one micro-batch, padding included; 0: the backend's choice."""
    pretrained: str = ""
    canaries: Sequence[Canary] = ()
    takes_texts: bool = True
    takes_images: bool = False
    architecture: str = ""
    """Of open_clip or timm; empty where the files carry a configuration."""
    image_budget: int = 0
    """Images of one micro-batch; 0: the backend's choice."""
    remembered_budget: int = 0
    """Tokens or images of one micro-batch that an earlier process on this device arrived at; 0: nothing is known."""
    accepts_token_ids: bool = False
    """Whether a text may come as the ids of its tokens."""


@dataclass(frozen=True, slots=True)
class Description:
    """What the loaded model really does; goes into the provenance of every chunk."""

    pooling: PoolingName
    normalized: bool
    precision: str


@dataclass(frozen=True, slots=True)
class Truncated:
    """An item whose text was cut. `index` counts within the batch; tokens include the special ones."""

    index: int
    token_count: int
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch ready for the device. `work` is the backend's own."""

    work: Any
    item_count: int
    token_count: int = 0
    """Tokens the model will read, special ones included, padding not."""
    truncations: Sequence[Truncated] = ()
    """By ascending index."""
    token_counts: Sequence[int] = ()
    """What `token_count` is the sum of, one for each item; empty where there are none."""
    sizes: Sequence[int] = ()
    """What each item counts against the budget, if it is alone; empty where each counts 1."""
    failures: Sequence[problems.ItemFailure] = ()
    """Items that cannot be read, by ascending index. They have a row all the same, which is nobody's vector."""


@dataclass(frozen=True, slots=True)
class Computed:
    """Vectors in input order: float32, shape (item_count, dimension). Rows in `out_of_memory` hold nothing.

    `item_count` is that of Prepared: of an image batch, the pictures that were prepared.
    """

    vectors: npt.NDArray[np.float32]
    out_of_memory: frozenset[int] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class Aboard:
    """What a micro-batch may be."""

    most: int
    """Tokens or images that it may hold, padding and riders included; never more than the budget."""
    riders: Prepared | None = None
    """Items of interactive calls that are computed with it, made ready by the same backend."""


class Company(Protocol):
    """Who comes to the device while a batch is computed. On the compute thread."""

    def board(self, width: int, rows: int, budget: int) -> Aboard:
        """Before each micro-batch. `width`: the size of its largest item; `rows`: the batch's items that are left.

        Interactive calls may be computed meanwhile. What is aboard is for this micro-batch only.
        """

    def left(self) -> None:
        """The micro-batch boarded last was not begun, for want of memory; its riders are not to be tried again."""

    def landed(self, size: int, own: int, rows: npt.NDArray[np.float32]) -> None:
        """The earliest micro-batch that was begun is computed. `size`: as the budget counts it; `own`: the batch's own
        rows in it; `rows`: those of its riders, float32, shape (riders, dimension)."""


class Alone:
    """A batch that has no company."""

    def board(self, width: int, rows: int, budget: int) -> Aboard:
        return Aboard(budget)

    def left(self) -> None:
        """Nobody was aboard."""

    def landed(self, size: int, own: int, rows: npt.NDArray[np.float32]) -> None:
        """Nobody wants to know."""


ALONE = Alone()


class Backend(Protocol):
    """A loaded model."""

    @property
    def description(self) -> Description:
        """What it does, for the provenance."""

    @property
    def picture(self) -> pictures.Picture | None:
        """What it looks at, or None when it takes no images."""

    @property
    def memory_bytes(self) -> int:
        """What its weights take on the device (in host memory on a CPU); 0 for none."""

    @property
    def budget(self) -> int:
        """Tokens or images of one micro-batch now; 0 where there is no such thing."""

    def prepare_texts(self, texts: Sequence[Text]) -> Prepared:
        """Tokenises a whole batch."""

    def prepare_pictures(self, rows: npt.NDArray[np.uint8]) -> Prepared:
        """Takes pictures: shape (count, height, width, 3), RGB. They stay as they are until `compute` has returned."""

    def compute(self, prepared: Prepared, progress: Callable[[int], bool], company: Company = ALONE) -> Computed:
        """Computes a prepared batch; calls `progress(items_done)` after each micro-batch, and asks before each of them
        who rides along.

        Raises Abandoned when `progress` answers False: the batch is not wanted any more.
        """

    def close(self) -> None:
        """Gives back what the model takes on the device."""


def plain(texts: Sequence[Text]) -> Sequence[str]:
    """Texts that are no token ids. Raises TypeError for others, which nobody should have passed on."""
    if not set(map(type, texts)) <= {str}:
        raise TypeError("token ids came to a backend that takes none")
    return cast(Sequence[str], texts)


class ModelUnavailable(Exception):
    """The model cannot be loaded here. The message is one sentence that names what to do."""


class Abandoned(Exception):
    """The batch was cancelled while it was computed."""
