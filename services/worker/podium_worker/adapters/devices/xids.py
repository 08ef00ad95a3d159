"""XID errors as NVML tells them, each board on a daemon thread of its own that waits for them.

One event set a board: whose error it is needs no asking, which a lost GPU would not answer.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from podium_runtime import logs
from podium_worker.adapters.devices import nvml_session
from podium_worker.domain import devices

log = logs.get_logger(__name__)

_XID_EVENTS = 0x8
_WAIT_MS = 1000
_PAUSE_S = 5.0
# Far more than a device has between two readings; an executor that floods the log costs no memory.
_KEPT = 256


class Listener:
    """Collects the XIDs of devices."""

    def __init__(self, library: Any, session: nvml_session.Session, pause_s: float = _PAUSE_S) -> None:
        self._nvml = library
        self._session = session
        self._pause_s = pause_s
        self._stopped = threading.Event()
        self._heard: dict[str, deque[int]] = {}

    def start(self, wanted: Sequence[devices.Device], notice: Callable[[], None]) -> None:
        """Begins to listen; `notice` is called from other threads. MIG instances share the errors of their board."""
        boards: dict[str, list[deque[int]]] = {}
        for device in wanted:
            heard = self._heard[device.uuid] = deque(maxlen=_KEPT)
            boards.setdefault(device.pci_bus_id, []).append(heard)
        for board, theirs in boards.items():

            def hear(xid: int, theirs: list[deque[int]] = theirs) -> None:
                for heard in theirs:
                    heard.append(xid)
                notice()

            threading.Thread(target=self._listen, args=(board, hear), name=f"xids of {board}", daemon=True).start()

    def stop(self) -> None:
        """The threads end by themselves."""
        self._stopped.set()

    def take(self, uuid: str) -> tuple[int, ...]:
        """What was heard about a device since the last time, the oldest first."""
        heard = self._heard.get(uuid)
        taken = []
        while heard:
            taken.append(heard.popleft())
        return tuple(taken)

    def _listen(self, board: str, hear: Callable[[int], None]) -> None:
        nvml, known, events = self._nvml, 0, None
        while not self._stopped.is_set():
            try:
                with self._session.opened() as generation:
                    if generation != known:
                        # The old set went with the old session.
                        events, known = None, generation
                    if events is None:
                        events = self._register(board)
                    event = nvml.nvmlEventSetWait(events, _WAIT_MS)
            except nvml.NVMLError as error:
                if error.value == nvml.NVML_ERROR_TIMEOUT:
                    continue
                if error.value in (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_FUNCTION_NOT_FOUND):
                    log.info("xids_unsupported", board=board, error=str(error))
                    return
                # A lost GPU, or a driver that is being reloaded: readings tell, and this goes on when they are good.
                self._free(events)
                events = None
                self._stopped.wait(self._pause_s)
                continue
            log.error("gpu_xid", board=board, xid=int(event.eventData))
            hear(int(event.eventData))
        with contextlib.suppress(nvml.NVMLError), self._session.opened():
            self._free(events)

    def _register(self, board: str) -> Any:
        nvml = self._nvml
        events = nvml.nvmlEventSetCreate()
        try:
            nvml.nvmlDeviceRegisterEvents(nvml.nvmlDeviceGetHandleByPciBusId(board), _XID_EVENTS, events)
        except nvml.NVMLError:
            self._free(events)
            raise
        return events

    def _free(self, events: Any) -> None:
        if events is not None:
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlEventSetFree(events)
