"""One device's place in the worker: its executor, what is loaded on it, and whether it is to be trusted with work."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from podium_worker.app import ports
from podium_worker.domain import batches, devices, health, progress, residency

# Deaths in a row while the same model was loaded: it is the model's doing, and others are to have the device.
_LETHAL_LOADS = 3


@dataclass(frozen=True, slots=True)
class DeviceView:
    """State of one device for the scheduler. `state` is the name of a DeviceState without its prefix."""

    index: int
    state: str
    reason: str
    resident: Mapping[str, ports.Facts]
    reading: health.Reading | None = None
    xids: tuple[int, ...] = ()


@dataclass(slots=True)
class Fault:
    """A canary failed: the device is out of service until it passes in a fresh process."""

    workload: str
    reason: str
    retry_at: float
    """Monotonic; infinite while the outcome of a try is awaited."""


@dataclass(slots=True)
class Seat:
    """What is known about one device."""

    executor: ports.Executor
    limits: progress.Limits = field(default_factory=progress.Limits)
    capacity: residency.Capacity = field(default_factory=residency.Capacity)
    """For the weights of its models."""
    resident: dict[str, ports.Facts] = field(default_factory=dict)
    loading: dict[str, float] = field(default_factory=dict)
    """Workloads whose models are being loaded, each with its limit in seconds."""
    asked: set[str] = field(default_factory=set)
    """Workloads whose models this process was told to load, or was given a batch of, and has not loaded yet."""
    outdated: set[str] = field(default_factory=set)
    """Those of them whose next answer is about a specification that has changed since."""
    deaths_loading: dict[str, int] = field(default_factory=dict)
    """Deaths of the process while it loaded these models, since each was loaded last."""
    yielding: set[str] = field(default_factory=set)
    """Workloads whose models are to make room for a wanted one: no more of their batches come here until it has it."""
    refused: set[str] = field(default_factory=set)
    """Workloads whose models could not be loaded here. They outlive the process: the next one is no better."""
    ready: bool = False
    embedding: set[str] = field(default_factory=set)
    """Keys of the interactive calls on the device by the executor's word. They stay when the process has gone, until
    it is told what became of its batches: it was none of them that it died of."""
    computing: str = ""
    """Key of what is on the device by the executor's word, a cancelled batch too; empty for nothing."""
    stillness: progress.Stillness = field(default_factory=progress.Stillness)
    hung: progress.Work | None = None
    """What did not move when the process was killed for it."""
    deaths: devices.Deaths = field(default_factory=devices.Deaths)
    restarting: bool = False
    """Whether the process is ended because it keeps memory that no model uses; no fault of anybody's."""
    keeps_memory: bool = False
    """Whether it is to be ended as soon as it has no batch."""
    verdict: health.Verdict = field(default_factory=health.Verdict)
    reading: health.Reading | None = None
    fault: Fault | None = None
    faults: int = 0
    """Canaries failed since a batch was finished."""

    calls_lost: Callable[[int], None] = lambda device: None
    """Called with the device's index when its process is ended here: its interactive calls go elsewhere at once."""

    @property
    def index(self) -> int:
        """The device's."""
        return self.executor.device.index

    @property
    def sick(self) -> bool:
        """Whether its sensors say that nothing may be asked of it."""
        return self.verdict.health is health.Health.FAULTED

    @property
    def hot(self) -> bool:
        """Whether it is to finish what it has and get no more for a while."""
        return self.verdict.health is health.Health.COOLING

    @property
    def serves(self) -> bool:
        """Whether it works on the batches it has; a process that still boots does."""
        return self.executor.up and self.fault is None and not self.sick

    @property
    def takes(self) -> bool:
        """Whether it can be given more batches."""
        return self.serves and not self.hot and not self.keeps_memory

    def moved(self, key: str = "") -> None:
        """The executor said something about `key`. Only the batch on the device speaks for the device."""
        if not self.computing or key == self.computing:
            self.stillness = self.stillness.moved()

    def off_device(self, key: str) -> None:
        """A batch has left the device, or was never there."""
        self.moved(key)
        if key == self.computing:
            self.computing = ""

    def watch(self, seconds: float, *, waiting: bool) -> float | None:
        """`seconds` more have passed. Returns the limit when the executor has stood still for longer."""
        if not self.executor.up:
            self.stillness = progress.Stillness()
            return None
        work = progress.work_of(
            booting=not self.ready,
            computing=bool(self.computing or self.embedding),
            loading=bool(self.loading),
            waiting=waiting,
        )
        self.stillness = self.stillness.watched(work, seconds)
        limit = self.limits.work_s
        if work is progress.Work.LOADING:
            limit = max(self.loading.values())
        elif work is progress.Work.BOOTING:
            # Python and its libraries are loaded; on a busy machine that takes its time.
            limit = self.limits.load_s
        return limit if self.stillness.seconds >= limit else None

    def outdate(self, workload: str) -> bool:
        """The specification of a model has changed: what was loaded by the old one goes.

        Returns whether a load was asked for and not answered yet; the new one is then to be loaded instead.
        """
        asked = workload in self.asked
        if asked:
            self.outdated.add(workload)
        if asked or self.resident.pop(workload, None) is not None:
            self.executor.unload(workload)
        return asked

    def answered(self, workload: str) -> bool:
        """A load has come to an end. False: of a specification that has changed since; another answer follows."""
        self.moved()
        self.loading.pop(workload, None)
        if workload in self.outdated:
            self.outdated.discard(workload)
            return False
        self.asked.discard(workload)
        return True

    def refuse(self, workload: str, now: float) -> None:
        """A model cannot be had here."""
        if self.resident.pop(workload, None) is not None:
            # It is there and of no use; the next try is to load it anew.
            self.executor.unload(workload)
        self.postpone(workload, now)
        self.refused.add(workload)

    def died(self) -> None:
        """The process died by itself."""
        for workload in self.loading:
            self.deaths_loading[workload] = self.deaths_loading.get(workload, 0) + 1

    @property
    def lethal(self) -> list[str]:
        """Models that are being loaded, and whose loads have killed the process too often."""
        return [workload for workload in self.loading if self.deaths_loading.get(workload, 0) >= _LETHAL_LOADS]

    @property
    def news(self) -> tuple[object, ...]:
        """What the scheduler should hear at once when it changes."""
        return (tuple(self.resident), self.ready, self.fault and self.fault.reason, self.verdict)

    def kill(self) -> None:
        """Ends the process; one that a driver holds may be long in dying."""
        self.executor.kill()
        self.calls_lost(self.index)

    def kill_hung(self) -> None:
        """Ends a process that does not move."""
        self.hung = self.stillness.work
        self.kill()

    def restart(self) -> None:
        """Ends a process that does not give memory back; another follows."""
        self.restarting, self.keeps_memory = True, False
        self.kill()

    def take_out(self, workload: str, reason: str, now: float) -> None:
        """A canary failed."""
        self.faults += 1
        self.fault = Fault(workload, reason, now + devices.fault_pause_s(self.faults))
        self.kill()

    def accused(self, key: str, state: batches.State) -> bool:
        """Whether a batch may be why the process that was killed did not move."""
        if self.hung is progress.Work.COMPUTING:
            return key == self.computing and not self.embedding
        return self.hung is progress.Work.WAITING and state is batches.State.PREPARING

    def empty(self) -> None:
        """The process has gone, and all that it had."""
        self.ready = False
        self.resident.clear()
        self.loading.clear()
        self.asked.clear()
        self.outdated.clear()
        self.yielding.clear()
        self.restarting = self.keeps_memory = False
        self.computing = ""
        self.embedding.clear()
        self.stillness = progress.Stillness()
        self.hung = None

    def due(self, now: float) -> str:
        """The workload whose canary is to be tried again now; empty for none."""
        if self.fault is None or not self.ready or now < self.fault.retry_at:
            return ""
        self.fault.retry_at = math.inf
        return self.fault.workload

    def postpone(self, workload: str, now: float) -> None:
        """The try of a faulted device's canary came to no outcome."""
        if self.fault is not None and self.fault.workload == workload:
            self.fault.retry_at = now + devices.fault_pause_s(self.faults)

    def view(self, states: Collection[batches.State]) -> DeviceView:
        """For the scheduler; `states` are those of the batches it has."""
        state, reason = "IDLE", ""
        if self.sick:
            state, reason = "FAULTED", self.verdict.reason
        elif self.fault is not None:
            state, reason = "FAULTED", f"The canary of workload {self.fault.workload!r} failed: {self.fault.reason}"
        elif self.hung is not None:
            state, reason = "FAULTED", "Its executor made no progress and was killed; it has not ended yet."
        elif self.deaths.faulted:
            state, reason = "FAULTED", f"Its executor died {self.deaths.count} times without finishing a batch."
        elif self.hot:
            state, reason = "COOLING", self.verdict.reason
        elif not self.ready or self.loading:
            state = "BOOTING"
        elif batches.State.COMPUTING in states:
            state = "BUSY"
        elif self.resident:
            state = "READY"
        return DeviceView(self.index, state, reason, dict(self.resident), self.reading, self.verdict.xids)
