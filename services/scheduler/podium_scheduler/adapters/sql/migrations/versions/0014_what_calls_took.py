"""What interactive calls took of pods: it is in no job's cost, and so in the unattributed.

Revision: 0014
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Of pods that served calls before, it stays unknown.
    op.add_column("pod_work", sa.Column("call_s", sa.Double(), server_default="0", nullable=False))


def downgrade() -> None:
    op.drop_column("pod_work", "call_s")
