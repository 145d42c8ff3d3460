"""Keep what a site must not forget: its spool, its chain of records, its rosters, its security log."""
