"""Commands of members about keys, rosters, epochs and plans."""
