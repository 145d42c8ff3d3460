"""What t - 1 holders have of a dealing, the proof included: every key is possible, each in exactly one way."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from he_agg.ring.primes import N
from he_agg.sharing.dealing import Dealing
from he_agg.sharing.field import P, lagrange, multiply, read
from he_agg.sharing.masks import mask, masked
from he_agg.sharing.proof import COMBINATIONS, ROW_WIDTH, combinations, holds
from he_agg.sharing.shamir import expand
from tests.sharing.dealt import MASK_KEY, context_of, halves_of, holders_of, keys_of, sealed_dealing


@st.composite
def viewed(draw):
    """A dealing; the rows of t - 1 holders; a candidate key."""
    count = draw(st.integers(2, 9))
    holders = holders_of(count, draw(st.integers(1, count)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    key, candidate = keys_of(rng, 2)
    public, plaintexts = halves_of(key, context_of(), holders, rng)
    dealing = sealed_dealing(public, plaintexts, context_of(), holders)
    rows = {
        j: expand(text[32:], ROW_WIDTH) if j < holders.threshold else read(text[32:], ROW_WIDTH, "row")
        for j, text in enumerate(plaintexts, start=1)
    }
    corrupt = sorted((rng.permutation(count)[: holders.threshold - 1] + 1).tolist())
    return dealing, rows, corrupt, key, candidate


def completed(dealing: Dealing, view, candidate):
    """All rows, out of those of t - 1 holders, the proof and a candidate; with what row 0 must be.

    Each step leaves no choice: what Q says at 0 gives the blinds of the candidate; row 0 and t - 1 others are t values
    of polynomials of degree below t.
    """
    rho = combinations(context_of(), dealing.holders.header, dealing.commitments)
    threshold, count = dealing.holders.threshold, len(dealing.holders.names)
    secret = np.empty(ROW_WIDTH, dtype=np.uint16)
    secret[:N] = masked(candidate, MASK_KEY, context_of())
    at_zero = multiply(lagrange(tuple(range(1, threshold + 1)), (0,)), dealing.proof)[0].astype(int)
    secret[N:] = (at_zero - multiply(rho, secret[:N])) % P
    known = np.stack([secret, *view.values()])
    everyone = tuple(range(1, count + 1))
    return secret, dict(zip(everyone, multiply(lagrange((0, *view), everyone), known), strict=True)), rho


@settings(max_examples=30)
@given(viewed())
def test_t_minus_1_holders_cannot_rule_out_any_key(case):
    dealing, rows, corrupt, key, candidate = case
    view = {index: rows[index] for index in corrupt}
    for guess in (candidate, key):
        _, completion, rho = completed(dealing, view, guess)
        for index, row in completion.items():
            # What they have is in it, and it passes every check of every holder but for the hidden commitments.
            assert holds(dealing.proof, rho, index, row)
            assert index not in view or np.array_equal(row, view[index])
    # For the true key the one completion is the dealing itself; for another one all other rows differ.
    true, other = (completed(dealing, view, guess)[1] for guess in (key, candidate))
    for index in set(rows) - set(corrupt):
        assert np.array_equal(true[index], rows[index])
        assert not np.array_equal(other[index], rows[index])


def test_blinds_are_as_many_as_the_combinations(rng):
    """Row 0 is the key and R numbers that nothing else depends on: Q at 0 is uniform whatever the key is."""
    holders = holders_of(3, 2)
    assert ROW_WIDTH - N == COMBINATIONS
    seen = [
        Dealing(holders, halves_of(np.zeros(N, np.int8), context_of(), holders, rng)[0], tuple(blobs(holders))).proof
        for _ in range(40)
    ]
    values = np.stack(seen).astype(float).ravel()
    assert abs(values.mean() - (P - 1) / 2) < 6 * P / np.sqrt(12 * values.size)


def blobs(holders):
    return [bytes(holders.blob_bytes(index)) for index in range(1, len(holders.names) + 1)]


def test_t_holders_without_the_group_key_cannot_rule_out_any_key(rng):
    """They rebuild the masked key, and no more: for every candidate there is one mask, and they do not know which."""
    key, candidate = keys_of(rng, 2)
    shared = masked(key, MASK_KEY, context_of()).astype(int)
    for guess in (key, candidate):
        fitting = (shared - guess) % P
        assert np.array_equal(fitting, mask(MASK_KEY, context_of())) == (guess is key)
