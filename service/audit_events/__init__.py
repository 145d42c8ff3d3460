"""Say what an audit log is told: a closed list of events, and on whose behalf something is done."""
