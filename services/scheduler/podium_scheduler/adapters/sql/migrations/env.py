"""Alembic's entry: `migrate.py` hands it an open connection."""

from alembic import context

from podium_scheduler.adapters.sql import schema

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=schema.metadata,
    compare_server_default=False,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
