"""What a reader has acknowledged is remembered, apart from what is released.

Revision: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("acknowledged_item", sa.Integer(), server_default="0", nullable=False))
    op.create_check_constraint(op.f("ck_jobs_acknowledged_item"), "jobs", "acknowledged_item BETWEEN 0 AND item_count")


def downgrade() -> None:
    op.drop_column("jobs", "acknowledged_item")
