"""What interactive calls ask for.

Revision: 0011
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "interactive_demand",
        sa.Column("workload", sa.Text(), nullable=False),
        sa.Column("last_asked", sa.DateTime(timezone=True), nullable=False),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("waiting_since", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("workload", name="pk_interactive_demand"),
        sa.CheckConstraint("calls > 0", name=op.f("ck_interactive_demand_calls")),
    )


def downgrade() -> None:
    op.drop_table("interactive_demand")
