"""Submissions, by phase: announced by a manifest, received part by part, completed once. No HTTP in here.

Order of every write: part, then row, then answer. Every method may be called again with the same arguments.
"""
