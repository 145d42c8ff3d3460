"""Speak HTTP: read heads and bodies, ask the core, shape the answer."""
