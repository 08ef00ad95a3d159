"""Identical items are computed once.

Revision: 0013
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("items_deduplicated", sa.Integer(), server_default="0", nullable=False))
    op.add_column("jobs", sa.Column("dedupe_scope", sa.LargeBinary()))
    op.create_check_constraint(
        op.f("ck_jobs_items_deduplicated"), "jobs", "items_deduplicated BETWEEN 0 AND item_count"
    )
    op.add_column("batches", sa.Column("items_deduplicated", sa.Integer(), server_default="0", nullable=False))
    op.add_column("batches", sa.Column("identities", sa.LargeBinary()))
    op.create_table(
        "known_items",
        sa.Column("scope", sa.LargeBinary(), nullable=False),
        sa.Column("item_hash", sa.LargeBinary(), nullable=False),
        sa.Column("batch_id", sa.BigInteger(), nullable=False),
        sa.Column("vector", sa.LargeBinary()),
        sa.Column("made_by", sa.LargeBinary()),
        sa.Column("token_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("max_tokens", sa.Integer(), server_default="0", nullable=False),
        sa.Column("expire_time", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("scope", "item_hash", name="pk_known_items"),
        sa.CheckConstraint("octet_length(item_hash) = 16", name=op.f("ck_known_items_item_hash")),
        sa.CheckConstraint("(vector IS NULL) = (made_by IS NULL)", name=op.f("ck_known_items_made_by")),
    )
    # Vectors do not compress; trying to would be most of what it costs to keep them.
    op.execute("ALTER TABLE known_items ALTER COLUMN vector SET STORAGE EXTERNAL")
    op.create_index("ix_known_items_expire_time", "known_items", ["expire_time"])
    op.create_table(
        "waiting_batches",
        sa.Column("batch_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("app_id", sa.Text(), nullable=False),
        sa.Column("owners", postgresql.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("batch_id", name="pk_waiting_batches"),
    )
    op.create_index("ix_waiting_batches_app_id", "waiting_batches", ["app_id", "job_id"])


def downgrade() -> None:
    op.drop_table("waiting_batches")
    op.drop_table("known_items")
    op.drop_column("batches", "identities")
    op.drop_column("batches", "items_deduplicated")
    op.drop_constraint(op.f("ck_jobs_items_deduplicated"), "jobs")
    op.drop_column("jobs", "dedupe_scope")
    op.drop_column("jobs", "items_deduplicated")
