"""Run the aggregator as a process: listeners, TLS, uvicorn."""
