"""Send requests: the only room that opens a connection."""
