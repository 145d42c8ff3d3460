"""Offer the operator's commands."""
