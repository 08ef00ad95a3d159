"""How long models take to load: what the workers' Status frames told, by workload and type of device."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql

from podium_scheduler.adapters.sql import schema
from podium_scheduler.adapters.sql.database import Database, ledger_call
from podium_scheduler.app import records

NEWEST_WEIGHS = 0.3
"""Share of the newest load in the mean: what was measured with other files, or on a cold cache, fades."""

_LOADS = schema.model_loads
_COLUMNS = tuple(_LOADS.c[name] for name in records.MeasuredLoad.__dataclass_fields__)


class LoadLedger:
    """Load times in Postgres. Every method is one transaction; all raise errors.Unavailable while it is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @ledger_call
    async def record(self, loads: Sequence[records.ModelLoad]) -> None:
        """Adds loads that were seen."""
        new = postgresql.insert(_LOADS)
        statement = new.on_conflict_do_update(
            index_elements=[_LOADS.c.workload, _LOADS.c.device_name],
            set_={
                "load_count": _LOADS.c.load_count + 1,
                "mean_s": _LOADS.c.mean_s + NEWEST_WEIGHS * (new.excluded.last_s - _LOADS.c.mean_s),
                "last_s": new.excluded.last_s,
                "memory_bytes": new.excluded.memory_bytes,
                "last_time": new.excluded.last_time,
            },
        )
        async with self._database.transaction() as connection:
            # In one order, so that replicas that record the same models wait for one another and do not deadlock.
            for load in sorted(loads, key=lambda load: (load.workload, load.device_name)):
                await connection.execute(
                    statement.values(
                        workload=load.workload,
                        device_name=load.device_name,
                        load_count=1,
                        mean_s=load.seconds,
                        last_s=load.seconds,
                        memory_bytes=load.memory_bytes,
                        last_time=func.now(),
                    )
                )

    @ledger_call
    async def loads(self, workload: str = "") -> list[records.MeasuredLoad]:
        """What is known, by workload, then by device name; of all workloads when none is named."""
        statement = select(*_COLUMNS).order_by(_LOADS.c.workload, _LOADS.c.device_name)
        if workload:
            statement = statement.where(_LOADS.c.workload == workload)
        async with self._database.peek() as connection:
            return [records.MeasuredLoad(*row) for row in (await connection.execute(statement)).all()]
