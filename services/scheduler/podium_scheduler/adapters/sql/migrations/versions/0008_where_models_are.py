"""How long models take to load, by type of device; and which models each worker was asked to keep loaded.

Revision: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "model_loads",
        sa.Column("workload", sa.Text(), nullable=False),
        sa.Column("device_name", sa.Text(), nullable=False),
        sa.Column("load_count", sa.BigInteger(), nullable=False),
        sa.Column("mean_s", sa.Double(), nullable=False),
        sa.Column("last_s", sa.Double(), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=False),
        sa.Column("last_time", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("workload", "device_name", name="pk_model_loads"),
        sa.CheckConstraint("load_count > 0", name="ck_model_loads_load_count"),
        sa.CheckConstraint("mean_s >= 0 AND last_s >= 0", name="ck_model_loads_spans"),
        sa.CheckConstraint("memory_bytes >= 0", name="ck_model_loads_memory_bytes"),
    )
    op.add_column("sessions", sa.Column("wanted", sa.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False))


def downgrade() -> None:
    op.drop_column("sessions", "wanted")
    op.drop_table("model_loads")
