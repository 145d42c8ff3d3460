"""Sizes that are measured, and the vectors that sites bring: made from a seed, so that every mean can be checked."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["CHECKED", "MODELS", "PROMISED_MODEL", "WEIGHT_CAP", "expected_mean", "update_of", "weight_of"]

MODELS = {
    "logreg": 10**2,
    "cnn": 10**5,
    "million": 10**6,
    "ten-million": 10**7,
    "resnet18": 11_181_642,
    "resnet50": 25_557_032,
    "lora": 10**8,
}
"""Values by name."""

PROMISED_MODEL = "ten-million"
"""What the promises are about."""

WEIGHT_CAP = 1000
CHECKED = 4096
"""So many values of every mean are compared with one computed in double precision."""


def weight_of(site: int) -> int:
    """A site's sample count; all differ."""
    return 500 + 10 * site


def update_of(site: int, values: int) -> Any:
    """A site's update: float32 in [-1, 1)."""
    return np.random.default_rng(site).random(values, dtype=np.float32) * np.float32(2) - np.float32(1)


def expected_mean(sites: int, values: int) -> Any:
    """The first values of the weighted mean of all sites."""
    # The generator gives the same first values whatever is drawn after them.
    some = min(values, CHECKED)
    weights = [weight_of(site) for site in range(sites)]
    updates = [update_of(site, some).astype(np.float64) for site in range(sites)]
    return sum(w * x for w, x in zip(weights, updates, strict=True)) / sum(weights)
