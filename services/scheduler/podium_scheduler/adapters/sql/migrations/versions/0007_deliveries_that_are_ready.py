"""A delivery says whether it may be given out, so that claims need not look at those that may not.

Revision: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("deliveries", sa.Column("ready", sa.Boolean(), server_default=sa.text("true"), nullable=False))
    op.execute("""
        UPDATE deliveries d SET ready = false FROM batches b
        WHERE b.batch_id = d.batch_id AND b.state NOT IN ('COMPLETED', 'FAILED', 'CANCELLED', 'EXPIRED')
    """)
    op.execute("""
        UPDATE deliveries d SET ready = false FROM jobs j
        WHERE j.job_id = d.job_id AND d.batch_id IS NULL
          AND (j.state NOT IN ('COMPLETED', 'CANCELLED', 'EXPIRED') OR EXISTS (
              SELECT FROM deliveries o
              WHERE o.job_id = d.job_id AND o.group_id = d.group_id AND o.batch_id IS NOT NULL))
    """)
    op.drop_index("ix_deliveries_waiting", "deliveries")
    op.create_index(
        "ix_deliveries_waiting",
        "deliveries",
        ["group_id", "ready", "delivery_id"],
        postgresql_where=sa.text("consumer_id IS NULL"),
    )
    op.create_index("ix_deliveries_ends", "deliveries", ["job_id"], postgresql_where=sa.text("batch_id IS NULL"))


def downgrade() -> None:
    op.drop_index("ix_deliveries_ends", "deliveries")
    op.drop_index("ix_deliveries_waiting", "deliveries")
    op.create_index(
        "ix_deliveries_waiting",
        "deliveries",
        ["group_id", "delivery_id"],
        postgresql_where=sa.text("consumer_id IS NULL"),
    )
    op.drop_column("deliveries", "ready")
