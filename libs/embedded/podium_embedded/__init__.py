"""Private Postgres and Redis servers as child processes, for one-machine Podium."""
