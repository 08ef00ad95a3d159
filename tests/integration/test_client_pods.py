"""`podium pods` and `podium explain` against the real service over ledgers in memory."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal

import pytest
import structlog

from podium_cli import exits, main
from podium_scheduler.app import providers, records
from podium_scheduler.domain.pods import State
from tests.support.operator_pods_rig import TOKEN, Rig, served

Run = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    rig = Rig()
    # The service's log goes to the same stdout here.
    with structlog.testing.capture_logs():
        async with served(rig.use_cases()) as address:
            monkeypatch.setenv("PODIUM_OPERATOR_ADDRESS", address)
            monkeypatch.setenv("PODIUM_OPERATOR_TOKEN", TOKEN)
            yield rig


@pytest.fixture
def podium(capsys: pytest.CaptureFixture[str]) -> Run:
    async def run(*arguments: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(main.run, list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def cells(out: str) -> list[list[str]]:
    """The table's rows, without empty cells."""
    return [re.split(r" {2,}", line.strip()) for line in out.splitlines()]


def local(seconds: float) -> str:
    """A moment of the rig's day as the command shows it."""
    day = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    return f"{datetime.fromtimestamp(day + seconds):%Y-%m-%d %H:%M:%S}"


async def test_the_living_are_listed_and_the_dead_when_asked_for(rig: Rig, podium: Run) -> None:
    assert (await podium("pods"))[2] == "no pods\n"
    ready = await rig.pod_in(State.READY)
    failed = await rig.pod_in(State.FAILED)
    code, out, _ = await podium("pods")
    assert code == exits.OK
    assert cells(out)[0] == ["POD", "STATE", "PROVIDER", "GPU", "USD/H", "CREATED", "WORKER", "WHY"]
    assert cells(out)[1:] == [
        [str(ready.pod_id)[:8], "READY", "runpod", "1 x NVIDIA L4", "0.43", local(0), str(ready.worker_id)[:8]]
    ]
    rows = cells((await podium("pods", "--all"))[1])[1:]
    assert [row[0] for row in rows] == [str(failed.pod_id), str(ready.pod_id)]
    assert rows[0][-1] == "idle for 30 s"
    _, out, _ = await podium("pods", "--state", "failed", "--json")
    assert [json.loads(line)["pod_id"] for line in out.splitlines()] == [str(failed.pod_id)]
    code, _, err = await podium("pods", "-s", "GONE")
    assert code == exits.BAD_INPUT
    assert err.startswith("error: --state GONE: is none of INTENDED, CREATING, ")


async def test_a_pod_with_the_time_of_each_stage(rig: Rig, podium: Run) -> None:
    pod = await rig.pod_in(State.DRAINING, step_s=10.0)
    code, out, _ = await podium("pods", "get", str(pod.pod_id))
    assert code == exits.OK
    assert cells(out) == [
        ["pod", str(pod.pod_id)],
        ["name", pod.name],
        ["provider", f"runpod {pod.provider_pod_id}"],
        ["state", "DRAINING IDLE"],
        ["why", "idle for 30 s"],
        ["gpu", "1 x NVIDIA L4, secure"],
        ["price", "$0.43/h"],
        ["worker", str(pod.worker_id)],
        ["last seen", local(20)],
        ["STAGE", "TIME", "AFTER"],
        ["intended", local(0)],
        ["create call", local(10), "10.0 s"],
        ["listed", local(20), "10.0 s"],
        ["registered", local(30), "10.0 s"],
        ["ready", local(31), "1.0 s"],
        ["drain", local(41), "10.0 s"],
    ]
    assert pod.worker_id is not None
    rig.ledger.workers_gone[pod.worker_id] = rig.clock.now()
    _, out, _ = await podium("pods", "get", str(pod.pod_id))
    assert f"{pod.worker_id}, without a session since {local(41)}" in out
    _, out, _ = await podium("pods", "get", str(pod.pod_id), "--json")
    assert [step["state"] for step in json.loads(out)["history"]][-1] == "POD_STATE_DRAINING"


async def test_the_history_of_a_pod(rig: Rig, podium: Run) -> None:
    pod = await rig.pod_in(State.FAILED)
    _, out, _ = await podium("pods", "history", str(pod.pod_id))
    assert cells(out) == [
        ["TIME", "STATE", "CAUSE", "WHY"],
        [local(0), "INTENDED", "an operator asked for it"],
        [local(1), "FAILED", "IDLE", "idle for 30 s"],
    ]
    _, out, _ = await podium("pods", "history", str(pod.pod_id), "--json")
    assert [json.loads(line)["cause"] for line in out.splitlines()] == ["POD_REASON_UNSPECIFIED", "POD_REASON_IDLE"]


async def test_a_pod_is_named_by_the_beginning_of_its_id(rig: Rig, podium: Run) -> None:
    names = ["aaaaaaaa-0000-4000-8000-000000000001", "aaaaaaaa-0000-4000-8000-000000000002", "b" * 32]
    price = Decimal("0.43")
    await rig.ledger.intend([records.NewPod(uuid.UUID(n), n, "runpod", "NVIDIA L4", 1, price) for n in names])
    code, out, _ = await podium("pods", "destroy", "bbbb")
    assert (code, out) == (exits.OK, f"{uuid.UUID('b' * 32)}: FAILED, 1 x NVIDIA L4 at $0.43/h\n")
    # It is over now, and still found.
    assert (await podium("pods", "get", "bbbb"))[0] == exits.OK
    code, _, err = await podium("pods", "drain", "aaaa")
    assert (code, err) == (exits.BAD_INPUT, "error: aaaa: 2 pods have ids that begin so\n")
    code, _, err = await podium("pods", "drain", "c")
    assert (code, err) == (exits.BAD_INPUT, "error: c: no pod has an id that begins so\n")
    code, _, err = await podium("pods", "get", str(uuid.UUID(int=5)))
    assert code == exits.NOT_FOUND
    assert f"there is no pod {uuid.UUID(int=5)}" in err


async def test_a_pod_is_rented_drained_and_destroyed(rig: Rig, podium: Run) -> None:
    request = ("pods", "spawn", "runpod", "--gpu-type", "NVIDIA L4", "--gpus", "4", "--request-id", str(uuid.uuid4()))
    code, out, _ = await podium(*request)
    (pod,) = rig.ledger.rows.values()
    assert (code, out) == (exits.OK, f"{pod.pod_id}: INTENDED, 4 x NVIDIA L4 at $1.72/h\n")
    assert json.loads((await podium(*request, "--json"))[1])["pod_id"] == str(pod.pod_id)
    await rig.bring(pod, State.READY)
    assert (await podium("pods", "drain", str(pod.pod_id)))[1].split()[1] == "DRAINING,"
    assert (await podium("pods", "destroy", str(pod.pod_id)))[1].split()[1] == "DESTROYING,"
    _, out, _ = await podium("pods", "destroy", str(pod.pod_id), "--json")
    assert json.loads(out)["cause"] == "POD_REASON_OPERATOR"


async def test_why_a_pod_is_not_rented_is_one_line(rig: Rig, podium: Run) -> None:
    code, _, err = await podium("pods", "spawn", "vast")
    assert (code, err) == (exits.BAD_INPUT, "error: provider: is none of runpod\n")
    code, _, err = await podium("pods", "spawn", "runpod", "--request-id", "1")
    assert (code, err) == (exits.BAD_INPUT, "error: request_id: must be a UUID\n")
    code, _, err = await podium("pods", "spawn", "runpod", "--gpu-type", "NVIDIA A40")
    assert code == exits.UNAVAILABLE
    assert "runpod: there is none of it now" in err
    assert "try again in 60 s" in err
    rig.market.fails = providers.OutOfFunds("the account has no money left")
    code, _, err = await podium("pods", "spawn", "runpod")
    assert code == exits.WRONG_STATE
    assert "runpod: the account has no money left" in err


async def test_limits_are_shown_and_only_what_is_named_changes(rig: Rig, podium: Run) -> None:
    _, out, _ = await podium("pods", "limits")
    assert cells(out) == [
        ["autoscaling", "on"],
        ["providers", "runpod"],
        ["pods", "0 to 5"],
        ["per hour", "$4.00"],
        ["per day", "no limit"],
    ]
    assert await rig.scaling.limits() is None
    _, out, _ = await podium("pods", "limits", "--min-pods", "1", "--usd-per-day", "50", "--usd-per-hour", "0")
    assert [row[1] for row in cells(out)][2:] == ["1 to 5", "no limit", "$50.00"]
    code, _, err = await podium("pods", "limits", "--max-pods", "0")
    assert (code, err) == (exits.BAD_INPUT, "error: autoscaling.min_pods: must be at most max_pods\n")
    assert (await podium("pods", "limits", "--usd-per-day", "nan"))[0] == exits.BAD_INPUT
    assert cells((await podium("pods", "pause"))[1])[0] == ["autoscaling", "paused"]
    assert await rig.scaling.limits() == records.ScalingLimits(True, 1, 5, None, Decimal("50"))
    _, out, _ = await podium("pods", "resume", "--json")
    assert json.loads(out) == {
        "autoscaling": {
            "paused": False, "min_pods": 1, "max_pods": 5, "max_usd_per_hour": 0.0, "max_usd_per_day": 50.0,
        },
        "providers": ["runpod"],
    }  # fmt: skip


async def test_why_a_queue_has_the_pods_it_has(rig: Rig, podium: Run) -> None:
    said = records.Decision("minilm", "Wait", "12 s of work wait for a fuller pod", None, rig.clock.now())
    rig.scaling.said.append(said)
    _, out, _ = await podium("explain", "minilm")
    assert out == "2026-01-01T00:00:00Z Wait: 12 s of work wait for a fuller pod\n"
    _, out, _ = await podium("explain", "minilm", "--json")
    assert len(json.loads(out)["reasons"]) == 1
    assert (await podium("explain", "no-such"))[0] == exits.NOT_FOUND


async def test_without_providers_the_autoscaler_says_that_it_is_off(
    rig: Rig, podium: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(rig.use_cases({})) as address:
        monkeypatch.setenv("PODIUM_OPERATOR_ADDRESS", address)
        _, out, _ = await podium("pods", "limits")
        assert cells(out)[:2] == [["autoscaling", "off: no provider is configured"], ["providers", "-"]]
        assert (await podium("explain", "minilm"))[1] == "autoscaling is off: no provider of pods is configured\n"
        code, _, err = await podium("pods", "spawn", "runpod")
        assert code == exits.WRONG_STATE
        assert "no provider of pods is configured" in err
