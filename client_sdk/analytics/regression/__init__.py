"""Regression of all sites' patients: one Newton machine, families in it, and penalties.

families.py says what a family is, rows.py what a site's rows are, newton.py steps, penalty.py solves what a step with a
penalty asks, linear.py needs no steps.
"""
