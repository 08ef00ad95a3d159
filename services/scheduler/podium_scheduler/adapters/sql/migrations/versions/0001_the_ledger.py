"""The ledger: apps, tokens, jobs, batches, sessions, cluster.

Revision: 0001
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "apps",
        sa.Column("app_id", sa.Text(), nullable=False),
        sa.Column("weight", sa.Integer(), server_default="1", nullable=False),
        sa.Column("max_waiting_items", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("max_waiting_items >= 0", name=op.f("ck_apps_max_waiting_items")),
        sa.CheckConstraint("weight BETWEEN 1 AND 1000", name=op.f("ck_apps_weight")),
        sa.PrimaryKeyConstraint("app_id", name=op.f("pk_apps")),
    )
    op.create_table(
        "cluster",
        sa.Column("one_row", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("leader_replica_id", sa.Text(), server_default="", nullable=False),
        sa.Column("leader_term", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("redis_epoch", sa.Text(), server_default="", nullable=False),
        sa.CheckConstraint("one_row", name=op.f("ck_cluster_one_row")),
        sa.PrimaryKeyConstraint("one_row", name=op.f("pk_cluster")),
    )
    op.create_table(
        "sessions",
        sa.Column("session_id", sa.Uuid(), nullable=False),
        sa.Column("worker_id", sa.Uuid(), nullable=False),
        sa.Column("replica_id", sa.Text(), nullable=False),
        sa.Column("hostname", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("pod_id", sa.Text(), server_default="", nullable=False),
        sa.Column("hello", sa.LargeBinary(), nullable=False),
        sa.Column("status", sa.LargeBinary(), server_default=sa.text("''::bytea"), nullable=False),
        sa.Column(
            "credits",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("connect_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("heartbeat_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expire_time", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("state IN ('OPEN','BROKEN','ENDED')", name=op.f("ck_sessions_state")),
        sa.PrimaryKeyConstraint("session_id", name=op.f("pk_sessions")),
    )
    op.create_index(
        "ix_sessions_ended",
        "sessions",
        ["expire_time"],
        unique=False,
        postgresql_where=sa.text("state = 'ENDED'"),
    )
    op.create_index(
        "ix_sessions_live",
        "sessions",
        ["expire_time"],
        unique=False,
        postgresql_where=sa.text("state <> 'ENDED'"),
    )
    op.create_index(
        "ix_sessions_worker",
        "sessions",
        ["worker_id"],
        unique=False,
        postgresql_where=sa.text("state <> 'ENDED'"),
    )
    op.create_table(
        "app_tokens",
        sa.Column("token_id", sa.Uuid(), nullable=False),
        sa.Column("app_id", sa.Text(), nullable=False),
        sa.Column("token_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("description", sa.Text(), server_default="", nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("revoke_time", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("octet_length(token_sha256) = 32", name=op.f("ck_app_tokens_sha256")),
        sa.ForeignKeyConstraint(["app_id"], ["apps.app_id"], name=op.f("fk_app_tokens_app_id")),
        sa.PrimaryKeyConstraint("token_id", name=op.f("pk_app_tokens")),
        sa.UniqueConstraint("token_sha256", name=op.f("uq_app_tokens_token_sha256")),
    )
    op.create_table(
        "jobs",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("app_id", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Uuid(), nullable=False),
        sa.Column("payload_digest", sa.LargeBinary(), nullable=False),
        sa.Column("workload", sa.Text(), nullable=False),
        sa.Column("modality", sa.SmallInteger(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column(
            "labels",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("options", sa.LargeBinary(), nullable=False),
        sa.Column("traceparent", sa.Text(), server_default="", nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("item_count", sa.Integer(), nullable=False),
        sa.Column("batch_count", sa.Integer(), nullable=False),
        sa.Column("batches_pending", sa.Integer(), server_default="0", nullable=False),
        sa.Column("batches_finished", sa.Integer(), server_default="0", nullable=False),
        sa.Column("items_succeeded", sa.Integer(), server_default="0", nullable=False),
        sa.Column("items_failed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("items_truncated", sa.Integer(), server_default="0", nullable=False),
        sa.Column("items_released", sa.Integer(), server_default="0", nullable=False),
        sa.Column("feedable", sa.Boolean(), nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("start_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finish_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=True),
        sa.Column("expire_time", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state IN ('PENDING','RUNNING')) = (finish_time IS NULL)",
            name=op.f("ck_jobs_final_has_finish_time"),
        ),
        sa.CheckConstraint(
            "feedable = (batches_pending > 0 AND state IN ('PENDING','RUNNING'))",
            name=op.f("ck_jobs_feedable"),
        ),
        sa.CheckConstraint(
            "state <> 'COMPLETED' OR (batches_finished = batch_count AND items_succeeded + items_failed = item_count)",
            name=op.f("ck_jobs_completed_has_every_outcome"),
        ),
        sa.CheckConstraint(
            "state IN ('PENDING','RUNNING','COMPLETED','CANCELLED','EXPIRED')", name=op.f("ck_jobs_state")
        ),
        sa.CheckConstraint("batches_finished BETWEEN 0 AND batch_count", name=op.f("ck_jobs_batches_finished")),
        sa.CheckConstraint("batches_pending BETWEEN 0 AND batch_count", name=op.f("ck_jobs_batches_pending")),
        sa.CheckConstraint("item_count BETWEEN 1 AND 50000", name=op.f("ck_jobs_item_count")),
        sa.CheckConstraint("items_released BETWEEN 0 AND item_count", name=op.f("ck_jobs_items_released")),
        sa.CheckConstraint("items_succeeded + items_failed <= item_count", name=op.f("ck_jobs_items")),
        sa.CheckConstraint("priority BETWEEN 1 AND 5", name=op.f("ck_jobs_priority")),
        sa.ForeignKeyConstraint(["app_id"], ["apps.app_id"], name=op.f("fk_jobs_app_id")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("app_id", "request_id", name=op.f("uq_jobs_app_id_request_id")),
    )
    op.create_index(
        "ix_jobs_active_app",
        "jobs",
        ["app_id"],
        unique=False,
        postgresql_where=sa.text("state IN ('PENDING','RUNNING')"),
    )
    op.create_index(
        "ix_jobs_deadline",
        "jobs",
        ["deadline"],
        unique=False,
        postgresql_where=sa.text("deadline IS NOT NULL AND state IN ('PENDING','RUNNING')"),
    )
    op.create_index(
        "ix_jobs_expire_time",
        "jobs",
        ["expire_time"],
        unique=False,
        postgresql_where=sa.text("expire_time IS NOT NULL"),
    )
    op.create_index(
        "ix_jobs_feedable",
        "jobs",
        ["workload", "app_id", "priority", "create_time"],
        unique=False,
        postgresql_where=sa.text("feedable"),
    )
    op.create_index("ix_jobs_labels", "jobs", ["labels"], unique=False, postgresql_using="gin")
    op.create_index(
        "ix_jobs_list",
        "jobs",
        ["app_id", sa.literal_column("create_time DESC"), sa.literal_column("job_id DESC")],
        unique=False,
    )
    op.create_table(
        "batches",
        sa.Column("batch_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("first_item", sa.Integer(), nullable=False),
        sa.Column("item_count", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), server_default="PENDING", nullable=False),
        sa.Column("attempt", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("queue_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finish_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_token", sa.LargeBinary(), nullable=True),
        sa.Column("session_id", sa.Uuid(), nullable=True),
        sa.Column("payload", sa.LargeBinary(), nullable=True),
        sa.Column("payload_encoding", sa.SmallInteger(), nullable=False),
        sa.Column("payload_offset", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failure_reason", sa.Text(), nullable=True),
        sa.Column("failure_message", sa.Text(), nullable=True),
        sa.Column("items_succeeded", sa.Integer(), server_default="0", nullable=False),
        sa.Column("items_failed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("items_truncated", sa.Integer(), server_default="0", nullable=False),
        sa.CheckConstraint(
            "(state = 'LEASED') = (lease_token IS NOT NULL) AND (state = 'LEASED') = (session_id IS NOT NULL)",
            name=op.f("ck_batches_lease"),
        ),
        sa.CheckConstraint(
            "(state IN ('FAILED','CANCELLED','EXPIRED')) = (failure_reason IS NOT NULL)",
            name=op.f("ck_batches_failure_reason"),
        ),
        sa.CheckConstraint(
            "(state IN ('PENDING','QUEUED','LEASED')) = (finish_time IS NULL)",
            name=op.f("ck_batches_finish_time"),
        ),
        sa.CheckConstraint(
            "state IN ('PENDING','QUEUED','LEASED','COMPLETED','DELIVERED','FAILED','CANCELLED','EXPIRED')",
            name=op.f("ck_batches_state"),
        ),
        sa.CheckConstraint(
            "state NOT IN ('PENDING','QUEUED','LEASED','COMPLETED') OR payload IS NOT NULL",
            name=op.f("ck_batches_payload"),
        ),
        sa.CheckConstraint("item_count > 0", name=op.f("ck_batches_item_count")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name=op.f("fk_batches_job_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.session_id"], name=op.f("fk_batches_session_id")),
        sa.PrimaryKeyConstraint("batch_id", name=op.f("pk_batches")),
        sa.UniqueConstraint("job_id", "first_item", name=op.f("uq_batches_job_id_first_item")),
    )
    # The gateway has compressed the payload; compressing it again would only cost time.
    op.execute("ALTER TABLE batches ALTER COLUMN payload SET STORAGE EXTERNAL")
    op.execute("INSERT INTO cluster DEFAULT VALUES")
    op.create_index(
        "ix_batches_failed",
        "batches",
        [sa.literal_column("finish_time DESC")],
        unique=False,
        postgresql_where=sa.text("state = 'FAILED'"),
    )
    op.create_index(
        "ix_batches_leased",
        "batches",
        ["session_id"],
        unique=False,
        postgresql_where=sa.text("session_id IS NOT NULL"),
    )
    op.create_index(
        "ix_batches_pending",
        "batches",
        ["job_id", "first_item"],
        unique=False,
        postgresql_where=sa.text("state = 'PENDING'"),
    )
    op.create_index(
        "ix_batches_queued",
        "batches",
        ["queue_time"],
        unique=False,
        postgresql_where=sa.text("state = 'QUEUED'"),
    )


def downgrade() -> None:
    for table in ("batches", "jobs", "app_tokens", "sessions", "cluster", "apps"):
        op.drop_table(table)
