"""What rented pods may cost for a job.

Revision: 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("budget_micro_usd", sa.BigInteger()))
    # Rows of before have none, so that the constraint holds for them without a look at the table.
    op.execute(
        "ALTER TABLE jobs ADD CONSTRAINT ck_jobs_budget_micro_usd "
        "CHECK (budget_micro_usd BETWEEN 10000 AND 1000000000000) NOT VALID"
    )
    op.execute("ALTER TABLE jobs VALIDATE CONSTRAINT ck_jobs_budget_micro_usd")


def downgrade() -> None:
    op.drop_constraint(op.f("ck_jobs_budget_micro_usd"), "jobs")
    op.drop_column("jobs", "budget_micro_usd")
