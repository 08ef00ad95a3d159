"""The buffer in Redis: work streams, result streams, wake-ups."""
