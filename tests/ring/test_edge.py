"""Sums at the edge: as many sites as a plan allows, every value of each at M or -M, and not one sum wrong.

A few batches of each plan in `make test`, 10^8 values of each in `make soak`, a batch at a time so that memory stays
small.
"""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from he_agg.kernels.bitpack import fold, pack
from he_agg.plan.hybrid_parameters import HybridParameters
from he_agg.ring.encryptor import Encryptor
from he_agg.ring.opener import Opener
from he_agg.ring.primes import BATCH, N, coefficients_of
from tests.ring.sets import chosen, ring_of

PLANS = {f"{bits} bits, {sites} sites": (bits, sites) for bits, sites in ((16, 31), (8, 8), (24, 31), (8, 100))}

PATTERNS = 5


def signs(kind: int, digits: int, rng: np.random.Generator) -> np.ndarray:
    """Return the signs of a whole batch's values: all plus, all minus, and three ways to take turns."""
    odd, odd_digit = np.arange(BATCH) & 1, np.arange(digits)[:, None] & 1
    turns: list[Any] = [1, -1, 1 - 2 * odd, 1 - 2 * odd_digit, rng.choice([-1, 1], (digits, BATCH))]
    return np.broadcast_to(turns[kind], (digits, BATCH)).astype(np.int32).ravel()


@dataclass
class Edge:
    """A round of a full plan in which all sites send the same signs, so that no sum is less than K*M in magnitude."""

    plan: HybridParameters
    key: bytes

    def __post_init__(self) -> None:
        self.ring = ring_of(self.plan)
        self.sites = [Encryptor(self.ring, self.key) for _ in range(self.plan.max_sites)]
        key_sum = np.zeros(N, dtype=np.int64)
        for site in self.sites:
            key_sum += site.key_coefficients()
        self.opener = Opener(self.ring, self.key, key_sum, len(self.sites))

    def play(self, batch: int, values: np.ndarray) -> tuple[int, int]:
        """Encrypt, add and open one batch; return the largest distance to the grid and the sum of their squares."""
        count = coefficients_of(values.size, self.ring.digits)
        totals = [np.zeros(count, dtype=np.uint32) for _ in self.ring.moduli]
        for site in self.sites:
            parts = site.encrypt(batch, values)
            for total, part, bits, r in zip(totals, parts, self.ring.sent_bits, self.ring.moduli, strict=True):
                assert fold(total, part, bits, r) == -1
        packed = [pack(total, bits) for total, bits in zip(totals, self.ring.sent_bits, strict=True)]
        sums = np.empty(values.size, dtype=np.int64)
        distance, squares, largest = self.opener.open(batch, packed, sums)
        assert largest == self.plan.max_sites * self.plan.magnitude
        wrong = np.flatnonzero(sums != values.astype(np.int64) * len(self.sites))
        assert wrong.size == 0, f"batch {batch}: {wrong.size} sums are wrong, the first one at {wrong[0]}"
        return distance, squares


@pytest.mark.parametrize("total", [pytest.param(0, id="quick"), pytest.param(10**8, id="soak", marks=pytest.mark.slow)])
@pytest.mark.parametrize("terms", PLANS.values(), ids=PLANS)
def test_not_one_sum_at_the_edge_is_wrong(terms, total, rng, capsys):
    plan, begin = chosen(*terms), time.perf_counter()
    edge, whole = Edge(plan, rng.bytes(32)), plan.packing * BATCH
    total = total or PATTERNS * whole + 1  # each pattern once, and one value of another batch
    patterns = [signs(kind, plan.packing, rng) * np.int32(plan.magnitude) for kind in range(PATTERNS)]

    def play(batch: int) -> tuple[int, int]:
        return edge.play(batch, patterns[batch % PATTERNS][: total - batch * whole])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        distances, squares = zip(*pool.map(play, range(-(-total // whole))), strict=True)
    coefficients = coefficients_of(total, plan.packing)
    assert max(distances) <= plan.largest_distance(plan.max_sites)
    assert sum(squares) <= plan.largest_square_sum(plan.max_sites, coefficients)
    if total >= 10**8:
        with capsys.disabled():
            print(
                f"\n{terms[0]} bits, {terms[1]} sites, {plan.name}: {total:,} sums exact in "
                f"{time.perf_counter() - begin:.0f} s; the largest distance to the grid was "
                f"{max(distances)}, half a step is {plan.delta / 2}"
            )


@pytest.mark.parametrize("bits", range(2, 25))
def test_whatever_the_planner_takes_is_exact(bits, rng):
    """Every width of values: a thousand coefficients at the edge, of the first batch and of a late one."""
    for sites in (1, 3, 8, 31):
        plan = chosen(bits, sites)
        edge = Edge(plan, rng.bytes(32))
        for batch, kind in ((0, 3), (2**20, 4)):
            values = signs(kind, plan.packing, rng)[: 1000 * plan.packing + 1] * np.int32(plan.magnitude)
            distance, _ = edge.play(batch, values)
            assert distance <= plan.largest_distance(sites)
