"""The proof of a dealing: honest rows pass, and no row that lies on no polynomial of degree below t."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from he_agg.ring.primes import N
from he_agg.sharing.field import P, lagrange, multiply
from he_agg.sharing.proof import COMBINATIONS, ROW_WIDTH, combinations, commit, holds, prove
from he_agg.sharing.shamir import share
from tests.sharing.dealt import context_of, value_at


def rows_of(rng, holders, threshold):
    secret = rng.integers(0, P, ROW_WIDTH).astype(np.uint16)
    return share(secret, [rng.bytes(32) for _ in range(threshold - 1)], holders)


def rho_of(rows):
    commitments = [commit(context_of(), j, row.tobytes()) for j, row in enumerate(rows, start=1)]
    return combinations(context_of(), b"header", commitments)


def accepting(proof, rho, rows):
    return {j for j, row in enumerate(rows, start=1) if holds(proof, rho, j, row)}


@st.composite
def proven(draw):
    holders = draw(st.integers(2, 12))
    threshold = draw(st.integers(1, holders - 1))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return holders, threshold, rng, rows_of(rng, holders, threshold)


def test_so_many_combinations_leave_2_to_the_minus_191():
    assert 2**191 < P**COMBINATIONS < 2**192


@given(proven())
def test_honest_rows_pass_and_one_that_was_changed_does_not(case):
    holders, threshold, rng, rows = case
    rho = rho_of(rows)
    proof = prove(rho, rows[:threshold])
    assert proof.shape == (threshold, COMBINATIONS)
    assert accepting(proof, rho, rows) == set(range(1, holders + 1))
    changed, column = int(rng.integers(holders)), int(rng.integers(ROW_WIDTH))
    rows[changed, column] = (int(rows[changed, column]) + 1) % P
    assert accepting(proof, rho, rows) == set(range(1, holders + 1)) - {changed + 1}


def test_the_proof_in_integers(rng):
    rows = rows_of(rng, 5, 3)
    rho = rho_of(rows)
    proof = prove(rho, rows[:3])
    for r in range(COMBINATIONS):
        for j in range(1, 6):
            combined = sum(int(a) * int(b) for a, b in zip(rho[r], rows[j - 1], strict=False)) + int(rows[j - 1, N + r])
            stated = proof[j - 1, r] if j <= 3 else value_at(j, {k: proof[k - 1, r] for k in (1, 2, 3)})
            assert stated == combined % P


@given(proven())
def test_a_higher_degree_in_a_single_column_is_noticed_by_somebody_whoever_is_believed(case):
    """The dealer commits to rows of degree t in one column, and makes Q from any t of them."""
    holders, threshold, rng, rows = case
    column = int(rng.integers(N))
    for j in range(1, holders + 1):
        rows[j - 1, column] = (int(rows[j - 1, column]) + pow(j, threshold, P)) % P
    rho = rho_of(rows)
    for _ in range(3):
        fitted = sorted((rng.permutation(holders)[:threshold] + 1).tolist())
        combined = prove(rho, rows[np.array(fitted) - 1])
        proof = multiply(lagrange(tuple(fitted), tuple(range(1, threshold + 1))), combined)
        accepted = accepting(proof, rho, rows)
        assert set(fitted) <= accepted
        # With t more holders at hand, x^t less a polynomial of lower degree vanishes at the t fitted points only.
        assert accepted == set(fitted)


def test_blinds_of_a_higher_degree_do_not_pass(rng):
    rows = rows_of(rng, 4, 2)
    rows[:, N] = [(int(rows[j - 1, N]) + j * j) % P for j in range(1, 5)]
    rho = rho_of(rows)
    assert accepting(prove(rho, rows[:2]), rho, rows) == {1, 2}


@pytest.mark.parametrize("change", ["one number", "another dealing's", "rho of other commitments"])
def test_a_wrong_proof_convinces_nobody(rng, change):
    rows = rows_of(rng, 5, 3)
    rho = rho_of(rows)
    proof = prove(rho, rows[:3])
    if change == "one number":
        proof[0, 0] = (int(proof[0, 0]) + 1) % P
        # Holders at 2 and 3 see their own number unchanged; everybody else sees a difference.
        assert accepting(proof, rho, rows) == {2, 3}
    elif change == "another dealing's":
        other = rows_of(rng, 5, 3)
        assert accepting(prove(rho_of(other), other[:3]), rho, rows) == set()
    else:
        assert accepting(proof, rho_of(rows[::-1]), rows) == set()


def test_rho_is_of_everything_that_is_committed_to(rng):
    commitments = [rng.bytes(32) for _ in range(3)]
    rho = combinations(context_of(), b"header", commitments)
    assert rho.shape == (COMBINATIONS, N)
    for other in (
        combinations(context_of(), b"other!", commitments),
        combinations(context_of(), b"header", commitments[::-1]),
        combinations(context_of(), b"header", [*commitments, b""]),
        combinations(context_of(2), b"header", commitments),
    ):
        assert not np.array_equal(other, rho)
