"""Between protocol messages and what the worker's use cases speak."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from google.protobuf import duration_pb2

from podium.common.v1 import workload_pb2
from podium.worker.v1 import worker_pb2
from podium_worker.adapters import known, model_files, payloads, registry
from podium_worker.app import backend, hand, offers, ports, seats
from podium_worker.domain import devices, leases


def lease_of(message: worker_pb2.Lease) -> leases.Lease:
    return leases.Lease(message.batch_id, message.lease_token, message.attempt)


def lease_message(lease: leases.Lease) -> worker_pb2.Lease:
    return worker_pb2.Lease(batch_id=lease.batch_id, lease_token=lease.token, attempt=lease.attempt)


def lease_messages(held: Iterable[leases.Lease]) -> list[worker_pb2.Lease]:
    return [lease_message(lease) for lease in held]


def device_message(device: devices.Device) -> worker_pb2.Device:
    return worker_pb2.Device(
        index=device.index,
        uuid=device.uuid,
        name=device.name,
        vram_bytes=device.vram_bytes,
        compute_capability=device.compute_capability,
        driver_version=device.driver_version,
        cuda_version=device.cuda_version,
        pci_bus_id=device.pci_bus_id,
    )


def workload_of(message: workload_pb2.Workload) -> ports.Workload:
    """A registry entry; says already now if model files that should be on this machine are not."""
    missing = ""
    if message.model.WhichOneof("source") in ("local_path", "python_package"):
        try:
            model_files.locate(registry.model(message))
        except backend.ModelUnavailable as error:
            missing = str(error)
    return ports.Workload(
        name=message.name,
        needs=registry.needs(message),
        dimension=message.dimension,
        spec=message.SerializeToString(),
        load_limit_s=seconds_of(message.needs.load_timeout),
        missing_files=missing,
        max_image_bytes=message.limits.max_image_bytes,
        max_image_pixels=message.limits.max_image_pixels,
    )


def workloads_of(messages: Sequence[workload_pb2.Workload]) -> list[ports.Workload]:
    return [workload_of(message) for message in messages]


def assignment_of(message: worker_pb2.Assign) -> ports.Assignment:
    return ports.Assignment(
        lease=lease_of(message.lease),
        workload=message.workload,
        item_count=message.item_count,
        body=message.SerializeToString(),
        images=message.modality == workload_pb2.MODALITY_IMAGE,
        known=_known_items(message) if message.HasField("known") else 0,
    )


def call_of(message: worker_pb2.EmbedCall, now: float) -> ports.Call:
    """`now`: monotonic."""
    assign = worker_pb2.Assign(
        workload=message.workload,
        item_count=message.item_count,
        payload=message.payload,
        payload_encoding=message.payload_encoding,
        modality=message.modality,
        options=message.options,
        traceparent=message.traceparent,
    )
    return ports.Call(
        call_id=message.call_id,
        workload=message.workload,
        item_count=message.item_count,
        body=assign.SerializeToString(),
        images=message.modality == workload_pb2.MODALITY_IMAGE,
        deadline=now + seconds_of(message.timeout),
    )


def embed_failed_message(call_id: int, failure: ports.CallFailure) -> worker_pb2.WorkerFrame:
    reason = f"EMBED_FAILURE_REASON_{failure.reason}"
    told = worker_pb2.EmbedFailure(reason=reason, message=failure.message, retryable=failure.retryable)
    return worker_pb2.WorkerFrame(embedded=worker_pb2.EmbedAnswer(call_id=call_id, failure=told))


def _known_items(message: worker_pb2.Assign) -> int:
    """Items that are not computed here. What is wrong with them is told by whoever reads the payload."""
    try:
        plan = known.plan(message)
    except payloads.BadPayload:
        return 0
    return message.item_count - len(plan.computed) if plan is not None else 0


def failed_message(lease: leases.Lease, failure: ports.Failure) -> worker_pb2.WorkerFrame:
    return worker_pb2.WorkerFrame(
        failed=worker_pb2.BatchFailed(
            lease=lease_message(lease),
            reason=f"BATCH_FAILURE_REASON_{failure.reason}",
            message=failure.message,
            retryable=failure.retryable,
            handed_back=failure.handed_back,
        )
    )


def goodbye_message(reason: str, held: Iterable[leases.Lease]) -> worker_pb2.WorkerFrame:
    return worker_pb2.WorkerFrame(goodbye=worker_pb2.Goodbye(reason=reason, in_hand=lease_messages(held)))


def status_message(view: hand.View) -> worker_pb2.WorkerFrame:
    return worker_pb2.WorkerFrame(
        status=worker_pb2.Status(
            devices=[_device_status(device) for device in view.devices],
            workloads=[_offer(offer) for offer in view.offers],
            total_credits=view.total_credits,
            in_hand=lease_messages(view.in_hand),
            draining=view.draining,
            checked=view.checked,
        )
    )


def seconds_of(duration: duration_pb2.Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def _device_status(device: seats.DeviceView) -> worker_pb2.DeviceStatus:
    message = worker_pb2.DeviceStatus(
        index=device.index,
        state=f"DEVICE_STATE_{device.state}",
        reason=device.reason,
        resident_workloads=device.resident,
        models=[_resident(workload, facts) for workload, facts in device.resident.items()],
    )
    reading = device.reading
    if reading is not None:
        message.vram_used_bytes = reading.vram_used_bytes
        message.vram_free_bytes = reading.vram_free_bytes
        message.utilization_percent = reading.utilization_percent or 0
        message.temperature_celsius = max(0, reading.temperature_c or 0)
        message.power_watts = reading.power_w or 0.0
        message.ecc_errors = reading.ecc_errors or 0
    message.xids.extend(device.xids)
    return message


def _resident(workload: str, facts: ports.Facts) -> worker_pb2.ResidentModel:
    message = worker_pb2.ResidentModel(
        workload=workload, memory_bytes=facts.memory_bytes, budget=facts.budget, precision=facts.precision
    )
    message.load_duration.FromNanoseconds(int(facts.seconds * 1e9))
    return message


def _offer(offer: offers.OfferView) -> worker_pb2.WorkloadStatus:
    message = worker_pb2.WorkloadStatus(
        workload=offer.workload,
        credits=offer.credits,
        items_per_second=offer.items_per_s,
        unavailable_reason=offer.unavailable,
    )
    if offer.load_s is not None:
        message.load_duration.FromNanoseconds(int(offer.load_s * 1e9))
    return message
