"""Tables of the ledger. `domain/batches.py` and `domain/jobs.py` own the states; the CHECKs mirror their invariants.

Lock order, for every transaction that writes both: jobs first, in job_id order, then batches. Whoever keeps to it
cannot deadlock with anyone else who does.
"""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_now = func.now()

ARCHIVE_DUE = """
CASE
    WHEN (archived OR (finish_time IS NULL)) THEN NULL::timestamp with time zone
    WHEN (items_released = item_count) THEN finish_time
    ELSE expire_time
END"""


def _time(name: str, *, nullable: bool = True) -> Column[object]:
    return Column(name, DateTime(timezone=True), nullable=nullable)


def _counter(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default="0")


apps = Table(
    "apps",
    metadata,
    Column("app_id", Text, primary_key=True),
    Column("weight", Integer, nullable=False, server_default="1"),
    Column("max_waiting_items", BigInteger, nullable=False, server_default="0"),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=_now),
    CheckConstraint("weight BETWEEN 1 AND 1000", name="weight"),
    CheckConstraint("max_waiting_items >= 0", name="max_waiting_items"),
)

app_tokens = Table(
    "app_tokens",
    metadata,
    Column("token_id", Uuid, primary_key=True),
    Column("app_id", Text, ForeignKey("apps.app_id"), nullable=False),
    Column("token_sha256", LargeBinary, nullable=False, unique=True),
    Column("description", Text, nullable=False, server_default=""),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=_now),
    _time("revoke_time"),
    CheckConstraint("octet_length(token_sha256) = 32", name="sha256"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", Uuid, primary_key=True),
    Column("app_id", Text, ForeignKey("apps.app_id"), nullable=False),
    Column("request_id", Uuid, nullable=False),
    Column("payload_digest", LargeBinary, nullable=False),
    Column("workload", Text, nullable=False),
    Column("modality", SmallInteger, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("labels", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    # A serialized EmbeddingOptions: the ledger carries it, the worker reads it.
    Column("options", LargeBinary, nullable=False),
    Column("traceparent", Text, nullable=False, server_default=""),
    Column("state", Text, nullable=False),
    Column("item_count", Integer, nullable=False),
    Column("batch_count", Integer, nullable=False),
    _counter("batches_pending"),
    _counter("batches_finished"),
    _counter("items_succeeded"),
    _counter("items_failed"),
    _counter("items_truncated"),
    _counter("items_released"),
    _counter("items_deduplicated"),
    # The reader has acknowledged all before it. Apart from items_released: some of that may have been lost before the
    # acknowledgement and be computed again, or be waited for by a consumer group.
    _counter("acknowledged_item"),
    # True while batches_pending > 0 and the job is active. A column of its own, so that the counters, which change
    # with every batch, stay out of the index that the feeder reads.
    Column("feedable", Boolean, nullable=False),
    # Within what identical items are computed once; NULL: each is computed. See `item_claims.py`.
    Column("dedupe_scope", LargeBinary),
    # It was COMPLETED before some of it was lost and is computed again: its groups were told then, or will be.
    Column("offered", Boolean, nullable=False, server_default=text("false")),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=_now),
    _time("start_time"),
    _time("finish_time"),
    _time("deadline"),
    _time("expire_time"),
    # The results were still unread when their retention ended: nobody can read them again.
    Column("results_expired", Boolean, nullable=False, server_default=text("false")),
    # The most that rented pods may cost for it; none: no bound of its own.
    Column("budget_micro_usd", BigInteger),
    # True once the job's batches have left the hot table; see `archive_ledger.py`.
    Column("archived", Boolean, nullable=False, server_default=text("false")),
    # When they may: at once when all results are released, else when the retention of the results ends. Generated, so
    # that no statement can forget it; written as Postgres prints it, so that the migrations can be checked against it.
    Column(
        "archive_due",
        DateTime(timezone=True),
        Computed(ARCHIVE_DUE, persisted=True),
    ),
    UniqueConstraint("app_id", "request_id"),
    CheckConstraint("state IN ('PENDING','RUNNING','COMPLETED','CANCELLED','EXPIRED')", name="state"),
    CheckConstraint("priority BETWEEN 1 AND 5", name="priority"),
    CheckConstraint("item_count BETWEEN 1 AND 50000", name="item_count"),
    CheckConstraint("batches_pending BETWEEN 0 AND batch_count", name="batches_pending"),
    CheckConstraint("batches_finished BETWEEN 0 AND batch_count", name="batches_finished"),
    CheckConstraint("items_succeeded + items_failed <= item_count", name="items"),
    CheckConstraint("items_released BETWEEN 0 AND item_count", name="items_released"),
    CheckConstraint("acknowledged_item BETWEEN 0 AND item_count", name="acknowledged_item"),
    CheckConstraint("items_deduplicated BETWEEN 0 AND item_count", name="items_deduplicated"),
    CheckConstraint(
        "state <> 'COMPLETED' OR (batches_finished = batch_count AND items_succeeded + items_failed = item_count)",
        name="completed_has_every_outcome",
    ),
    CheckConstraint("(state IN ('PENDING','RUNNING')) = (finish_time IS NULL)", name="final_has_finish_time"),
    CheckConstraint("NOT archived OR finish_time IS NOT NULL", name="archived_is_final"),
    CheckConstraint("NOT archived OR results_expired OR items_released = item_count", name="archived_is_over"),
    CheckConstraint("budget_micro_usd BETWEEN 10000 AND 1000000000000", name="budget_micro_usd"),
    CheckConstraint("feedable = (batches_pending > 0 AND state IN ('PENDING','RUNNING'))", name="feedable"),
)
Index("ix_jobs_list", jobs.c.app_id, jobs.c.create_time.desc(), jobs.c.job_id.desc())
Index("ix_jobs_labels", jobs.c.labels, postgresql_using="gin")
Index(
    "ix_jobs_feedable",
    jobs.c.workload,
    jobs.c.app_id,
    jobs.c.priority,
    jobs.c.create_time,
    postgresql_where=jobs.c.feedable,
)
Index("ix_jobs_active_app", jobs.c.app_id, postgresql_where=text("state IN ('PENDING','RUNNING')"))
Index(
    "ix_jobs_deadline",
    jobs.c.deadline,
    postgresql_where=text("deadline IS NOT NULL AND state IN ('PENDING','RUNNING')"),
)
Index("ix_jobs_archive_due", jobs.c.archive_due, postgresql_where=text("archive_due IS NOT NULL"))
Index("ix_jobs_archived", jobs.c.finish_time, postgresql_where=jobs.c.archived)
# The jobs that still have batches, for whoever walks through all of them: history does not count.
Index("ix_jobs_unarchived", jobs.c.job_id, postgresql_where=text("NOT archived"))

sessions = Table(
    "sessions",
    metadata,
    Column("session_id", Uuid, primary_key=True),
    Column("worker_id", Uuid, nullable=False),
    Column("replica_id", Text, nullable=False),
    Column("hostname", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("pod_id", Text, nullable=False, server_default=""),
    # The worker's own words, serialized Hello and Status, for operators.
    Column("hello", LargeBinary, nullable=False),
    Column("status", LargeBinary, nullable=False, server_default=text("''::bytea")),
    # {workload: credits} of the last Status, for the feeder's target depth.
    Column("credits", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    # OPEN: its stream lives. BROKEN: the stream broke; the worker may resume until expire_time.
    # ENDED: superseded, said Goodbye, or given up; its leases are gone.
    Column("state", Text, nullable=False),
    Column("connect_time", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("heartbeat_time", DateTime(timezone=True), nullable=False, server_default=_now),
    _time("expire_time", nullable=False),
    # An operator wants the worker to finish and leave. A later session of the worker takes it over.
    Column("drain", Boolean, nullable=False, server_default=text("false")),
    # Why it gets no batches, and until when at least; taken over likewise. Empty: it gets some.
    Column("quarantine_reason", Text, nullable=False, server_default=""),
    _time("quarantine_until"),
    # Workloads that the leader wants it to keep loaded, the most wanted first; taken over likewise.
    Column("wanted", ARRAY(Text), nullable=False, server_default=text("'{}'")),
    CheckConstraint("state IN ('OPEN','BROKEN','ENDED')", name="state"),
)
Index("ix_sessions_live", sessions.c.expire_time, postgresql_where=text("state <> 'ENDED'"))
Index("ix_sessions_worker", sessions.c.worker_id, postgresql_where=text("state <> 'ENDED'"))
Index("ix_sessions_history", sessions.c.worker_id, sessions.c.connect_time.desc())
Index("ix_sessions_ended", sessions.c.expire_time, postgresql_where=text("state = 'ENDED'"))

batches = Table(
    "batches",
    metadata,
    Column("batch_id", BigInteger, Identity(), primary_key=True),
    Column("job_id", Uuid, ForeignKey("jobs.job_id", ondelete="CASCADE"), nullable=False),
    Column("first_item", Integer, nullable=False),
    Column("item_count", Integer, nullable=False),
    Column("state", Text, nullable=False, server_default="PENDING"),
    Column("attempt", SmallInteger, nullable=False, server_default="0"),
    Column("not_before", DateTime(timezone=True), nullable=False, server_default=_now),
    _time("queue_time"),
    _time("lease_time"),
    _time("finish_time"),
    Column("lease_token", LargeBinary),
    Column("session_id", Uuid, ForeignKey("sessions.session_id")),
    Column("payload", LargeBinary),
    Column("payload_encoding", SmallInteger, nullable=False),
    # Where in the payload its items begin: not 0 for a half of a bisected batch.
    Column("payload_offset", Integer, nullable=False, server_default="0"),
    Column("failure_reason", Text),
    Column("failure_message", Text),
    # It was COMPLETED before its result was lost: the groups that still want it have their deliveries of it already.
    Column("offered", Boolean, nullable=False, server_default=text("false")),
    _counter("items_succeeded"),
    _counter("items_failed"),
    _counter("items_truncated"),
    _counter("items_deduplicated"),
    # A serialized ItemIdentities, of the whole payload: by what its items are recognised, and their keys.
    Column("identities", LargeBinary),
    UniqueConstraint("job_id", "first_item"),
    CheckConstraint(
        "state IN ('PENDING','QUEUED','LEASED','COMPLETED','DELIVERED','FAILED','CANCELLED','EXPIRED')",
        name="state",
    ),
    CheckConstraint("item_count > 0", name="item_count"),
    CheckConstraint(
        "(state = 'LEASED') = (lease_token IS NOT NULL) AND (state = 'LEASED') = (session_id IS NOT NULL)",
        name="lease",
    ),
    CheckConstraint("state NOT IN ('PENDING','QUEUED','LEASED','COMPLETED') OR payload IS NOT NULL", name="payload"),
    CheckConstraint(
        "(state IN ('FAILED','CANCELLED','EXPIRED')) = (failure_reason IS NOT NULL)", name="failure_reason"
    ),
    CheckConstraint("(state IN ('PENDING','QUEUED','LEASED')) = (finish_time IS NULL)", name="finish_time"),
)
Index(
    "ix_batches_pending",
    batches.c.job_id,
    batches.c.first_item,
    postgresql_where=batches.c.state == "PENDING",
)
Index("ix_batches_queued", batches.c.queue_time, postgresql_where=batches.c.state == "QUEUED")
# Only a LEASED batch has a session; said this way, the index also serves the foreign key's own look-ups.
Index("ix_batches_leased", batches.c.session_id, postgresql_where=text("session_id IS NOT NULL"))
Index("ix_batches_failed", batches.c.finish_time.desc(), postgresql_where=batches.c.state == "FAILED")

# What is kept of the batches of archived jobs: those that were given up, for operators. Cold: nothing that runs all the
# time reads it. Written once, removed with the job.
failed_batches = Table(
    "failed_batches",
    metadata,
    Column("batch_id", BigInteger, primary_key=True, autoincrement=False),
    Column("job_id", Uuid, ForeignKey("jobs.job_id", ondelete="CASCADE"), nullable=False),
    Column("first_item", Integer, nullable=False),
    Column("item_count", Integer, nullable=False),
    Column("attempt", SmallInteger, nullable=False),
    Column("failure_reason", Text, nullable=False),
    Column("failure_message", Text),
    _time("finish_time", nullable=False),
)
Index("ix_failed_batches_job_id", failed_batches.c.job_id, failed_batches.c.first_item)
Index("ix_failed_batches_finish_time", failed_batches.c.finish_time.desc(), failed_batches.c.batch_id.desc())

# A set of consumers that share an app's results. Retired: nobody used it for its retention; its deliveries are being
# removed, and its name is free.
consumer_groups = Table(
    "consumer_groups",
    metadata,
    Column("group_id", BigInteger, Identity(), primary_key=True),
    Column("app_id", Text, ForeignKey("apps.app_id"), nullable=False),
    Column("name", Text, nullable=False),
    # Empty: all of the app's jobs.
    Column("workload", Text, nullable=False, server_default=""),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("seen_time", DateTime(timezone=True), nullable=False, server_default=_now),
    _time("retire_time"),
    # What had finished before the group was opened is offered to it job by job, the oldest first: the place of the
    # last one, in the order of ix_jobs_list. True when all have been gone through.
    Column("filled", Boolean, nullable=False, server_default=text("false")),
    _time("filled_create_time"),
    Column("filled_job_id", Uuid),
    CheckConstraint("(filled_create_time IS NULL) = (filled_job_id IS NULL)", name="filled_place"),
)
Index(
    "ix_consumer_groups_name",
    consumer_groups.c.app_id,
    consumer_groups.c.name,
    unique=True,
    postgresql_where=text("retire_time IS NULL"),
)

# One life of a consumer's stream at a gateway. Its lease on all that it holds is its row: when that goes, by the
# gateway's word or by its expiry, its deliveries are free again.
consumers = Table(
    "consumers",
    metadata,
    Column("consumer_id", Uuid, primary_key=True),
    Column("group_id", BigInteger, ForeignKey("consumer_groups.group_id", ondelete="CASCADE"), nullable=False),
    Column("open_time", DateTime(timezone=True), nullable=False, server_default=_now),
    _time("expire_time", nullable=False),
)
Index("ix_consumers_expire_time", consumers.c.expire_time)
Index("ix_consumers_group_id", consumers.c.group_id)

# What a group has yet to acknowledge: a finished batch, or, without a batch, the job's end. Written in the transaction
# in which that happened, deleted by the acknowledgement. As long as there is one, its batch keeps its payload.
deliveries = Table(
    "deliveries",
    metadata,
    Column("delivery_id", BigInteger, Identity(), primary_key=True),
    Column("group_id", BigInteger, ForeignKey("consumer_groups.group_id", ondelete="CASCADE"), nullable=False),
    Column("job_id", Uuid, ForeignKey("jobs.job_id", ondelete="CASCADE"), nullable=False),
    Column("batch_id", BigInteger, ForeignKey("batches.batch_id", ondelete="CASCADE")),
    Column("consumer_id", Uuid, ForeignKey("consumers.consumer_id", ondelete="SET NULL")),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=_now),
    # It may be given out; see `offers.py`. In the index, so that a claim looks at no other.
    Column("ready", Boolean, nullable=False, server_default=text("true")),
    UniqueConstraint("batch_id", "group_id"),
)
Index(
    "ix_deliveries_waiting",
    deliveries.c.group_id,
    deliveries.c.ready,
    deliveries.c.delivery_id,
    postgresql_where=deliveries.c.consumer_id.is_(None),
)
Index("ix_deliveries_held", deliveries.c.consumer_id, postgresql_where=deliveries.c.consumer_id.is_not(None))
Index("ix_deliveries_of_job", deliveries.c.job_id, deliveries.c.group_id)
Index("ix_deliveries_ends", deliveries.c.job_id, postgresql_where=deliveries.c.batch_id.is_(None))

# How long models take to load, over all workers of the past. A few rows for each workload; nothing depends on them but
# where models are put, so one that is lost is no loss.
model_loads = Table(
    "model_loads",
    metadata,
    Column("workload", Text, primary_key=True),
    Column("device_name", Text, primary_key=True),
    Column("load_count", BigInteger, nullable=False),
    # The newer loads weigh more; see `load_ledger.py`.
    Column("mean_s", Double, nullable=False),
    Column("last_s", Double, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    _time("last_time", nullable=False),
    CheckConstraint("load_count > 0", name="load_count"),
    CheckConstraint("mean_s >= 0 AND last_s >= 0", name="spans"),
    CheckConstraint("memory_bytes >= 0", name="memory_bytes"),
)

# What interactive calls asked for, and since when they have found no worker with the model; see `demand_ledger.py`.
interactive_demand = Table(
    "interactive_demand",
    metadata,
    Column("workload", Text, primary_key=True),
    _time("last_asked", nullable=False),
    Column("calls", BigInteger, nullable=False),
    _time("waiting_since"),
    CheckConstraint("calls > 0", name="calls"),
)

# One row. The term grows with each new leader, which writes a heartbeat; the epoch names the life of the Redis that the
# ledger has filled. Since `renewable_since` there was no gap between heartbeats: whoever wanted to renew could.
cluster = Table(
    "cluster",
    metadata,
    Column("one_row", Boolean, primary_key=True, server_default=text("true")),
    Column("leader_replica_id", Text, nullable=False, server_default=""),
    Column("leader_term", BigInteger, nullable=False, server_default="0"),
    _time("leader_renew_time"),
    _time("renewable_since"),
    Column("redis_epoch", Text, nullable=False, server_default=""),
    CheckConstraint("one_row", name="one_row"),
)

# Machines that are rented, were, or are about to be; `domain/pods.py` owns the states. History stays here: whatever is
# asked all the time has an index over the pods whose life is not over.
pods = Table(
    "pods",
    metadata,
    Column("pod_id", Uuid, primary_key=True),
    # What the provider's list is searched for; an orphan of a taken name has the provider's id after it.
    Column("name", Text, nullable=False, unique=True),
    # Makes SpawnPod idempotent; null: the autoscaler's, or an orphan.
    Column("request_id", Uuid, unique=True),
    Column("provider", Text, nullable=False),
    Column("provider_pod_id", Text, nullable=False, server_default=""),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False, server_default="NONE"),
    Column("detail", Text, nullable=False, server_default=""),
    Column("workload", Text, nullable=False, server_default=""),
    Column("gpu_type", Text, nullable=False),
    Column("gpu_count", Integer, nullable=False),
    Column("vram_bytes", BigInteger, nullable=False, server_default="0"),
    Column("compute_capability", Text, nullable=False, server_default=""),
    Column("device_name", Text, nullable=False, server_default=""),
    Column("cloud", Text, nullable=False, server_default="NONE"),
    Column("region", Text, nullable=False, server_default=""),
    # The newest; `pod_prices` has what it was when.
    Column("price_usd_per_hour", Numeric(12, 6), nullable=False),
    Column("join_token_sha256", LargeBinary),
    _time("join_token_expire_time"),
    # By its first user, which is `worker_id`.
    _time("join_token_used_time"),
    Column("worker_id", Uuid),
    Column("create_time", DateTime(timezone=True), nullable=False, server_default=_now),
    _time("call_time"),
    _time("listed_time"),
    _time("registered_time"),
    _time("ready_time"),
    _time("drain_time"),
    _time("destroy_time"),
    _time("end_time"),
    _time("last_seen_time"),
    CheckConstraint(
        "state IN ('INTENDED','CREATING','STARTING','READY','DRAINING','DESTROYING','DESTROYED','LOST','FAILED')",
        name="state",
    ),
    CheckConstraint("(state IN ('DESTROYED','LOST','FAILED')) = (end_time IS NOT NULL)", name="final_has_end_time"),
    # Who is to end says why, and nobody else.
    CheckConstraint("(state IN ('INTENDED','CREATING','STARTING','READY')) = (reason = 'NONE')", name="reason"),
    CheckConstraint("state = 'FAILED' OR (state = 'INTENDED') = (call_time IS NULL)", name="call_time"),
    CheckConstraint("state NOT IN ('STARTING','READY','DRAINING','LOST') OR provider_pod_id <> ''", name="is_listed"),
    # What was listed once has to be destroyed: it cannot have FAILED.
    CheckConstraint("state NOT IN ('INTENDED','CREATING','FAILED') OR provider_pod_id = ''", name="is_not_listed"),
    CheckConstraint("(provider_pod_id = '') = (listed_time IS NULL)", name="listed_time"),
    CheckConstraint("state NOT IN ('READY','DRAINING') OR ready_time IS NOT NULL", name="ready_time"),
    CheckConstraint("state <> 'DRAINING' OR drain_time IS NOT NULL", name="drain_time"),
    CheckConstraint("state NOT IN ('DESTROYING','DESTROYED') OR destroy_time IS NOT NULL", name="destroy_time"),
    CheckConstraint("(worker_id IS NULL) = (registered_time IS NULL)", name="registered_time"),
    CheckConstraint("octet_length(join_token_sha256) = 32", name="join_token_sha256"),
    CheckConstraint("(join_token_sha256 IS NULL) = (join_token_expire_time IS NULL)", name="join_token_expire_time"),
    CheckConstraint(
        "join_token_used_time IS NULL OR (join_token_sha256 IS NOT NULL AND worker_id IS NOT NULL)",
        name="join_token_used_time",
    ),
    CheckConstraint("gpu_count >= 0 AND vram_bytes >= 0", name="gpus"),
    CheckConstraint("price_usd_per_hour >= 0", name="price"),
)
Index("ix_pods_open", pods.c.provider, postgresql_where=text("end_time IS NULL"))
Index("ix_pods_list", pods.c.create_time.desc(), pods.c.pod_id.desc())

# Append-only: what became of a pod, and why.
pod_events = Table(
    "pod_events",
    metadata,
    Column("event_id", BigInteger, Identity(), primary_key=True),
    Column("pod_id", Uuid, ForeignKey("pods.pod_id", ondelete="CASCADE"), nullable=False),
    Column("time", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False, server_default=""),
)
Index("ix_pod_events_pod_id", pod_events.c.pod_id, pod_events.c.event_id)

# Every second from a pod's create call until its provider listed it no longer lies in one row, and has that price. A
# pod that was never listed has none: it cost nothing.
pod_prices = Table(
    "pod_prices",
    metadata,
    Column("pod_id", Uuid, ForeignKey("pods.pod_id", ondelete="CASCADE"), primary_key=True),
    Column("start_time", DateTime(timezone=True), primary_key=True),
    _time("end_time"),
    Column("price_usd_per_hour", Numeric(12, 6), nullable=False),
    CheckConstraint("end_time >= start_time", name="end_time"),
    CheckConstraint("price_usd_per_hour >= 0", name="price"),
)
Index("ix_pod_prices_open", pod_prices.c.pod_id, unique=True, postgresql_where=text("end_time IS NULL"))
# What a window costs is asked all the time: only spans that end in it or later are read.
Index("ix_pod_prices_end_time", pod_prices.c.end_time)

# What an operator allows the autoscaler: one row, once anything was set.
autoscaling = Table(
    "autoscaling",
    metadata,
    Column("singleton", Boolean, primary_key=True, server_default=text("true")),
    Column("paused", Boolean, nullable=False),
    Column("min_pods", Integer, nullable=False),
    Column("max_pods", Integer, nullable=False),
    Column("usd_per_hour", Numeric(12, 6)),
    Column("usd_per_day", Numeric(12, 6)),
    CheckConstraint("singleton", name="singleton"),
    CheckConstraint("min_pods >= 0 AND max_pods >= min_pods", name="pods"),
    CheckConstraint("usd_per_hour >= 0 AND usd_per_day >= 0", name="usd"),
)

# The newest decisions of the autoscaler for each workload; "" concerns all.
pod_decisions = Table(
    "pod_decisions",
    metadata,
    Column("decision_id", BigInteger, Identity(), primary_key=True),
    Column("time", DateTime(timezone=True), nullable=False, server_default=_now),
    Column("workload", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("pod_id", Uuid),
)
Index("ix_pod_decisions_workload", pod_decisions.c.workload, pod_decisions.c.decision_id)

# How fast workloads run on types of device, as their workers' batches tell.
throughputs = Table(
    "throughputs",
    metadata,
    Column("workload", Text, primary_key=True),
    Column("device_name", Text, primary_key=True),
    Column("items_per_s", Double, nullable=False),
    Column("batch_count", BigInteger, nullable=False),
    _time("last_time", nullable=False),
    CheckConstraint("items_per_s > 0", name="items_per_s"),
)

# What jobs had of pods, in GPU-seconds.
pod_uses = Table(
    "pod_uses",
    metadata,
    Column("pod_id", Uuid, ForeignKey("pods.pod_id", ondelete="CASCADE"), primary_key=True),
    Column("job_id", Uuid, primary_key=True),
    Column("workload", Text, nullable=False),
    Column("busy_s", Double, nullable=False),
)
Index("ix_pod_uses_job_id", pod_uses.c.job_id)

# Likewise, what pods did in all: by which their bills are shared.
pod_work = Table(
    "pod_work",
    metadata,
    Column("pod_id", Uuid, ForeignKey("pods.pod_id", ondelete="CASCADE"), primary_key=True),
    Column("workload", Text, primary_key=True),
    Column("busy_s", Double, nullable=False),
    Column("load_s", Double, nullable=False),
    # Of busy_s, what interactive calls took, for which no job answers.
    Column("call_s", Double, server_default="0", nullable=False),
    _time("last_time", nullable=False),
)

# For what came lately, and for nothing else.
Index("ix_jobs_create_time", jobs.c.create_time)

# Items of jobs with a dedupe_scope: who computes them, and then their vectors. A cache: what is lost is computed again.
known_items = Table(
    "known_items",
    metadata,
    Column("scope", LargeBinary, primary_key=True),
    Column("item_hash", LargeBinary, primary_key=True),
    # Who has claimed it, and once there is a vector, who has computed it. No foreign key: it may outlive the batch.
    Column("batch_id", BigInteger, nullable=False),
    Column("vector", LargeBinary),
    # A serialized Provenance.
    Column("made_by", LargeBinary),
    _counter("token_count"),
    _counter("max_tokens"),
    _time("expire_time", nullable=False),
    CheckConstraint("octet_length(item_hash) = 16", name="item_hash"),
    CheckConstraint("(vector IS NULL) = (made_by IS NULL)", name="made_by"),
)
Index("ix_known_items_expire_time", known_items.c.expire_time)

# Unfinished batches that others compute something for, or of which all is known. No foreign key, or every batch that
# leaves the ledger would be looked up here; the assembler tidies up.
waiting_batches = Table(
    "waiting_batches",
    metadata,
    Column("batch_id", BigInteger, primary_key=True, autoincrement=False),
    Column("job_id", Uuid, nullable=False),
    Column("app_id", Text, nullable=False),
    # The batches it waits for.
    Column("owners", ARRAY(BigInteger), nullable=False),
    # Then it computes what is missing itself.
    _time("until", nullable=False),
)
Index("ix_waiting_batches_app_id", waiting_batches.c.app_id, waiting_batches.c.job_id)
