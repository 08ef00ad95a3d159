"""What runs all the time must not read all of history: no loop's statement scans the table of batches."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import TextClause, text

from podium_scheduler.adapters.sql import (
    archive_ledger,
    batch_ledger,
    cost_ledger,
    database,
    job_ledger,
    operator_ledger,
    pod_ledger,
    scaling_ledger,
    session_ledger,
)
from tests.support import stack

STATEMENTS = {
    "depths": batch_ledger._DEPTHS,
    "open batch counts": batch_ledger._OPEN_BATCH_COUNTS,
    "queues": operator_ledger._QUEUES,
    "stray leases": session_ledger._ENDED_WITH_LEASES,
    "leases of a session": batch_ledger._LEASES_OF,
    "queued for long": batch_ledger._QUEUED_SINCE,
    "demands": scaling_ledger._DEMANDS,
}
_BACKLOG = text("""
    INSERT INTO jobs (job_id, app_id, request_id, payload_digest, workload, modality, priority, options, state,
                      item_count, batch_count, batches_pending, feedable)
    SELECT gen_random_uuid(), 'default', gen_random_uuid(), '', CASE WHEN n % 2 = 0 THEN 'a' ELSE 'b' END, 1, 3, '',
           'PENDING', 1, 1, 1, true
    FROM generate_series(1, 2000) AS n
""")
_HISTORY = text("""
    INSERT INTO jobs (job_id, app_id, request_id, payload_digest, workload, modality, priority, options, state,
                      item_count, batch_count, batches_finished, items_succeeded, items_released, feedable, create_time,
                      finish_time, expire_time, archived)
    SELECT gen_random_uuid(), 'default', gen_random_uuid(), '', 'a', 1, 3, '', 'COMPLETED', 1, 1, 1, 1, 1, false,
           now() - n * interval '1 s', now() - n * interval '1 s', now() + interval '7 days', true
    FROM generate_series(1, 20000) AS n
""")
# What a loop or a call asks again and again, and how many rows of history it may touch: about a page.
OVER_HISTORY = {
    "job counts": batch_ledger._JOB_COUNTS,
    "work": batch_ledger._WORK,
    "jobs with results": batch_ledger._JOBS_WITH_RESULTS,
    "due for the archive": archive_ledger._DUE,
    "over": archive_ledger._REMOVABLE,
    "deadlines": job_ledger._DUE_DEADLINES,
    "waiting items": job_ledger._WAITING_ITEMS,
    "demands": scaling_ledger._DEMANDS,
}
_ENDED_PODS = text("""
    WITH old AS (
        INSERT INTO pods (pod_id, name, provider, provider_pod_id, state, reason, gpu_type, gpu_count,
            price_usd_per_hour, worker_id, create_time, call_time, listed_time, registered_time, ready_time, drain_time,
            destroy_time, end_time, last_seen_time)
        SELECT gen_random_uuid(), 'old-' || n, 'cloud', 'old-' || n, 'DESTROYED', 'IDLE', 'L4', 1, 0.34,
            gen_random_uuid(), at, at, at, at, at, at, at, at, at
        FROM (SELECT n, now() - interval '2 days' - n * interval '1 min' AS at FROM generate_series(1, 20000) AS n) AS o
        RETURNING pod_id, worker_id, create_time
    ), prices AS (
        INSERT INTO pod_prices (pod_id, start_time, end_time, price_usd_per_hour)
        SELECT pod_id, create_time, create_time, 0.34 FROM old
    ), work AS (
        INSERT INTO pod_work (pod_id, workload, busy_s, load_s, last_time)
        SELECT pod_id, 'a', 1, 1, create_time FROM old
    )
    INSERT INTO sessions (session_id, worker_id, replica_id, hostname, version, hello, state, expire_time, connect_time)
    SELECT gen_random_uuid(), worker_id, 'a', 'h', '0', '', 'ENDED', create_time, create_time FROM old
""")
_OPEN_PODS = text("""
    WITH new AS (
        INSERT INTO pods (pod_id, name, provider, provider_pod_id, state, gpu_type, gpu_count, price_usd_per_hour,
            worker_id, call_time, listed_time, registered_time, ready_time)
        SELECT gen_random_uuid(), 'new-' || n, 'cloud', 'new-' || n, 'READY', 'L4', 1, 0.34, gen_random_uuid(),
            now(), now(), now(), now()
        FROM generate_series(1, 10) AS n RETURNING pod_id, worker_id
    ), prices AS (
        INSERT INTO pod_prices (pod_id, start_time, price_usd_per_hour) SELECT pod_id, now(), 0.34 FROM new
    ), work AS (
        INSERT INTO pod_work (pod_id, workload, busy_s, load_s, last_time) SELECT pod_id, 'a', 1, 1, now() FROM new
    )
    INSERT INTO sessions (session_id, worker_id, replica_id, hostname, version, hello, state, expire_time)
    SELECT gen_random_uuid(), worker_id, 'a', 'h', '0', '', 'OPEN', now() + interval '1 h' FROM new
""")
OVER_PODS = {
    "census": pod_ledger._CENSUS,
    "census of a provider": pod_ledger._CENSUS_OF,
    "newest pods": pod_ledger._NEWEST,
    "spans of a day": pod_ledger._SPANS,
    "what a day cost": pod_ledger._SPENT,
    "starting pods": pod_ledger._STARTING,
    "last uses": cost_ledger._LAST,
    "sessions": session_ledger._PLACED,
}
PARAMETERS = {
    ":limit": "10", ":age": "'5 s'", ":session_ids": "'{}'", ":after": "'00000000-0000-0000-0000-000000000000'",
    ":start": "date_trunc('day', now())", ":end": "now()", ":provider": "'cloud'",
    ":tight": "'{a}'", ":unread": "'{-1}'", ":reserve": "'{true}'",
    ":retention": "'30 days'", ":max_jobs": "10", ":max_batches": "10", ":app_id": "'default'", ":lock_key": "1",
}  # fmt: skip


def _explain(statement: TextClause, *options: str) -> TextClause:
    sql = statement.text
    for name, value in PARAMETERS.items():
        sql = sql.replace(name, value)
    return text(f"EXPLAIN ({', '.join(['COSTS', *options])}) {sql}")


async def test_no_statement_of_a_loop_reads_all_batches(tmp_path: Path) -> None:
    async with stack.servers(tmp_path) as servers:
        ledger = database.Database(servers.postgres.url, pool_size=1)
        try:
            async with ledger.transaction() as connection:
                # The tables are empty, so a scan would be cheapest; now it is taken only where nothing else does.
                await connection.execute(text("SET LOCAL enable_seqscan = off"))
                for name, statement in STATEMENTS.items():
                    plan = "\n".join((await connection.scalars(_explain(statement))).all())
                    for whole in ("Seq Scan on batches", "pk_batches", "uq_batches"):
                        if whole in plan:
                            pytest.fail(f"{name} reads all batches:\n{plan}")
        finally:
            await ledger.close()


async def test_nothing_that_is_asked_again_and_again_reads_finished_jobs(tmp_path: Path) -> None:
    async with stack.servers(tmp_path) as servers:
        ledger = database.Database(servers.postgres.url, pool_size=1)
        try:
            async with ledger.transaction() as connection:
                await connection.execute(text("INSERT INTO apps (app_id) VALUES ('default') ON CONFLICT DO NOTHING"))
                for history in (_HISTORY, text("ANALYZE jobs")):
                    await connection.execute(history)
                for name, statement in OVER_HISTORY.items():
                    explain = _explain(statement, "ANALYZE", "TIMING OFF")
                    plan = "\n".join((await connection.scalars(explain)).all())
                    touched = re.findall(r"(?:actual rows=|Rows Removed by Filter: )(\d+)", plan)
                    if max(map(int, touched)) > 20:
                        pytest.fail(f"{name} reads history:\n{plan}")
        finally:
            await ledger.close()


async def test_nothing_that_the_watch_over_pods_asks_reads_pods_that_are_over(tmp_path: Path) -> None:
    async with stack.servers(tmp_path) as servers:
        ledger = database.Database(servers.postgres.url, pool_size=1)
        try:
            async with ledger.transaction() as connection:
                for rows in (_ENDED_PODS, _OPEN_PODS, text("ANALYZE pods, pod_prices, pod_work, sessions")):
                    await connection.execute(rows)
                for name, statement in OVER_PODS.items():
                    plan = "\n".join((await connection.scalars(_explain(statement, "ANALYZE", "TIMING OFF"))).all())
                    touched = re.findall(r"(?:actual rows=|Rows Removed by Filter: )(\d+)", plan)
                    if max(map(int, touched)) > 20:
                        pytest.fail(f"{name} reads pods that are over:\n{plan}")
        finally:
            await ledger.close()


async def test_what_the_feeder_asks_all_the_time_does_not_grow_with_the_backlog(tmp_path: Path) -> None:
    async with stack.servers(tmp_path) as servers:
        ledger = database.Database(servers.postgres.url, pool_size=1)
        try:
            async with ledger.transaction() as connection:
                await connection.execute(text("INSERT INTO apps (app_id) VALUES ('default') ON CONFLICT DO NOTHING"))
                await connection.execute(_BACKLOG)
                explain = text(f"EXPLAIN (ANALYZE, TIMING OFF) {batch_ledger._WAITING_WORKLOADS.text}")
                plan = "\n".join((await connection.scalars(explain)).all())
            assert max(float(rows) for rows in re.findall(r"actual rows=(\d+)", plan)) <= 3, plan
            assert await batch_ledger.BatchLedger(ledger, timedelta(1)).waiting_workloads() == ["a", "b"]
        finally:
            await ledger.close()


async def test_no_plan_is_kept_from_when_the_tables_were_empty(tmp_path: Path) -> None:
    async with stack.servers(tmp_path) as servers:
        ledger = database.Database(servers.postgres.url, pool_size=1)
        try:
            batches = batch_ledger.BatchLedger(ledger, timedelta(1))
            # Postgres weighs keeping a plan at the sixth time.
            for _ in range(8):
                await batches.candidates("a", 1)
            async with ledger.transaction() as connection:
                used = text(
                    "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE :words"
                )
                kept = (await connection.execute(used, {"words": "%AS level(priority)%LIMIT%"})).all()
            assert [tuple(row) for row in kept] == [(0, 8)]
        finally:
            await ledger.close()
