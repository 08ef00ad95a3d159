"""The pod: its states, what moves it, and why it ended.

```mermaid
stateDiagram-v2
    [*] --> INTENDED: intent and name committed
    INTENDED --> CREATING: a create call is about to be made
    INTENDED --> FAILED: nobody wants it any more, or no offer is left
    CREATING --> STARTING: the provider lists it
    CREATING --> FAILED: the provider refused, and does not list it
    STARTING --> READY: its worker registered with its join token and passed its canary
    STARTING --> DESTROYING: too slow, broken, or not wanted any more
    READY --> DRAINING: idle, too dear, or asked for
    READY --> DESTROYING: asked for, or its worker is gone for good
    READY --> LOST: the provider stopped listing it without our asking
    STARTING --> LOST: the same
    DRAINING --> LOST: the same
    DRAINING --> READY: it is needed after all
    DRAINING --> DESTROYING: nothing is in hand, or the grace is over
    DESTROYING --> DESTROYED: the provider's list shows it no longer
    CREATING --> DESTROYING: not wanted any more, and it may exist
    DESTROYED --> DESTROYING: the provider lists it again
    LOST --> DESTROYING: the same
    FAILED --> DESTROYING: the same
```

A pod is billed from the moment a create call may have reached the provider until its list shows it no longer. FAILED is
final only for a pod that was never listed; one that was goes through DESTROYING like any other, and keeps its reason.
Nothing but the provider's own list leads out of a final state: a create call that arrived late, a list that was wrong
twice. Such a pod is destroyed, and its bill goes on where it had ended.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID


class State(StrEnum):
    """Where a pod stands."""

    INTENDED = "INTENDED"
    """Intent and name are committed. The pod keeper moves it on when it is about to call the provider."""
    CREATING = "CREATING"
    """A create call may have reached the provider. Its answer moves it on, or its list."""
    STARTING = "STARTING"
    """The provider lists it. Its worker's registration moves it on, or the end of the patience with it."""
    READY = "READY"
    """Its worker registered and passed its canary. The autoscaler, an operator or its end moves it on."""
    DRAINING = "DRAINING"
    """Its worker finishes what it has. Its empty hands move it on, or the end of the grace."""
    DESTROYING = "DESTROYING"
    """A destroy call may have reached the provider. The absence from its list moves it on."""
    DESTROYED = "DESTROYED"
    """The provider's list shows it no longer."""
    LOST = "LOST"
    """The provider stopped listing it without our asking."""
    FAILED = "FAILED"
    """It never existed at the provider, and will not."""


FINAL = frozenset({State.DESTROYED, State.LOST, State.FAILED})
"""States that end a pod's life; it leaves them only when the provider lists it again."""

MAY_EXIST = frozenset({State.CREATING, State.STARTING, State.READY, State.DRAINING, State.DESTROYING})
"""States in which the provider may list the pod, and bill it."""


class Reason(StrEnum):
    """Why a pod is to end, or ended. Apart from the state."""

    NONE = "NONE"
    IDLE = "IDLE"
    """Nothing to do for it."""
    OVER_BUDGET = "OVER_BUDGET"
    OVER_LIMIT = "OVER_LIMIT"
    """More pods than the operator allows."""
    CHEAPER_ELSEWHERE = "CHEAPER_ELSEWHERE"
    NOT_WANTED = "NOT_WANTED"
    """The demand that it was intended for is gone."""
    OPERATOR = "OPERATOR"
    """An operator asked for it."""
    NO_CAPACITY = "NO_CAPACITY"
    """The provider has none of this offer."""
    REFUSED = "REFUSED"
    """The provider refused the order for good."""
    UNAUTHORIZED = "UNAUTHORIZED"
    """The provider does not accept the credentials; an operator has to act."""
    OUT_OF_FUNDS = "OUT_OF_FUNDS"
    """The provider's account has no money left; an operator has to act."""
    THROTTLED = "THROTTLED"
    """The provider had too many calls. A name is called for once, so another pod tries again."""
    UNREACHABLE = "UNREACHABLE"
    """The create call could not be sent. Likewise."""
    CREATE_UNRESOLVED = "CREATE_UNRESOLVED"
    """The create call had no answer, and the provider did not list the pod for long enough to be sure."""
    BOOT_TIMEOUT = "BOOT_TIMEOUT"
    """Its worker did not register in time."""
    CANARY_TIMEOUT = "CANARY_TIMEOUT"
    """Its worker registered, and no model passed its canary in time."""
    MODEL_UNAVAILABLE = "MODEL_UNAVAILABLE"
    """Its worker registered, and could not load the model that it was rented for."""
    PROVIDER_ERROR = "PROVIDER_ERROR"
    """The provider says that it broke, or that it stopped."""
    WORKER_GONE = "WORKER_GONE"
    """Its worker's session ended and did not come back in time."""
    UNSUITABLE = "UNSUITABLE"
    """It came up as something else than was ordered: no GPU, too little memory, too old a driver."""
    VANISHED = "VANISHED"
    """The provider stopped listing it without our asking."""
    ORPHAN = "ORPHAN"
    """It bears the cluster's tag and was not in the ledger."""


_MOVES: dict[State, frozenset[State]] = {
    State.INTENDED: frozenset({State.CREATING, State.FAILED}),
    State.CREATING: frozenset({State.STARTING, State.DESTROYING, State.FAILED}),
    State.STARTING: frozenset({State.READY, State.DESTROYING, State.LOST}),
    State.READY: frozenset({State.DRAINING, State.DESTROYING, State.LOST}),
    State.DRAINING: frozenset({State.READY, State.DESTROYING, State.LOST}),
    State.DESTROYING: frozenset({State.DESTROYED}),
    State.DESTROYED: frozenset({State.DESTROYING}),
    State.LOST: frozenset({State.DESTROYING}),
    State.FAILED: frozenset({State.DESTROYING}),
}


def may_move(before: State, after: State) -> bool:
    """Whether the diagram has this arrow."""
    return after in _MOVES[before]


_NOT_ENDING = frozenset({State.INTENDED, State.CREATING, State.STARTING, State.READY})
"""States of pods that nothing speaks against: their reason is NONE."""


class IllegalMove(Exception):
    """The diagram has no such arrow, or the pod would have to end without a reason."""


def name_of(prefix: str, pod_id: UUID) -> str:
    """The name that a pod is found by; unique, and says whose it is: "podium-3f2a..."."""
    return f"{prefix}-{pod_id.hex}"


@functools.lru_cache(maxsize=4_096)
def usd(price: float) -> Decimal:
    """A price as the ledger keeps it: USD, six decimals."""
    return Decimal(str(price)).quantize(Decimal("0.000001"))


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as the ledger has it. All times are the database's."""

    pod_id: UUID
    name: str
    provider: str
    provider_pod_id: str
    """Empty: the provider has not shown it yet."""
    state: State
    reason: Reason
    detail: str
    workload: str
    """Whose demand it was intended for; empty: nobody's in particular."""
    gpu_type: str
    gpu_count: int
    vram_bytes: int
    compute_capability: str
    device_name: str
    cloud: str
    region: str
    price_usd_per_hour: Decimal
    """Of the whole pod: the offer's, until the provider's list tells another."""
    worker_id: UUID | None
    create_time: datetime
    """Of the intent."""
    call_time: datetime | None
    """Just before the one create call."""
    listed_time: datetime | None
    """The provider showed it for the first time, in its answer or in its list."""
    registered_time: datetime | None
    ready_time: datetime | None
    drain_time: datetime | None
    destroy_time: datetime | None
    """Just before the first destroy call."""
    end_time: datetime | None
    last_seen_time: datetime | None
    """Written now and then only."""
    worker_gone_time: datetime | None = None
    """Since when its worker has had no session; None: it has one, or never registered."""
    request_id: UUID | None = None
    """Of the operator who asked for it."""


@dataclass(frozen=True, slots=True)
class Census:
    """The pods whose life is not over, at one moment of the database."""

    now: datetime
    pods: tuple[Pod, ...]


@dataclass(frozen=True, slots=True)
class Sighting:
    """What the provider says of a pod."""

    provider_pod_id: str
    name: str
    price_usd_per_hour: Decimal | None = None
    """None: it does not tell."""
    broken: bool = False
    """It stopped, or will not run."""
    create_time: datetime | None = None
    detail: str = ""
    gpu_type: str = ""
    gpu_count: int = 0


@dataclass(frozen=True, slots=True)
class Move:
    """One arrow of the diagram for one pod, guarded by its state. Raises IllegalMove."""

    pod_id: UUID
    before: State
    after: State
    reason: Reason | None = None
    """None: the one it has. Needed by a pod that begins to end."""
    detail: str = ""
    sighting: Sighting | None = None
    bill_end: datetime | None = None
    """Of a final state: since when the provider no longer listed it, if that is known."""
    join_token_sha256: bytes | None = field(default=None, repr=False)
    """Of INTENDED --> CREATING: what the pod's worker will show."""

    def __post_init__(self) -> None:
        if not may_move(self.before, self.after):
            raise IllegalMove(f"{self.before} --> {self.after}")
        if self.before in _NOT_ENDING and self.after not in _NOT_ENDING and self.reason in (None, Reason.NONE):
            raise IllegalMove(f"{self.before} --> {self.after} without a reason")

    def reason_after(self, reason: Reason) -> Reason:
        """Why the pod ends, once moved; `reason`: the one it has."""
        return Reason.NONE if self.after in _NOT_ENDING else self.reason or reason


@dataclass(frozen=True, slots=True)
class Orphan:
    """A pod that the provider lists and the ledger does not know, as it enters the ledger."""

    pod_id: UUID
    name: str
    """The listed name; with the provider's id after it where another pod of the ledger has that name."""
    provider: str
    state: State
    """STARTING: adopted; DESTROYING: not."""
    sighting: Sighting


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a pod's history."""

    time: datetime
    state: State
    reason: Reason
    detail: str
