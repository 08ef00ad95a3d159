"""What is decided about a worker outlives its stream: it is to drain, or it is quarantined.

Revision: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sessions", sa.Column("drain", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    op.add_column("sessions", sa.Column("quarantine_reason", sa.Text(), server_default="", nullable=False))
    op.add_column("sessions", sa.Column("quarantine_until", sa.DateTime(timezone=True)))
    op.create_index("ix_sessions_history", "sessions", ["worker_id", sa.text("connect_time DESC")])


def downgrade() -> None:
    op.drop_index("ix_sessions_history", table_name="sessions")
    op.drop_column("sessions", "quarantine_until")
    op.drop_column("sessions", "quarantine_reason")
    op.drop_column("sessions", "drain")
