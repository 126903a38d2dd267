"""Embeddings and predictions of collections larger than memory, in shards that a kill cannot undo."""
