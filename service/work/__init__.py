"""Do what happens between requests: folding, deadlines, housekeeping, under leases."""
