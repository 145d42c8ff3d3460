"""Plans, keys and sums for tests, built by the real code."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import numpy as np

from he_agg import Layout
from he_agg.codecs.base import PartSource
from he_agg.ids import RoundId
from he_agg.kernels import bitpack
from he_agg.plan.plan import Plan, PublicPlan
from he_agg.plan.sections import Part
from keys import GroupKey

ROUND = RoundId("test", 1, 1)


def plan_of(n_values: int = 5, **options) -> Plan:
    """A plan for one float64 tensor of `n_values` elements.

    Of the codec ckks unless told otherwise: its parts are small, so a few thousand values make several.
    """
    layout = Layout.of(
        {"w": np.zeros(n_values)}, clip=options.pop("clip", 1.0), weight_cap=options.pop("weight_cap", 10)
    )
    return Plan.create("test", layout, **{"min_sites": 2, "max_sites": 5, "codec": "ckks", **options})


def by_number(parts: Iterable[Part]) -> list[Part]:
    """Parts in the order of their numbers: a codec may make them in another."""
    return sorted(parts, key=lambda part: part.number)


def source(parts: list[Part]) -> PartSource:
    """Parts of a sum, handed over by their numbers."""
    return lambda number: parts[number]


@cache
def key_of(plan: Plan) -> GroupKey:
    """A group key for the plan, the same one each time."""
    return GroupKey.create(plan)


def fold_all(plan: PublicPlan, submissions: list[list[Part]]) -> list[Part]:
    """Sum submissions part by part, as the aggregator does."""
    total = []
    for place in plan.places:
        section = place.section
        acc = bitpack.new_sum(place.residues, section.modulus_bits)
        for parts in submissions:
            assert bitpack.fold(acc, parts[place.number].packed, section.modulus_bits, section.modulus) == -1
        total.append(Part(place.number, bitpack.pack(acc, section.modulus_bits).data))
    return total
