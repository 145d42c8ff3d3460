"""Check that all sites hold the same model: its hash travels inside the encrypted sum of every round.

Each site adds 64 values, +1 or -1: the first bits of the SHA-256 of its global model, the strategy's state and the
settings that must be equal. If all sites agree, every sum of the 64 is as large as it can be, ``M * W / w_max`` up to
less than a unit of rounding per site (``W`` total weight, fixedpoint.py), and rounding never passes zero; a site of
weight ``w`` that disagrees takes ``2 * M * w / w_max`` from about every second of them. So the decision is a function
of the sums alone, the same at every site, however each of them rounds. Sites whose models differ pass with probability
2^-64, or if those on one side together weigh less than ``(2 * n + 1) * w_max / (2 * M)``: then they hardly move the
mean either. The aggregator sees nothing of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from he_agg.errors import ProtocolError, Reason
from he_agg.plan.fixedpoint import Mean
from he_agg.plan.plan import Plan

__all__ = ["SIGNS", "check_agreement", "model_hash", "signs_of", "sums_of"]

SIGNS = "he-agg/model-hash"
BITS = 64


def model_hash(tensors: Mapping[str, NDArray[Any]], *settings: str) -> str:
    """Compute the SHA-256 over names, dtypes, shapes, values and settings.

    Args:
        tensors: by name; their order does not matter.
        settings: text that must be the same, too.
    """
    digest = hashlib.sha256(b"he-agg model 1")
    for text in settings:
        digest.update(f"\n{len(text)} {text}".encode())
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"\n{len(name)} {name} {array.dtype.name} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def signs_of(digest: str) -> NDArray[np.float32]:
    """Return the values that travel for a hash. Shape: (64,)."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(digest)[: BITS // 8], dtype=np.uint8))
    return (1 - 2 * bits.astype(np.float32)).astype(np.float32)


def sums_of(plan: Plan, mean: Mean, name: str) -> NDArray[np.int64]:
    """Return the exact integer sums of one tensor of the layout."""
    start = 0
    for spec in plan.layout.tensors:
        if spec.name == name:
            return mean.sums[start : start + spec.size].reshape(spec.shape)
        start += spec.size
    raise KeyError(name)


def check_agreement(plan: Plan, mean: Mean, digest: str, round_number: int) -> None:
    """Check that every site of a round held the model with this hash.

    Raises:
        ProtocolError: they did not; the mean must not be applied.
    """
    sums = sums_of(plan, mean, SIGNS)
    full = plan.public.magnitude * mean.total_weight / plan.layout.weight_cap
    # A unit per site for rounding at random; a few ulps of float arithmetic cannot make another.
    agreed = bool((np.abs(sums) > full - mean.n_sites - 1).all())
    # Zero says nothing about its sign (few bits, small weights).
    own = not bool((sums * signs_of(digest) < 0).any())
    if agreed and own:
        return
    who = "this site's model is not that of the others" if agreed else "the sites' models are not all the same"
    raise ProtocolError(
        Reason.BAD_DIGEST,
        f"round {round_number}: {who} (here {digest[:12]}); the mean was not applied",
        "compare initial weights (same seed, same file), strategy and settings at all sites; a site that was restored "
        "from a backup takes over what another site has, by `hand_over`",
    )
