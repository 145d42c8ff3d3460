"""Tutorials that run: `python -m docs.examples.fedavg_torch --out picture.png`, from a checkout."""
