"""Consumer groups: the outbox of what finished.

Revision: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("jobs", "batches"):
        op.add_column(table, sa.Column("offered", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.create_table(
        "consumer_groups",
        sa.Column("group_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("app_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("workload", sa.Text(), server_default="", nullable=False),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("seen_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("retire_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("filled", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("filled_create_time", sa.DateTime(timezone=True), nullable=True),
        sa.Column("filled_job_id", sa.Uuid(), nullable=True),
        sa.CheckConstraint(
            "(filled_create_time IS NULL) = (filled_job_id IS NULL)", name=op.f("ck_consumer_groups_filled_place")
        ),
        sa.ForeignKeyConstraint(["app_id"], ["apps.app_id"], name=op.f("fk_consumer_groups_app_id")),
        sa.PrimaryKeyConstraint("group_id", name=op.f("pk_consumer_groups")),
    )
    op.create_index(
        "ix_consumer_groups_name",
        "consumer_groups",
        ["app_id", "name"],
        unique=True,
        postgresql_where=sa.text("retire_time IS NULL"),
    )
    op.create_table(
        "consumers",
        sa.Column("consumer_id", sa.Uuid(), nullable=False),
        sa.Column("group_id", sa.BigInteger(), nullable=False),
        sa.Column("open_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expire_time", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["group_id"], ["consumer_groups.group_id"], name=op.f("fk_consumers_group_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("consumer_id", name=op.f("pk_consumers")),
    )
    op.create_index("ix_consumers_expire_time", "consumers", ["expire_time"])
    op.create_index("ix_consumers_group_id", "consumers", ["group_id"])
    _deliveries()


def _deliveries() -> None:
    op.create_table(
        "deliveries",
        sa.Column("delivery_id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("group_id", sa.BigInteger(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("batch_id", sa.BigInteger(), nullable=True),
        sa.Column("consumer_id", sa.Uuid(), nullable=True),
        sa.Column("create_time", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(
            ["group_id"], ["consumer_groups.group_id"], name=op.f("fk_deliveries_group_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name=op.f("fk_deliveries_job_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["batch_id"], ["batches.batch_id"], name=op.f("fk_deliveries_batch_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["consumer_id"], ["consumers.consumer_id"], name=op.f("fk_deliveries_consumer_id"), ondelete="SET NULL"
        ),
        sa.PrimaryKeyConstraint("delivery_id", name=op.f("pk_deliveries")),
        sa.UniqueConstraint("batch_id", "group_id", name=op.f("uq_deliveries_batch_id_group_id")),
    )
    op.create_index(
        "ix_deliveries_waiting",
        "deliveries",
        ["group_id", "delivery_id"],
        postgresql_where=sa.text("consumer_id IS NULL"),
    )
    op.create_index(
        "ix_deliveries_held", "deliveries", ["consumer_id"], postgresql_where=sa.text("consumer_id IS NOT NULL")
    )
    op.create_index("ix_deliveries_of_job", "deliveries", ["job_id", "group_id"])


def downgrade() -> None:
    for table in ("deliveries", "consumers", "consumer_groups"):
        op.drop_table(table)
    for table in ("jobs", "batches"):
        op.drop_column(table, "offered")
