"""Survival analysis: Kaplan-Meier curves and Cox models, from sums at common times."""
