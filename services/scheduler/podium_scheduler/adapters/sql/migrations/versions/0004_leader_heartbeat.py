"""The leader's heartbeat, and since when sessions could be renewed.

Revision: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("cluster", sa.Column("leader_renew_time", sa.DateTime(timezone=True)))
    op.add_column("cluster", sa.Column("renewable_since", sa.DateTime(timezone=True)))


def downgrade() -> None:
    op.drop_column("cluster", "renewable_since")
    op.drop_column("cluster", "leader_renew_time")
