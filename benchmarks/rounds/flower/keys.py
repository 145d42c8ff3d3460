"""The keystores of a run over our ciphertexts, one for each site, and the server's document."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.rounds.models import WEIGHT_CAP
from client_sdk.training import training_plan
from keys import GroupKey

__all__ = ["deal"]


def deal(folder: Path, values: int, sites: int, value_bits: int = 16) -> None:
    """Make a plan as the other schemes have it, and deal its key."""
    plan = training_plan(
        "bench",
        {"w": np.zeros(values, np.float32)},
        clip=1.0,
        weight_cap=WEIGHT_CAP,
        max_sites=2 * sites,
        min_sites=2,
        value_bits=value_bits,
    )
    key = GroupKey.create(plan)
    for site in range(sites):
        (folder / str(site)).mkdir(parents=True)
        key.save(folder / str(site) / "keystore")
    (folder / "federation.json").write_bytes(key.federation_document.encode())
