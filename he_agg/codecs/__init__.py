"""Codecs: from exact integers to residues that add, and back. Loads the HE library when a codec is asked for."""

from __future__ import annotations

from importlib import import_module

from he_agg.codecs.base import Codec, GroupKey, Opening, PartSource
from he_agg.plan.plan import PublicPlan
from he_agg.plan.schemes import scheme_of

__all__ = ["Codec", "GroupKey", "Opening", "PartSource", "codec_for", "new_key_material"]


def codec_for(plan: PublicPlan) -> Codec:
    """Make the codec of a plan."""
    return _codec_class(plan)(plan)


def new_key_material(plan: PublicPlan) -> bytes:
    """Make fresh key material for a plan from the operating system's randomness. Secret."""
    return _codec_class(plan).new_key_material(plan)


def _codec_class(plan: PublicPlan) -> type[Codec]:
    module, _, name = scheme_of(plan.codec).codec.partition(":")
    found: type[Codec] = getattr(import_module(module), name)
    return found
