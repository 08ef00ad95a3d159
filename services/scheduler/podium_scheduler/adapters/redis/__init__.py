"""The buffer in Redis: work streams, results, wake-ups."""
