"""Codecs: from exact integers to residues that add, and back. `codec_for` finds the one that a plan names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from he_agg.codecs.base import Codec, GroupKey

if TYPE_CHECKING:
    from he_agg.plan.plan import PublicPlan

__all__ = ["Codec", "GroupKey", "codec_for"]


def codec_for(plan: PublicPlan) -> Codec:
    """Return the codec of a plan. Loads the HE library, which is why the aggregator never calls it."""
    from he_agg.codecs.ckks import CkksCodec
    from he_agg.codecs.hybrid import HybridCodec

    return CkksCodec(plan) if plan.codec == "ckks" else HybridCodec(plan)
