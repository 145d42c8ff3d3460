"""Show where everything stands: one view for all faces, metrics, traces, the operators' page."""
