"""Pods as child processes: real ones, small, and none of them left over."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from podium_runtime.clock import FakeClock
from podium_scheduler.adapters.providers import local, local_gpus, local_launch, local_records
from podium_scheduler.app import providers

STEP_S = 30.0
OFFER = providers.Offer(provider="local", gpu_type="", gpu_count=0, price_usd_per_hour=0.25)
# Each says into a file of the folder what it is, when it is ready.
SLEEPS = "import os, sys, time; open(sys.argv[1], 'x').write(str(os.getpid())); time.sleep(600)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPS
LEAVES_A_CHILD = (
    "import subprocess, sys; "
    f"subprocess.Popen([sys.executable, '-c', {SLEEPS!r}, sys.argv[1]], start_new_session='own' in sys.argv)"
)


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    """Asks again until it is so. Raises TimeoutError."""
    async with asyncio.timeout(STEP_S):
        while not await true():  # noqa: ASYNC110 - processes announce nothing
            await asyncio.sleep(0.005)


class Machine:
    """A provider over a folder, and what it started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.settings = local.Settings(
            folder=folder / "pods", prefix="podium-t-", program=(sys.executable, "-I", "-S", "-c"), max_count=3
        )
        self.opened: list[local.Local] = []
        self.provider = self.open()

    def open(self, **changes: object) -> local.Local:
        """As a scheduler that starts does."""
        self.settings = replace(self.settings, **changes)  # type: ignore[arg-type]
        self.provider = local.Local(self.settings, self.clock, self._no_gpus)
        self.opened.append(self.provider)
        return self.provider

    async def _no_gpus(self) -> local_gpus.Gpus:
        return local_gpus.Gpus()

    def order(self, number: int, program: str = SLEEPS, **environment: str) -> providers.Order:
        """A pod whose script is given the path of its file."""
        name = f"podium-t-{number}"
        return providers.Order(UUID(int=number), name, OFFER, "any", (program, str(self.folder / name)), environment)

    async def pid(self, number: int) -> int:
        """That the script of a pod wrote, once it runs."""
        file = self.folder / f"podium-t-{number}"

        async def written() -> bool:
            return file.exists() and file.read_text() != ""

        await until(written)
        return int(file.read_text())

    async def listed(self) -> dict[str, providers.Listed]:
        return {pod.name: pod for pod in await self.provider.list()}

    async def until_listed(self, *names: str) -> None:
        async def so() -> bool:
            return sorted(await self.listed()) == sorted(names)

        await until(so)

    async def until_status(self, number: int, status: providers.Status) -> providers.Listed:
        async def so() -> bool:
            return (await self.listed())[f"podium-t-{number}"].status is status

        await until(so)
        return (await self.listed())[f"podium-t-{number}"]

    async def clear(self) -> None:
        """Ends everything, by the records alone."""
        records = local_records.Records(self.settings.folder)
        for record in records.all():
            for process in records.living(record, local_records.Snapshot()):
                process.signal(signal.SIGKILL)
        for provider in self.opened:
            await provider.close()

            async def ended(provider: local.Local = provider) -> bool:
                return all(pod.status is providers.Status.STOPPED for pod in await provider.list())

            await until(ended)


@pytest.fixture
async def machine(tmp_path: Path) -> AsyncIterator[Machine]:
    machine = Machine(tmp_path)
    try:
        yield machine
    finally:
        await machine.clear()


async def test_a_pod_runs_and_is_listed_with_its_price(machine: Machine) -> None:
    created = await machine.provider.create(machine.order(1))
    assert created == (await machine.listed())["podium-t-1"]
    assert created.status is providers.Status.RUNNING
    assert (created.price_usd_per_hour, created.create_time) == (0.25, machine.clock.now())
    assert local_records.Records(machine.settings.folder).one("podium-t-1").pid == await machine.pid(1)  # type: ignore[union-attr]


async def test_the_environment_is_the_orders_and_what_may_be_inherited(machine: Machine) -> None:
    machine.open(environment=local.inheritable({"HOME": "/somewhere", "PODIUM_POSTGRES_URL": "secret"}))
    await machine.provider.create(machine.order(1, PODIUM_JOIN_TOKEN="once"))
    environment = Path(f"/proc/{await machine.pid(1)}/environ").read_bytes().decode().split("\0")
    assert {"HOME=/somewhere", "PODIUM_JOIN_TOKEN=once", f"PODIUM_PARENT_PID={os.getpid()}"} <= set(environment)
    assert "secret" not in "".join(environment)


async def test_a_name_is_started_once(machine: Machine) -> None:
    both = await asyncio.gather(*(machine.provider.create(machine.order(1)) for _ in range(2)))
    assert both[0] == both[1]
    os.kill(await machine.pid(1), signal.SIGKILL)
    await machine.until_status(1, providers.Status.STOPPED)
    again = await machine.provider.create(machine.order(1))
    assert again.status is providers.Status.STOPPED


async def test_another_scheduler_of_the_same_folder_does_not_start_it_either(machine: Machine) -> None:
    schedulers = [machine.provider, machine.open(), machine.open()]
    made = await asyncio.gather(*(scheduler.create(machine.order(1)) for scheduler in schedulers))
    assert made[0] == made[1] == made[2]
    os.kill(await machine.pid(1), signal.SIGKILL)
    await machine.until_status(1, providers.Status.STOPPED)
    details = {pod.detail for scheduler in schedulers for pod in await scheduler.list()}
    assert details <= {"Its process has ended.", "Its process was killed by signal 9."}


async def test_a_name_that_no_pod_may_have_is_refused(machine: Machine) -> None:
    with pytest.raises(providers.Refused):
        await machine.provider.create(replace(machine.order(1), name="podium-t-../1"))


async def test_no_more_pods_than_allowed_at_a_time(machine: Machine) -> None:
    machine.open(max_count=1)
    await machine.provider.create(machine.order(1))
    with pytest.raises(providers.NoCapacity):
        await machine.provider.create(machine.order(2))
    assert list(await machine.listed()) == ["podium-t-1"]
    os.kill(await machine.pid(1), signal.SIGKILL)
    await machine.until_status(1, providers.Status.STOPPED)
    await machine.provider.create(machine.order(2))


async def test_a_program_that_is_not_there_is_refused_and_leaves_nothing(machine: Machine) -> None:
    machine.open(program=("no-such-program",))
    with pytest.raises(providers.Refused, match="no-such-program: No such file"):
        await machine.provider.create(machine.order(1))
    assert await machine.listed() == {}


async def test_an_end_of_its_own_is_listed_until_destroyed(machine: Machine) -> None:
    await machine.provider.create(machine.order(1, "raise SystemExit(3)"))
    assert (await machine.until_status(1, providers.Status.STOPPED)).detail == "Its process ended with exit code 3."
    await machine.provider.destroy("podium-t-1")
    assert await machine.listed() == {}


async def test_destroy_ends_it_and_it_is_listed_until_it_has_ended(machine: Machine) -> None:
    await machine.provider.create(machine.order(1))
    pid = await machine.pid(1)
    await machine.provider.destroy("podium-t-1")
    await machine.until_listed()
    assert not Path(f"/proc/{pid}").exists(), "not even a zombie"
    await machine.provider.destroy("podium-t-1")


async def test_one_that_ignores_sigterm_is_killed_after_the_grace_and_not_before(machine: Machine) -> None:
    await machine.provider.create(machine.order(1, STUBBORN))
    pid = await machine.pid(1)
    await machine.provider.destroy("podium-t-1")
    await asyncio.sleep(0)
    machine.clock.advance(machine.settings.grace_s - 0.1)
    await machine.provider.destroy("podium-t-1")
    assert (await machine.listed())["podium-t-1"].status is providers.Status.RUNNING
    machine.clock.advance(0.1)
    await machine.until_listed()
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("session", ["own", "the same"])
async def test_children_that_outlive_the_first_process_are_seen_and_ended(machine: Machine, session: str) -> None:
    order = machine.order(1, LEAVES_A_CHILD)
    await machine.provider.create(replace(order, command=(*order.command, session)))
    child = await machine.pid(1)
    assert "1 of its children still run" in (await machine.until_status(1, providers.Status.STOPPED)).detail
    await machine.provider.destroy("podium-t-1")
    await machine.until_listed()
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


async def test_names_of_others_and_unknown_ones_are_left_alone(machine: Machine) -> None:
    for name in ("podium-t-9", "../../etc/passwd", ""):
        await machine.provider.destroy(name)
    order = replace(machine.order(1), name="other-1")
    await machine.provider.create(order)
    assert await machine.listed() == {}
    await machine.provider.destroy("other-1")


async def test_a_pid_is_a_pod_s_only_with_its_start_time_and_its_boot(machine: Machine) -> None:
    command = [sys.executable, "-c", "input()"]
    stranger = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: ASYNC220
    try:
        await machine.provider.create(machine.order(1, "pass"))
        await machine.until_status(1, providers.Status.STOPPED)
        record = machine.settings.folder / "podium-t-1.json"
        its_start = local_records.Snapshot().by_pid[stranger.pid].start_ticks
        taken = {**json.loads(record.read_text()), "pid": stranger.pid}
        theirs = {"its own": taken | {"start_ticks": its_start}, "another start": taken}
        theirs["another boot"] = theirs["its own"] | {"boot_id": "another"}
        runs = {}
        for what, content in theirs.items():
            record.write_text(json.dumps(content))
            runs[what] = (await machine.listed())["podium-t-1"].status is providers.Status.RUNNING
        assert runs == {"its own": True, "another start": False, "another boot": False}
        await machine.provider.destroy("podium-t-1")
        assert await machine.listed() == {}
        assert stranger.poll() is None, "the stranger was not signalled"
    finally:
        stranger.communicate()


# --- a scheduler that is killed ------------------------------------------------------------------------------------

SCHEDULER = """
import asyncio, os, sys, uuid
from pathlib import Path
from podium_runtime.clock import SystemClock
from podium_scheduler.adapters.providers import local
from podium_scheduler.app import providers

async def main(folder, tied, dies_at, script):
    settings = local.Settings(folder=Path(folder) / "pods", prefix="podium-t-", end_with_scheduler=tied == "tied",
                                   program=(sys.executable, "-I", "-S", "-c"))
    if dies_at == "spawned":
        spawn = os.posix_spawn
        def spawn_and_die(*args, **kwargs):
            spawn(*args, **kwargs)
            os.kill(os.getpid(), 9)
        os.posix_spawn = spawn_and_die
    offer = providers.Offer("local", "", 0, 0.25)
    order = providers.Order(uuid.UUID(int=1), "podium-t-1", offer, "any", (script, f"{folder}/podium-t-1"), {})
    await local.Local(settings, SystemClock()).create(order)
    print("created", flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


def start_scheduler(machine: Machine, *arguments: str) -> subprocess.Popen[bytes]:
    command: Sequence[str] = (sys.executable, "-c", SCHEDULER, str(machine.folder), *arguments, SLEEPS)
    return subprocess.Popen(command, stdout=subprocess.PIPE)


async def test_the_next_scheduler_finds_what_a_killed_one_left(machine: Machine) -> None:
    scheduler = start_scheduler(machine, "free", "never")
    assert scheduler.stdout is not None
    assert await asyncio.to_thread(scheduler.stdout.readline) == b"created\n"
    pid = await machine.pid(1)
    scheduler.kill()
    scheduler.communicate()
    assert (await machine.listed())["podium-t-1"].status is providers.Status.RUNNING
    assert Path(f"/proc/{pid}").exists()
    await machine.provider.destroy("podium-t-1")
    await machine.until_listed()


async def test_a_scheduler_killed_right_after_the_spawn_leaves_no_process_that_is_not_listed(machine: Machine) -> None:
    scheduler = start_scheduler(machine, "free", "spawned")
    assert await asyncio.to_thread(scheduler.wait) == -signal.SIGKILL
    scheduler.communicate()
    pid = await machine.pid(1)
    assert (await machine.listed())["podium-t-1"].status is providers.Status.RUNNING
    assert (await machine.provider.create(machine.order(1))).status is providers.Status.RUNNING
    assert local_records.Records(machine.settings.folder).one("podium-t-1").pid == pid  # type: ignore[union-attr]
    await machine.provider.destroy("podium-t-1")
    await machine.until_listed()


async def test_pods_that_are_to_end_with_the_scheduler_do(machine: Machine) -> None:
    scheduler = start_scheduler(machine, "tied", "never")
    await machine.pid(1)
    scheduler.kill()
    scheduler.communicate()
    await machine.until_status(1, providers.Status.STOPPED)


async def test_a_launch_after_its_deadline_never_becomes_a_pod(machine: Machine) -> None:
    record = machine.settings.folder / "podium-t-1.json"
    read_end, write_end = os.pipe()
    arguments = [sys.executable, local_launch.__file__, str(record), str(time.monotonic() - 1), "{}", "true"]
    to_report = [(os.POSIX_SPAWN_DUP2, write_end, local_launch.REPORT_FD)]
    pid = os.posix_spawn(sys.executable, arguments, os.environ, file_actions=to_report)  # noqa: ASYNC221
    os.close(write_end)
    with os.fdopen(read_end) as said:
        assert "too late" in await asyncio.to_thread(said.read)
    _, status = await asyncio.to_thread(os.waitpid, pid, 0)
    assert os.waitstatus_to_exitcode(status) == 127
    assert list(machine.settings.folder.iterdir()) == []


# --- offers --------------------------------------------------------------------------------------------------------


async def test_a_machine_without_gpus_offers_its_cpu(machine: Machine) -> None:
    (offer,) = await machine.provider.offers()
    assert (offer.key, offer.price_usd_per_hour, offer.max_count) == ("local/cpu/0/NONE/", 0.0, 3)


async def test_gpus_are_offered_together_and_asked_for_until_they_answer(machine: Machine) -> None:
    answers = [None, local_gpus.parse("NVIDIA L4, 23034, 8.9\nNVIDIA L4, 23034, 8.9\n")]

    async def discover() -> local_gpus.Gpus | None:
        return answers.pop(0)

    provider = local.Local(machine.settings, machine.clock, discover)
    assert (await provider.offers())[0].gpu_count == 0
    for _ in range(2):
        (offer,) = await provider.offers()
        assert (offer.device_name, offer.gpu_count, offer.vram_bytes) == ("NVIDIA L4", 2, 23034 << 20)
        assert offer.compute_capability == "8.9"


@pytest.mark.parametrize(
    ("answer", "gpus"),
    [
        ("", local_gpus.Gpus()),
        ("No devices were found\n", local_gpus.Gpus()),
        ("Tesla K80, 11441\n", local_gpus.Gpus("Tesla K80", 1, 11441 << 20)),
        ("NVIDIA A30, 24576, [N/A]\n", local_gpus.Gpus("NVIDIA A30", 1, 24576 << 20)),
        ("Unable to reach GPU0, x\nNVIDIA L4, 23034, 8.9", local_gpus.Gpus("NVIDIA L4", 1, 23034 << 20, "8.9")),
    ],
)  # fmt: skip
def test_what_nvidia_smi_says(answer: str, gpus: local_gpus.Gpus) -> None:
    assert local_gpus.parse(answer) == gpus


async def test_an_old_driver_is_asked_again_without_the_field_that_it_does_not_know(tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\ncase "$1" in *compute_cap*) exit 2;; *) echo "Tesla K80, 11441";; esac\n')
    tool.chmod(0o755)
    assert await local_gpus.discover(str(tool)) == local_gpus.Gpus("Tesla K80", 1, 11441 << 20)
    assert await local_gpus.discover(str(tmp_path / "nothing")) == local_gpus.Gpus()
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert await local_gpus.discover(str(tool)) is None
