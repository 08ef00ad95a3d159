"""Translation to and from Postgres, Redis, gRPC and files. Nothing is decided here."""
