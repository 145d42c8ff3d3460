"""The 409 game: an aggregator that refuses what it has, or denies its receipt, to have an update encrypted once more.

Each refusal says something that once made a site throw its submission away. Nobody signs refusals, so nothing may
follow from one but another manifest of the same parts, for a roster or record that the site has verified. A record is
signed: one that breaks a receipt proves what the aggregator did.
"""

from __future__ import annotations

import json

import pytest

from he_agg import HeAggError, InputError, ProtocolError, Reason
from tests.attacks.malicious import Lies
from tests.support.real import SITES

A, B, C = SITES
REASONS = ("roster-mismatch", "chain-mismatch", "second-submission", "round-closed", "round-failed")


def refusing(reason: str) -> Lies:
    """Take the submission, and say that it was refused."""
    text = {"type": f"urn:he-agg:problem:{reason}", "title": "no", "status": 409, "detail": "no", "reason": reason}

    def answer(exchange, status, body):
        return (409, json.dumps(text).encode()) if "/submissions/" in exchange.path else (status, body)

    return Lies(answer=answer)


def test_refusals_collect_one_encryption(world):
    for reason in REASONS:
        world.liar.lies = refusing(reason)
        with pytest.raises(HeAggError):
            next(world.open_sites[A].rounds()).submit(world.one_hot(A, 1), weight=100)
        world.open(A)  # a restart in between has the same spool
        assert world.open_sites[A].pending()
    world.liar.lies = Lies()
    round_id = world.submit(A)
    # The promise is in hand: by a refusal it does not go either.
    receipt = (world.root / A / "spool" / A / round_id / "receipt.json").read_bytes()
    for reason in REASONS:
        world.liar.lies = refusing(reason)
        with pytest.raises(HeAggError):
            world.open_sites[A].current().submit(world.one_hot(A, 1), weight=100)
        assert (world.root / A / "spool" / A / round_id / "receipt.json").read_bytes() == receipt
    world.liar.lies = Lies()
    assert world.submit(*SITES[1:]) == round_id
    # One manifest, hence one nonce and one set of parts.
    assert world.liar.submissions[A] == [(round_id, world.liar.submission(round_id, A))]
    world.assert_honest(A, round_id)
    assert world.open_sites[A].pending() == []


@pytest.mark.parametrize("excluded", ["absent", "incomplete"])
def test_record_that_breaks_a_receipt(world, excluded):
    """The row of the report: it was an ordinary closed round, and the receipt was gone."""
    round_id = world.submit(*SITES)
    honest = world.liar.sum_of([world.liar.submission(round_id, site) for site in (B, C)])
    members = {site: world.liar.submission(round_id, site) for site in (B, C)}
    world.liar.serve_sum(round_id, honest, members=members, excluded={A: excluded})
    world.liar.lies.manifests = lambda all_: [document for document in all_ if A not in document.signatures]
    with pytest.raises(ProtocolError) as caught:
        world.fetch(A, round_id)
    assert caught.value.reason is Reason.RECEIPT_BROKEN
    log = (world.directory(A) / "security.log").read_text()
    assert (log.count("\n"), log.count("receipt-broken")) == (1, 2)
    assert (world.root / A / "spool" / A / round_id / "receipt.json").exists()
    world.open(A)  # what proves it outlives a restart
    (broken,) = world.open_sites[A].evidence()
    assert excluded in broken.check()
    assert broken.rosters == (world.consortium.roster,)


def test_no_update_goes_into_two_sums(world):
    """With one set of sites in the first and another in the second, their difference would show others' updates."""
    first = world.submit(*SITES)
    world.assert_honest(A, first)
    opened = next(world.open(A).rounds())
    assert opened.number == 2
    for restart in (False, True):
        opened = world.open(A).current() if restart else opened
        with pytest.raises(InputError) as caught:
            opened.take_part(world.one_hot(A, 1), weight=100)
        assert caught.value.reason is Reason.REPEATED_UPDATE
    assert [round_id for round_id, _ in world.liar.submissions[A]] == [first]
    opened.submit(world.one_hot(A, 1), weight=100, may_repeat=True)
    assert [round_id for round_id, _ in world.liar.submissions[A]] == [first, opened.id]
