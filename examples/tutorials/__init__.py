"""Tutorials that run: `python -m examples.tutorials.fedavg_torch --out picture.png`, from a checkout."""
