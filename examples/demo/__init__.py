"""The demonstration: four unlike hospitals learn one model from real patients.

Everything here runs inside a hospital or on the desk of whoever watches the demonstration; the
aggregator never imports it. `data` and `report` need what `examples/pyproject.toml` names; a hospital that has its
share on disk (`data.Share.load`) needs NumPy only.
"""
