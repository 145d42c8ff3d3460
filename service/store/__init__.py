"""Keep what is durable: rows (base: what they are, sql: where they are) and parts (parts/base, parts/directory)."""
