"""What one round of the watch over pods costs: 1,000 pods with their workers, a backlog of 1,000,000 batches.

`python -m tests.bench.watch_round` measures it on a real Postgres, first without history, then after 100,000 pods and
1,000,000 batches that are over: keeping, readiness, facts, decision and what is written. Everything is the scheduler's
own, called in-process; only the provider and the frames of the workers are made up.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import asyncpg
from sqlalchemy import text

from podium.common.v1 import workload_pb2
from podium.worker.v1 import worker_pb2
from podium_embedded import EmbeddedPostgres
from podium_runtime import clock, ids
from podium_scheduler.adapters.sql import (
    cost_ledger,
    database,
    load_ledger,
    migrate,
    pod_ledger,
    scaling_ledger,
    session_ledger,
)
from podium_scheduler.app import autoscaler, fleet_facts, job_costs, loops, pod_keeper, pod_readiness, providers
from podium_scheduler.domain import offers, pods
from podium_scheduler.domain.autoscaling import actions, observed, policy
from podium_scheduler.domain.autoscaling import autoscaler as rule

WORKLOADS, GPUS = 50, 25
"""And four offers of each GPU."""
_GIB = 1 << 30
_BACKENDS = text("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'")
_TICKS = os.sysconf("SC_CLK_TCK")
_HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much there is."""

    pods: int = 1_000
    jobs: int = 5_000
    """Active ones, and as many that are over."""
    batches: int = 200
    """Of each job."""
    ended_pods: int = 100_000


def _fleet(sizes: Sizes) -> str:
    """READY pods with what they cost and did. Their workers are theirs by number."""
    return f"""
    INSERT INTO pods (pod_id, name, provider, provider_pod_id, state, workload, gpu_type, gpu_count, vram_bytes,
        compute_capability, cloud, price_usd_per_hour, worker_id, create_time, call_time, listed_time, registered_time,
        ready_time, last_seen_time)
    SELECT md5('pod ' || n)::uuid, 'podium-' || n, 'cloud', 'id-' || n, 'READY', 'w' || n % {WORKLOADS},
        'GPU ' || n % {GPUS}, 1, {24 * _GIB}, '8.9', 'COMMUNITY', 0.34, md5('worker ' || n)::uuid,
        at, at, at, at, at, now() - n % 30 * interval '1 s'
    FROM (SELECT n, now() - interval '1 h' - n * interval '1 s' AS at
          FROM generate_series(1, {sizes.pods}) AS n) AS made;
    INSERT INTO pod_prices (pod_id, start_time, price_usd_per_hour)
        SELECT pod_id, call_time, price_usd_per_hour FROM pods;
    INSERT INTO pod_events (pod_id, time, state, reason)
        SELECT pod_id, create_time, was, 'NONE' FROM pods,
            unnest(array['INTENDED','CREATING','STARTING','READY']) AS was;
    INSERT INTO pod_work (pod_id, workload, busy_s, load_s, last_time)
        SELECT pod_id, 'w' || k, 100, 10, now() - interval '5 s' FROM pods, generate_series(1, 3) AS k;
    INSERT INTO throughputs SELECT 'w' || w, 'GPU ' || d, 40 + d, 100, now()
        FROM generate_series(0, {WORKLOADS - 1}) AS w, generate_series(0, {GPUS - 1}) AS d;
    """


def _backlog(sizes: Sizes) -> str:
    """Jobs of all workloads, due one after the other: about what the fleet can do."""
    return f"""
    WITH new AS (
        INSERT INTO jobs (job_id, app_id, request_id, payload_digest, workload, modality, priority, options, state,
            item_count, batch_count, batches_pending, feedable, create_time, deadline)
        SELECT gen_random_uuid(), 'default', gen_random_uuid(), '', 'w' || n % {WORKLOADS}, 1, 3, '', 'PENDING',
            {sizes.batches * 240}, {sizes.batches}, {sizes.batches}, true, now() - n * interval '1 s',
            now() + interval '10 min' + n * interval '90 min' / {sizes.jobs}
        FROM generate_series(1, {sizes.jobs}) AS n
        RETURNING job_id
    )
    INSERT INTO batches (job_id, first_item, item_count, payload, payload_encoding)
    SELECT job_id, n * 240, 240, '\\x00', 1 FROM new CROSS JOIN generate_series(0, {sizes.batches - 1}) AS n;
    """


def _history(sizes: Sizes) -> str:
    """Pods of the last half year, and jobs of the last weeks, with their batches in the hot table, which is worst."""
    return f"""
    INSERT INTO pods (pod_id, name, provider, provider_pod_id, state, reason, workload, gpu_type, gpu_count,
        price_usd_per_hour, worker_id, create_time, call_time, listed_time, registered_time, ready_time, drain_time,
        destroy_time, end_time, last_seen_time)
    SELECT md5('old ' || n)::uuid, 'old-' || n, 'cloud', 'old-' || n, 'DESTROYED', 'IDLE', 'w1', 'GPU 1', 1, 0.34,
        md5('old worker ' || n)::uuid, at, at, at, at, at, ended, ended, ended, at
    FROM (SELECT n, now() - interval '26 h' - n * interval '150 s' AS at,
                 now() - interval '25 h' - n * interval '150 s' AS ended
          FROM generate_series(1, {sizes.ended_pods}) AS n) AS old;
    INSERT INTO pod_prices (pod_id, start_time, end_time, price_usd_per_hour)
        SELECT pod_id, call_time, end_time, price_usd_per_hour FROM pods WHERE end_time IS NOT NULL;
    INSERT INTO pod_events (pod_id, time, state, reason)
        SELECT pod_id, create_time, was, 'NONE' FROM pods,
            unnest(array['INTENDED','CREATING','STARTING','READY','DRAINING','DESTROYED']) AS was
        WHERE end_time IS NOT NULL;
    INSERT INTO pod_work (pod_id, workload, busy_s, load_s, last_time)
        SELECT pod_id, 'w' || k, 100, 10, end_time FROM pods, generate_series(1, 3) AS k WHERE end_time IS NOT NULL;
    INSERT INTO sessions (session_id, worker_id, replica_id, hostname, version, hello, state, expire_time, connect_time)
        SELECT gen_random_uuid(), worker_id, 'a', 'h', '0', '', 'ENDED', end_time, create_time
        FROM pods WHERE end_time IS NOT NULL;
    INSERT INTO pod_decisions (workload, kind, reason) SELECT 'w' || n % {WORKLOADS}, 'Spawn', 'because'
        FROM generate_series(1, {WORKLOADS} * 200) AS n;
    WITH new AS (
        INSERT INTO jobs (job_id, app_id, request_id, payload_digest, workload, modality, priority, options, state,
            item_count, batch_count, batches_finished, items_succeeded, items_released, feedable, create_time,
            start_time, finish_time, expire_time)
        SELECT gen_random_uuid(), 'default', gen_random_uuid(), '', 'w' || n % {WORKLOADS}, 1, 3, '', 'COMPLETED',
            items, {sizes.batches}, {sizes.batches}, items, items, false, at, at, at, at + interval '90 days'
        FROM (SELECT n, {sizes.batches} * 240 AS items, now() - interval '1 h' - n * interval '300 s' AS at
              FROM generate_series(1, {sizes.jobs}) AS n) AS history
        RETURNING job_id, finish_time
    )
    INSERT INTO batches (job_id, first_item, item_count, state, attempt, queue_time, lease_time, finish_time,
        payload_encoding, items_succeeded)
    SELECT job_id, n * 240, 240, 'DELIVERED', 1, finish_time, finish_time, finish_time, 1, 240
    FROM new CROSS JOIN generate_series(0, {sizes.batches - 1}) AS n;
    """


async def _sessions(connection: asyncpg.Connection, count: int) -> None:
    """A worker on each pod, with what it has loaded and in hand."""
    workers = await connection.fetch("SELECT worker_id, workload FROM pods WHERE end_time IS NULL ORDER BY pod_id")
    assert len(workers) == count
    rows = [
        (uuid.uuid4(), row["worker_id"], *_frames(row["worker_id"], row["workload"], number))
        for number, row in enumerate(workers)
    ]
    await connection.executemany(
        "INSERT INTO sessions (session_id, worker_id, replica_id, hostname, version, hello, status, state, expire_time)"
        " VALUES ($1, $2, 'a', 'h', '0', $3, $4, 'OPEN', now() + interval '1 h')",
        rows,
    )


def _frames(worker_id: uuid.UUID, workload: str, number: int) -> tuple[bytes, bytes]:
    device = worker_pb2.Device(uuid=f"GPU-{number}", name="NVIDIA GPU", vram_bytes=24 * _GIB, compute_capability="8.9")
    hello = worker_pb2.Hello(worker_id=str(worker_id), hostname="h", version="0", devices=[device], backends=["hash"])
    status = worker_pb2.Status(
        devices=[worker_pb2.DeviceStatus(state=worker_pb2.DEVICE_STATE_BUSY, resident_workloads=[workload])],
        in_hand=[worker_pb2.Lease(batch_id=4 * number + n, lease_token=b"t" * 16) for n in range(4)],
        total_credits=8,
    )
    return hello.SerializeToString(), status.SerializeToString()


class Cloud:
    """A provider that does what it is asked for, at once, and lists every pod that the ledger had at the begin."""

    name = "cloud"
    list_lag_s = 30.0

    def __init__(self, there: Sequence[tuple[str, str]]) -> None:
        self._there = {number: self._listed(number, name) for number, name in there}

    async def offers(self) -> list[offers.Offer]:
        """Each GPU in two clouds and in two regions."""
        return [
            offers.Offer("cloud", gpu, 1, price, 24 * _GIB, "8.9", cloud=cloud, region=region)
            for gpu in (f"GPU {n}" for n in range(GPUS))
            for price, cloud in ((0.34, offers.Cloud.COMMUNITY), (0.69, offers.Cloud.SECURE))
            for region in ("", "eu")
        ]

    async def create(self, order: providers.Order) -> providers.Listed:
        """Makes it."""
        made = self._there[f"new-{order.name}"] = self._listed(f"new-{order.name}", order.name)
        return made

    async def list(self) -> list[providers.Listed]:
        """All of them."""
        return list(self._there.values())

    async def destroy(self, provider_pod_id: str) -> None:
        """Takes it away."""
        self._there.pop(provider_pod_id, None)

    async def close(self) -> None:
        """Nothing to give back."""

    def _listed(self, number: str, name: str) -> providers.Listed:
        return providers.Listed(number, name, providers.Status.RUNNING, 0.34, "GPU", 1)


@dataclass
class Watch:
    """The leader's loops, each timed."""

    pool: database.Database
    cloud: Cloud
    taken: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Seconds, by part, a figure for each round."""
    acts: int = 0

    def __post_init__(self) -> None:
        time_, make = clock.SystemClock(), ids.SystemIds()
        self._pods = pod_ledger.PodLedger(self.pool, _HOUR)
        scaling = scaling_ledger.ScalingLedger(self.pool)
        sessions = session_ledger.SessionLedger(self.pool, _HOUR)
        known = {f"w{n}": workload_pb2.Workload(name=f"w{n}") for n in range(WORKLOADS)}
        costs = cost_ledger.CostLedger(self.pool)
        facts = fleet_facts.FleetFacts(
            self._pods,
            scaling,
            sessions,
            load_ledger.LoadLedger(self.pool),
            costs,
            known,
            None,
            job_costs.JobCosts(costs),
        )
        self._keeper = pod_keeper.PodKeeper(self._pods, self.cloud, _order, make, time_, pod_keeper.Rules())
        self._readiness = pod_readiness.PodReadiness(self._pods, sessions)
        self._offers = autoscaler.OfferWatch([self.cloud], time_)
        rules = policy.Policy(limits=policy.Limits(max_pods=2_000))
        self._facts = facts
        self._autoscaler = autoscaler.Autoscaler(
            self._pods, scaling, facts, self._offers, _NoDrains(), rules, "podium", make, time_, _Awake(), self._decide
        )

    async def round(self) -> None:
        """One of each."""
        if not self._offers.known:
            await self._offers.run_once()
        begun, computed, queried = time.perf_counter(), time.process_time(), await self._queried_s()
        await self._timed("keep", self._keeper)
        await self._timed("look who is ready", self._readiness)
        await self._timed("autoscale", self._autoscaler)
        self.taken["whole"].append(time.perf_counter() - begun)
        self.taken["computed here"].append(time.process_time() - computed)
        self.taken["computed in Postgres"].append(await self._queried_s() - queried)
        self.taken["computed"].append(self.taken["computed here"][-1] + self.taken["computed in Postgres"][-1])
        begun = time.perf_counter()
        await self._facts.gather(self._offers.known)
        self.taken["of autoscale: facts"].append(time.perf_counter() - begun)

    async def _queried_s(self) -> float:
        """CPU time of the pool's backends so far, in seconds, to a hundredth."""
        async with self.pool.transaction() as connection:
            pids = (await connection.scalars(_BACKENDS)).all()
        fields = [Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split() for pid in pids]
        return sum(int(user) + int(system) for *_, user, system in (of[11:13] for of in fields)) / _TICKS

    async def _timed(self, part: str, loop: loops.PatientLoop) -> None:
        begun = time.perf_counter()
        await loop.run_once()
        self.taken[part].append(time.perf_counter() - begun)

    def _decide(self, seen: observed.Observed, rules: policy.Policy, now: float) -> list[actions.Action]:
        begun = time.perf_counter()
        decided = rule.decide(seen, rules, now)
        self.taken["of autoscale: decide"].append(time.perf_counter() - begun)
        self.acts += sum(not isinstance(action, actions.Alert | actions.Wait) for action in decided)
        return decided


class _Awake:
    """Nobody waits for a wake-up here."""

    def __init__(self) -> None:
        self.autoscaler = asyncio.Event()

    async def keep(self) -> None:
        pass


class _NoDrains:
    async def drain(self, worker_id: uuid.UUID) -> bool:
        return True


def _order(pod: pods.Pod, token: str) -> providers.Order:
    return providers.Order(pod.pod_id, pod.name, fleet_facts.offer_of(pod), "image", (), {"PODIUM_JOIN_TOKEN": token})


async def measure(folder: Path, sizes: Sizes, count: int) -> dict[str, Watch]:
    """Rounds without history and with it: `count` each, after one that warms up."""
    found: dict[str, Watch] = {}
    async with EmbeddedPostgres(folder) as postgres:
        await migrate.upgrade(postgres.url)
        pool = database.Database(postgres.url, pool_size=4)
        connection = await asyncpg.connect(postgres.url.replace("+asyncpg", ""), command_timeout=900)
        try:
            # To get there sooner: no wait for the disk, and no look-up of each batch's job.
            await connection.execute("SET synchronous_commit = off; SET session_replication_role = replica")
            await connection.execute("INSERT INTO apps (app_id) VALUES ('default') ON CONFLICT DO NOTHING")
            for statements in (_fleet(sizes), _backlog(sizes)):
                await connection.execute(statements)
            await _sessions(connection, sizes.pods)
            there = await connection.fetch("SELECT provider_pod_id, name FROM pods WHERE end_time IS NULL")
            cloud = Cloud([tuple(row) for row in there])
            found["without history"] = await _rounds(pool, cloud, connection, count)
            await connection.execute(_history(sizes))
            found["with history"] = await _rounds(pool, cloud, connection, count)
        finally:
            await connection.close()
            await pool.close()
    return found


async def _rounds(pool: database.Database, cloud: Cloud, connection: asyncpg.Connection, count: int) -> Watch:
    await connection.execute("VACUUM ANALYZE")
    watch = Watch(pool, cloud)
    await watch.round()
    watch.taken.clear()
    for _ in range(count):
        await watch.round()
    return watch


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.watch_round", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path, help="where to write the figures, in seconds")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="podium-watch-") as name:
        found = asyncio.run(measure(Path(name), Sizes(), asked.rounds))
    for how, watch in found.items():
        print(f"{how}, {watch.acts} acts in {asked.rounds + 1} rounds")
        for part, seconds in watch.taken.items():
            best, median, worst = (1e3 * pick(seconds) for pick in (min, statistics.median, max))
            print(f"  {part:24} best {best:7.1f} ms   median {median:7.1f} ms   worst {worst:7.1f} ms")
    if asked.json:
        figures = {how: dict(watch.taken) for how, watch in found.items()}
        asked.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
