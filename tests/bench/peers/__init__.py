"""`make bench-peers`: other ways to embed a pile of texts, on the same model, corpus, precision and threads."""
