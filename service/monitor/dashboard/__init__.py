"""The operators' listener: a page, its data, and metrics. Sites never reach it."""
