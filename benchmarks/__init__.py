"""Measurements, with their results beside them."""
