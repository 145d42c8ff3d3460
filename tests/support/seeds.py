"""The seed of what a test draws: another one in each run, unless HE_AGG_TEST_SEED says which."""

from __future__ import annotations

import os
import secrets

GIVEN = "HE_AGG_TEST_SEED" in os.environ


def seed_of(what: str) -> int:
    """Return a seed, and print it: pytest shows that with a failure only."""
    seed = int(os.environ["HE_AGG_TEST_SEED"]) if GIVEN else secrets.randbits(32)
    print(f"{what}: HE_AGG_TEST_SEED={seed}")
    return seed
