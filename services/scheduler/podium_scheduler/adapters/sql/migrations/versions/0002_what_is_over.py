"""What is over leaves the hot tables: archived jobs, their failed batches, the expiry of results.

Revision: 0002

Jobs that end while a replica of the version before still runs are archived like all others: what is due is a generated
column. Adding it rewrites `jobs`, which no other call can use in that moment.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ARCHIVE_DUE = """
CASE
    WHEN (archived OR (finish_time IS NULL)) THEN NULL::timestamp with time zone
    WHEN (items_released = item_count) THEN finish_time
    ELSE expire_time
END"""


def upgrade() -> None:
    op.create_table(
        "failed_batches",
        sa.Column("batch_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("first_item", sa.Integer(), nullable=False),
        sa.Column("item_count", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.SmallInteger(), nullable=False),
        sa.Column("failure_reason", sa.Text(), nullable=False),
        sa.Column("failure_message", sa.Text(), nullable=True),
        sa.Column("finish_time", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name=op.f("fk_failed_batches_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("batch_id", name=op.f("pk_failed_batches")),
    )
    op.create_index("ix_failed_batches_job_id", "failed_batches", ["job_id", "first_item"])
    op.create_index(
        "ix_failed_batches_finish_time", "failed_batches", [sa.text("finish_time DESC"), sa.text("batch_id DESC")]
    )
    false = sa.text("false")
    op.add_column("jobs", sa.Column("results_expired", sa.Boolean(), server_default=false, nullable=False))
    op.add_column("jobs", sa.Column("archived", sa.Boolean(), server_default=false, nullable=False))
    computed = sa.Computed(_ARCHIVE_DUE, persisted=True)
    op.add_column("jobs", sa.Column("archive_due", sa.DateTime(timezone=True), computed))
    op.create_check_constraint(op.f("ck_jobs_archived_is_final"), "jobs", "NOT archived OR finish_time IS NOT NULL")
    op.create_check_constraint(
        op.f("ck_jobs_archived_is_over"), "jobs", "NOT archived OR results_expired OR items_released = item_count"
    )
    op.create_index("ix_jobs_archive_due", "jobs", ["archive_due"], postgresql_where=sa.text("archive_due IS NOT NULL"))
    op.create_index("ix_jobs_archived", "jobs", ["finish_time"], postgresql_where=sa.text("archived"))
    op.create_index("ix_jobs_unarchived", "jobs", ["job_id"], postgresql_where=sa.text("NOT archived"))
    op.drop_index("ix_jobs_expire_time", table_name="jobs")


def downgrade() -> None:
    op.create_index("ix_jobs_expire_time", "jobs", ["expire_time"], postgresql_where=sa.text("expire_time IS NOT NULL"))
    op.drop_index("ix_jobs_unarchived", table_name="jobs")
    op.drop_index("ix_jobs_archived", table_name="jobs")
    op.drop_index("ix_jobs_archive_due", table_name="jobs")
    op.drop_constraint(op.f("ck_jobs_archived_is_over"), "jobs")
    op.drop_constraint(op.f("ck_jobs_archived_is_final"), "jobs")
    op.drop_column("jobs", "archive_due")
    op.drop_column("jobs", "archived")
    op.drop_column("jobs", "results_expired")
    op.drop_table("failed_batches")
