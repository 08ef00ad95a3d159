"""Pods, their history, and what they cost when.

Revision: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_STATES = "'INTENDED','CREATING','STARTING','READY','DRAINING','DESTROYING','DESTROYED','LOST','FAILED'"
_CHECKS = {
    "state": f"state IN ({_STATES})",
    "final_has_end_time": "(state IN ('DESTROYED','LOST','FAILED')) = (end_time IS NOT NULL)",
    "reason": "(state IN ('INTENDED','CREATING','STARTING','READY')) = (reason = 'NONE')",
    "call_time": "state = 'FAILED' OR (state = 'INTENDED') = (call_time IS NULL)",
    "is_listed": "state NOT IN ('STARTING','READY','DRAINING','LOST') OR provider_pod_id <> ''",
    "is_not_listed": "state NOT IN ('INTENDED','CREATING','FAILED') OR provider_pod_id = ''",
    "listed_time": "(provider_pod_id = '') = (listed_time IS NULL)",
    "ready_time": "state NOT IN ('READY','DRAINING') OR ready_time IS NOT NULL",
    "drain_time": "state <> 'DRAINING' OR drain_time IS NOT NULL",
    "destroy_time": "state NOT IN ('DESTROYING','DESTROYED') OR destroy_time IS NOT NULL",
    "registered_time": "(worker_id IS NULL) = (registered_time IS NULL)",
    "join_token_sha256": "octet_length(join_token_sha256) = 32",
    "join_token_expire_time": "(join_token_sha256 IS NULL) = (join_token_expire_time IS NULL)",
    "join_token_used_time": (
        "join_token_used_time IS NULL OR (join_token_sha256 IS NOT NULL AND worker_id IS NOT NULL)"
    ),
    "gpus": "gpu_count >= 0 AND vram_bytes >= 0",
    "price": "price_usd_per_hour >= 0",
}


def _time(name: str, *, nullable: bool = True) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _text(name: str, default: str | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False, server_default=default)


def upgrade() -> None:
    op.create_table(
        "pods",
        sa.Column("pod_id", sa.Uuid(), nullable=False),
        _text("name"),
        sa.Column("request_id", sa.Uuid()),
        _text("provider"),
        _text("provider_pod_id", ""),
        _text("state"),
        _text("reason", "NONE"),
        _text("detail", ""),
        _text("workload", ""),
        _text("gpu_type"),
        sa.Column("gpu_count", sa.Integer(), nullable=False),
        sa.Column("vram_bytes", sa.BigInteger(), server_default="0", nullable=False),
        _text("compute_capability", ""),
        _text("device_name", ""),
        _text("cloud", "NONE"),
        _text("region", ""),
        sa.Column("price_usd_per_hour", sa.Numeric(12, 6), nullable=False),
        sa.Column("join_token_sha256", sa.LargeBinary()),
        _time("join_token_expire_time"),
        _time("join_token_used_time"),
        sa.Column("worker_id", sa.Uuid()),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        _time("call_time"),
        _time("listed_time"),
        _time("registered_time"),
        _time("ready_time"),
        _time("drain_time"),
        _time("destroy_time"),
        _time("end_time"),
        _time("last_seen_time"),
        sa.PrimaryKeyConstraint("pod_id", name="pk_pods"),
        sa.UniqueConstraint("name", name="uq_pods_name"),
        sa.UniqueConstraint("request_id", name="uq_pods_request_id"),
        *(sa.CheckConstraint(rule, name=op.f(f"ck_pods_{name}")) for name, rule in _CHECKS.items()),
    )
    op.create_index("ix_pods_open", "pods", ["provider"], postgresql_where=sa.text("end_time IS NULL"))
    op.create_index("ix_pods_list", "pods", [sa.text("create_time DESC"), sa.text("pod_id DESC")])
    op.create_table(
        "pod_events",
        sa.Column("event_id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("pod_id", sa.Uuid(), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        _text("state"),
        _text("reason"),
        _text("detail", ""),
        sa.PrimaryKeyConstraint("event_id", name="pk_pod_events"),
        sa.ForeignKeyConstraint(["pod_id"], ["pods.pod_id"], name="fk_pod_events_pod_id", ondelete="CASCADE"),
    )
    op.create_index("ix_pod_events_pod_id", "pod_events", ["pod_id", "event_id"])
    op.create_table(
        "pod_prices",
        sa.Column("pod_id", sa.Uuid(), nullable=False),
        _time("start_time", nullable=False),
        _time("end_time"),
        sa.Column("price_usd_per_hour", sa.Numeric(12, 6), nullable=False),
        sa.PrimaryKeyConstraint("pod_id", "start_time", name="pk_pod_prices"),
        sa.ForeignKeyConstraint(["pod_id"], ["pods.pod_id"], name="fk_pod_prices_pod_id", ondelete="CASCADE"),
        sa.CheckConstraint("end_time >= start_time", name=op.f("ck_pod_prices_end_time")),
        sa.CheckConstraint("price_usd_per_hour >= 0", name=op.f("ck_pod_prices_price")),
    )
    op.create_index(
        "ix_pod_prices_open", "pod_prices", ["pod_id"], unique=True, postgresql_where=sa.text("end_time IS NULL")
    )
    op.create_index("ix_pod_prices_end_time", "pod_prices", ["end_time"])


def downgrade() -> None:
    op.drop_table("pod_prices")
    op.drop_table("pod_events")
    op.drop_table("pods")
