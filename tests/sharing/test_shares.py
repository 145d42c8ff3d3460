"""A holder's check of its share: what passes, what convicts, what accuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from he_agg.errors import WireError
from he_agg.ring.primes import N
from he_agg.sharing.dealing import Dealing, Excerpt
from he_agg.sharing.field import P, add, read, write
from he_agg.sharing.masks import masked
from he_agg.sharing.proof import ROW_WIDTH, combinations, commit, prove
from he_agg.sharing.shamir import expand, rebuild
from he_agg.sharing.shares import ANSWER_BYTES, BadShare, Fault, answer, convicts, open_share, read_answer
from tests.sharing.dealt import (
    MASK_KEY,
    context_of,
    dealing_of,
    halves_of,
    holders_of,
    keys_of,
    sealed_dealing,
    stand_in_open,
)

HOLDERS = holders_of(5, 3)
CONTEXT = context_of()


def check(dealing, index, context=CONTEXT):
    name = dealing.holders.names[index - 1]
    excerpt = Excerpt.parse(dealing.excerpt(name).to_bytes(), dealing.holders, name)
    return open_share(excerpt, context, stand_in_open(name))


def faults(dealing, context=CONTEXT):
    found = {index: check(dealing, index, context) for index in range(1, len(dealing.holders.names) + 1)}
    return {index: share.fault for index, share in found.items() if isinstance(share, BadShare)}


def proven_again(plaintexts, holders=HOLDERS, context=CONTEXT):
    """The public part that a cheating dealer makes of any plaintexts: all as it should be but for the rows."""
    commitments = [commit(context, index, plaintext) for index, plaintext in enumerate(plaintexts, start=1)]
    rows = np.stack([row_of(plaintexts, index, holders) for index in range(1, holders.threshold + 1)])
    proof = prove(combinations(context, holders.header, commitments), rows)
    return b"".join((holders.header, *commitments, write(proof)))


def row_of(plaintexts, index, holders):
    body = plaintexts[index - 1][32:]
    return expand(body, ROW_WIDTH) if index < holders.threshold else read(body, ROW_WIDTH, "row")


def test_shares_of_an_honest_dealer(rng):
    key = keys_of(rng, 1)[0]
    dealing = dealing_of(key, CONTEXT, HOLDERS, rng)
    shares = {index: check(dealing, index) for index in range(1, 6)}
    expected = masked(key, MASK_KEY, CONTEXT)
    for chosen in ((1, 2, 3), (5, 1, 4), (3, 4, 5)):
        assert np.array_equal(rebuild({index: shares[index] for index in chosen}), expected)


def test_one_bad_row_convicts(rng):
    """Committed to, sealed, and off the polynomials by one in one number."""
    _, plaintexts = halves_of(keys_of(rng, 1)[0], CONTEXT, HOLDERS, rng)
    row = row_of(plaintexts, 5, HOLDERS)
    column = int(rng.integers(ROW_WIDTH))
    row[column] = (int(row[column]) + 1) % P
    plaintexts[4] = plaintexts[4][:32] + write(row)
    dealing = sealed_dealing(proven_again(plaintexts), plaintexts, CONTEXT, HOLDERS)
    assert faults(dealing) == {5: Fault.OPENED}
    shown = check(dealing, 5).plaintext
    assert convicts(dealing, CONTEXT, 5, shown)
    assert convicts(dealing.excerpt("holder-1"), CONTEXT, 5, shown)
    assert "plaintext" not in repr(check(dealing, 5))


def test_a_number_that_is_none_convicts(rng):
    _, plaintexts = halves_of(keys_of(rng, 1)[0], CONTEXT, HOLDERS, rng)
    plaintexts[4] = plaintexts[4][:-2] + P.to_bytes(2, "little")
    dealing = sealed_dealing(proven_again(plaintexts), plaintexts, CONTEXT, HOLDERS)
    assert faults(dealing) == {5: Fault.OPENED}
    assert convicts(dealing, CONTEXT, 5, check(dealing, 5).plaintext)


def test_a_higher_degree_convicts(rng):
    """Shares for a threshold of 5, dealt as if it were 3: whoever is not among the first three sees it."""
    four, key = holders_of(5, 5), keys_of(rng, 1)[0]
    _, plaintexts = halves_of(key, CONTEXT, four, rng)
    salted = [plaintext[:32] for plaintext in plaintexts]
    rows = [write(row_of(plaintexts, index, four)) for index in range(1, 6)]
    plaintexts = [*plaintexts[:2], *(salt + row for salt, row in zip(salted[2:], rows[2:], strict=True))]
    dealing = sealed_dealing(proven_again(plaintexts), plaintexts, CONTEXT, HOLDERS)
    assert faults(dealing) == {4: Fault.OPENED, 5: Fault.OPENED}


def test_a_wrong_proof_convicts(rng):
    public, plaintexts = halves_of(keys_of(rng, 1)[0], CONTEXT, HOLDERS, rng)
    place = 12 + 5 * 32
    other = int.from_bytes(public[place : place + 2], "little") ^ 1
    public = public[:place] + other.to_bytes(2, "little") + public[place + 2 :]
    dealing = sealed_dealing(public, plaintexts, CONTEXT, HOLDERS)
    assert faults(dealing) == {1: Fault.OPENED, 4: Fault.OPENED, 5: Fault.OPENED}
    assert convicts(dealing, CONTEXT, 1, check(dealing, 1).plaintext)


@pytest.mark.parametrize("what", ["another text of the same length", "another salt", "nothing that opens"])
def test_what_was_not_committed_to_accuses(rng, what):
    public, plaintexts = halves_of(keys_of(rng, 1)[0], CONTEXT, HOLDERS, rng)
    honest = plaintexts[1]
    if what == "another salt":
        plaintexts[1] = bytes(32) + honest[32:]
    else:
        plaintexts[1] = rng.bytes(len(honest))
    dealing = sealed_dealing(public, plaintexts, CONTEXT, HOLDERS)
    if what == "nothing that opens":
        blobs = list(dealing.blobs)
        blobs[1] = rng.bytes(len(blobs[1]))
        dealing = replace(dealing, blobs=tuple(blobs))
    assert faults(dealing) == {2: Fault.SEALED}
    assert check(dealing, 2).plaintext is None
    assert not convicts(dealing, CONTEXT, 2, plaintexts[1])
    assert not convicts(dealing, CONTEXT, 2, honest)


def test_nobody_convicts_an_honest_dealer(rng):
    """A holder may say what it likes: its own plaintext, somebody else's, a changed one."""
    public, plaintexts = halves_of(keys_of(rng, 1)[0], CONTEXT, HOLDERS, rng)
    dealing = sealed_dealing(public, plaintexts, CONTEXT, HOLDERS)
    for index in range(1, 6):
        for shown in (*plaintexts, b"", plaintexts[index - 1][:-1], plaintexts[index - 1] + b"\0", rng.bytes(64)):
            assert not convicts(dealing, CONTEXT, index, shown)
            assert not convicts(dealing, context_of(2), index, shown)


def test_a_plaintext_of_another_length_convicts_once_it_is_committed_to(rng):
    """All else is as it should be: row 1 is what the short seed gives."""
    _, plaintexts = halves_of(keys_of(rng, 1)[0], CONTEXT, HOLDERS, rng)
    short = plaintexts[0][:-1]
    dealing = sealed_dealing(proven_again([short, *plaintexts[1:]]), plaintexts, CONTEXT, HOLDERS)
    assert faults(dealing)[1] == Fault.SEALED
    assert convicts(dealing, CONTEXT, 1, short)


@pytest.mark.parametrize("moved", ["dealer", "round", "attempt", "list", "nonce"])
def test_a_dealing_moved_elsewhere_opens_for_nobody(rng, moved):
    """What a copied submission would have: all of another's bytes, in another context."""
    dealing = dealing_of(keys_of(rng, 1)[0], CONTEXT, HOLDERS, rng)
    elsewhere = {
        "dealer": context_of(dealer="site-7"),
        "round": context_of(round_id=replace(CONTEXT.round_id, number=4)),
        "attempt": context_of(round_id=replace(CONTEXT.round_id, attempt=2)),
        "list": context_of(holders="0" * 64),
        "nonce": context_of(nonce="0" * 32),
    }[moved]
    assert faults(dealing, elsewhere) == dict.fromkeys(range(1, 6), Fault.SEALED)
    # Sealed anew for there by somebody who knows all plaintexts: committed to in the old place.
    plaintexts = [blob[32:-16] for blob in dealing.blobs]
    again = sealed_dealing(dealing.public, plaintexts, elsewhere, HOLDERS)
    assert faults(again, elsewhere) == dict.fromkeys(range(1, 6), Fault.SEALED)


def test_blobs_moved_to_another_position(rng):
    dealing = dealing_of(keys_of(rng, 1)[0], CONTEXT, HOLDERS, rng)
    swapped = Dealing(HOLDERS, dealing.public, tuple(dealing.blobs[i] for i in (1, 0, 2, 4, 3)))
    assert faults(swapped) == dict.fromkeys((1, 2, 4, 5), Fault.SEALED)


def test_a_holder_without_a_key_accuses_nobody(rng):
    holders = holders_of(3, 2, without_key=(2,))
    dealing = dealing_of(keys_of(rng, 1)[0], CONTEXT, holders, rng)
    with pytest.raises(ValueError, match="holder-2 has no sharing key"):
        check(dealing, 2)


def test_answers(rng):
    shares = rng.integers(0, P, (4, N)).astype(np.uint16)
    data = answer(iter(shares))
    assert len(data) == ANSWER_BYTES == 4096
    assert np.array_equal(read_answer(data), add(shares))
    for wrong in (data[:-1], data + b"\0", b"\xff\xff" + data[2:]):
        with pytest.raises(WireError, match="answer"):
            read_answer(wrong)
