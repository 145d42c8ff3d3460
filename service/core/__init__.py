"""Decide what a request means: submissions, rosters and epochs, rounds. No HTTP in here."""
