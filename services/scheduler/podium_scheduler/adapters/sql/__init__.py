"""The ledger in Postgres: tables, statements, migrations, leadership."""
