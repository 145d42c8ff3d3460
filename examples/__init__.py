"""Show the product at work: the demo with real patients, and tutorials."""
