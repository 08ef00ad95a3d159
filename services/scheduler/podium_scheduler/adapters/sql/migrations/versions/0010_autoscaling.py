"""What the autoscaler rests on and what it decided, and what jobs had of pods.

Revision: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "autoscaling",
        sa.Column("singleton", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("min_pods", sa.Integer(), nullable=False),
        sa.Column("max_pods", sa.Integer(), nullable=False),
        sa.Column("usd_per_hour", sa.Numeric(12, 6)),
        sa.Column("usd_per_day", sa.Numeric(12, 6)),
        sa.PrimaryKeyConstraint("singleton", name="pk_autoscaling"),
        sa.CheckConstraint("singleton", name=op.f("ck_autoscaling_singleton")),
        sa.CheckConstraint("min_pods >= 0 AND max_pods >= min_pods", name=op.f("ck_autoscaling_pods")),
        sa.CheckConstraint("usd_per_hour >= 0 AND usd_per_day >= 0", name=op.f("ck_autoscaling_usd")),
    )
    op.create_table(
        "pod_decisions",
        sa.Column("decision_id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("time", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("workload", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("pod_id", sa.Uuid()),
        sa.PrimaryKeyConstraint("decision_id", name="pk_pod_decisions"),
    )
    op.create_index("ix_pod_decisions_workload", "pod_decisions", ["workload", "decision_id"])
    op.create_table(
        "throughputs",
        sa.Column("workload", sa.Text(), nullable=False),
        sa.Column("device_name", sa.Text(), nullable=False),
        sa.Column("items_per_s", sa.Double(), nullable=False),
        sa.Column("batch_count", sa.BigInteger(), nullable=False),
        sa.Column("last_time", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("workload", "device_name", name="pk_throughputs"),
        sa.CheckConstraint("items_per_s > 0", name=op.f("ck_throughputs_items_per_s")),
    )
    op.create_table(
        "pod_uses",
        sa.Column("pod_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("workload", sa.Text(), nullable=False),
        sa.Column("busy_s", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("pod_id", "job_id", name="pk_pod_uses"),
        sa.ForeignKeyConstraint(["pod_id"], ["pods.pod_id"], name="fk_pod_uses_pod_id", ondelete="CASCADE"),
    )
    op.create_index("ix_pod_uses_job_id", "pod_uses", ["job_id"])
    op.create_table(
        "pod_work",
        sa.Column("pod_id", sa.Uuid(), nullable=False),
        sa.Column("workload", sa.Text(), nullable=False),
        sa.Column("busy_s", sa.Double(), nullable=False),
        sa.Column("load_s", sa.Double(), nullable=False),
        sa.Column("last_time", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("pod_id", "workload", name="pk_pod_work"),
        sa.ForeignKeyConstraint(["pod_id"], ["pods.pod_id"], name="fk_pod_work_pod_id", ondelete="CASCADE"),
    )
    op.create_index("ix_jobs_create_time", "jobs", ["create_time"])


def downgrade() -> None:
    op.drop_index("ix_jobs_create_time", "jobs")
    op.drop_table("pod_work")
    op.drop_table("pod_uses")
    op.drop_table("throughputs")
    op.drop_table("pod_decisions")
    op.drop_table("autoscaling")
