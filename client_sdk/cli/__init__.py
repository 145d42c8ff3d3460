"""Offer a site's commands."""
