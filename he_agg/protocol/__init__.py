"""Read and write what travels: parts, small messages, signatures over requests."""
