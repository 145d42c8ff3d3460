"""Hold the life of rounds and submissions as pure state machines: no store, no clock, no files."""
