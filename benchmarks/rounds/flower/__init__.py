"""Flower's own rounds: SuperLink, SuperNodes and apps as Flower starts them, spoken to like any other scheme."""
