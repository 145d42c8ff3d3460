"""Submissions, by phase: admitted, received part by part, completed by a manifest. No HTTP in here.

Order of every write: part, then row, then answer. Every method may be called again with the same arguments.
"""
