"""Why holders echo before they answer: without echoes the aggregator takes two sums of a round apart.

One answer per holder and a threshold above half are not enough. It shows some honest holders the set A, others the set
B, one A and B together, and has corrupt holders' shares of each set. All equations but one for both sums come together
so, and keys are small. The masks it takes off with the group key of one site.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from he_agg.ring.primes import N
from he_agg.sharing.field import P, add, inverse, lagrange
from he_agg.sharing.masks import mask
from he_agg.sharing.shares import open_share
from he_agg.sharing.thresholds import Thresholds
from tests.sharing.dealt import MASK_KEY, context_of, dealing_of, holders_of, keys_of, stand_in_open


class Views:
    """Dealings of some sites to holders, and what a holder answers to a set that it is shown."""

    def __init__(self, rng, holders, threshold, sites):
        self.keys = keys_of(rng, sites).astype(int)
        self.contexts = [context_of(site) for site in range(sites)]
        listed = holders_of(holders, threshold)
        self.shares = [
            [open_share(dealing.excerpt(name), context, stand_in_open(name)) for name in listed.names]
            for dealing, context in (
                (dealing_of(key.astype(np.int8), context, listed, rng), context)
                for key, context in zip(self.keys, self.contexts, strict=True)
            )
        ]

    def answer(self, holder, members):
        return add(self.shares[site][holder - 1] for site in members).astype(int)

    def masks(self, members):
        return sum(mask(MASK_KEY, self.contexts[site]).astype(int) for site in members)

    def key_sum(self, members):
        return self.keys[list(members)].sum(axis=0)


def relation(views, corrupt, for_a, for_b, for_both, sets):
    """x and y with S_A + x * S_B = y mod P, out of answers to A, to B and to A and B together."""
    points, known = [], []
    for members, holders in zip(sets, (for_a, for_b), strict=True):
        points.append((0, *corrupt, *holders))
        # The corrupt holders know their shares of each; an honest one answers once.
        known.append([views.answer(holder, members) for holder in (*corrupt, *holders)])
    weights = [lagrange(at, (for_both,))[0].astype(int).tolist() for at in points]
    y = views.answer(for_both, (*sets[0], *sets[1]))
    for of_set, values in zip(weights, known, strict=True):
        y = y - sum(weight * value % P for weight, value in zip(of_set[1:], values, strict=True))
    # These are sums of masked keys.
    y = y - sum(of_set[0] * (views.masks(members) % P) for of_set, members in zip(weights, sets, strict=True))
    scale = inverse(weights[0][0])
    return weights[1][0] * scale % P, (y % P) * scale % P


def smallest_solutions(x, y, bound):
    """The pair of numbers within the bound that is nearest to zero, at every place, of all that fulfil the relation."""
    best_a, best_b, best = np.zeros(N, int), np.zeros(N, int), np.full(N, 2 * bound * bound + 1)
    for b in range(-bound, bound + 1):
        a = (y - x * b + P // 2) % P - P // 2
        better = (np.abs(a) <= bound) & (a * a + b * b < best)
        best_a[better], best_b[better] = a[better], b
        best[better] = (a * a + b * b)[better]
    return best_a, best_b


def solutions(x, y, bound):
    """How many pairs of numbers within the bound fulfil the relation, at every place."""
    b = np.arange(-bound, bound + 1)[:, np.newaxis]
    a = (y - x * b + P // 2) % P - P // 2
    return (np.abs(a) <= bound).sum(axis=0)


def test_without_echoes_both_sums_come_out_of_seven_holders(rng):
    """m = 7, c = 2, t = 5, above half of m + c: all 2048 coefficients of both sums come out, with certainty."""
    sets, bound = ((0, 1), (2, 3)), 42
    views = Views(rng, 7, 5, 4)
    x, y = relation(views, (2, 3), (4, 6), (5, 7), 1, sets)
    assert (solutions(x, y, bound) == 1).all()
    found = smallest_solutions(x, y, bound)
    for got, members in zip(found, sets, strict=True):
        assert np.array_equal(got, views.key_sum(members))


def test_without_echoes_most_of_both_keys_come_out_of_four_holders(rng):
    """m = 4, c = 1, t = 3: with so few points a few pairs fit at each place; the likeliest is nearly always right."""
    sets, bound = ((0,), (1,)), 21
    views = Views(rng, 4, 3, 2)
    x, y = relation(views, (2,), (3,), (4,), 1, sets)
    left = solutions(x, y, bound)
    assert left.max() <= 5  # out of 1,849
    found = smallest_solutions(x, y, bound)
    right = np.logical_and(*(got == views.key_sum(members) for got, members in zip(found, sets, strict=True)))
    assert right.mean() > 0.85


@pytest.mark.parametrize(("holders", "claim"), [(4, 1), (7, 2)])
def test_with_echoes_there_are_answers_to_one_set(holders, claim):
    """A, B, or both: however the honest holders are shown them, one at most gets a quorum, and only then answers."""
    numbers = Thresholds.choose(holders)
    assert numbers.claim(10) == claim
    for shown in product(range(3), repeat=holders - claim):
        echoes = [shown.count(record) + claim for record in range(3)]
        certified = [record for record in range(3) if echoes[record] >= numbers.quorum]
        assert len(certified) <= 1
        # Of every other set the aggregator has the shares of corrupt holders, which are fewer than the threshold.
        assert claim < numbers.threshold
