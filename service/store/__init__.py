"""The durable store: rows (base: what they are, sql: where they are) and files (blobs)."""
