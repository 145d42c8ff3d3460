"""Sets that no honest holder answers for: too small, with strangers in them, dealt to several lists, copied.

Real holders with their files, a site and a trustee, against an aggregator in memory that signs what it likes. What is
tried with records is in test_split_records.py, with dealings in tests/client_sdk/test_hold_flow.py.
"""

from __future__ import annotations

import dataclasses

import pytest

from he_agg.documents.holding import Complaint, Echo
from he_agg.documents.signed import Signed
from he_agg.errors import ProtocolError
from he_agg.sharing.shares import Fault
from tests.support.flows import security_log
from tests.support.holders import (
    SITES,
    TRUSTEE,
    HeldFederation,
    HolderWorld,
    begin,
    held_roster,
    look,
    round_after,
    split_plan,
)
from tests.support.trust import identity_of

PLAN = split_plan()


@pytest.fixture
def aggregator():
    return HeldFederation(PLAN)


@pytest.fixture
def holders(aggregator, tmp_path, rng):
    """All holders; all sites have dealt."""
    sessions = begin(aggregator, tmp_path)
    for site in SITES:
        aggregator.deal(rng, site)
    return sessions


def nobody_answers(holders, aggregator):
    """Have all holders look, twice; return why they said nothing."""
    why = {}
    for name, session in [*holders.items(), *holders.items()]:
        world = HolderWorld(aggregator, site=name)
        assert not look(session, aggregator, world)
        assert session.promises.of(aggregator.round_id.number) is None
        (line,) = security_log(session)
        why[name] = line["what"]
    assert not aggregator.of("echoes")
    assert not aggregator.of("answers")
    return set(why.values())


@pytest.mark.parametrize("members", ["a", "ab", "bc"])
def test_a_set_below_the_fewest_sites_is_answered_by_nobody(holders, aggregator, members):
    """Such as one victim and one corrupt site, who would subtract its own."""
    chosen = {site: aggregator.complete[site] for site in members}
    aggregator.publish(members=chosen, excluded={site: "late" for site in SITES if site not in members})
    assert nobody_answers(holders, aggregator) == {"record, fewest members"}


def test_a_site_that_is_in_no_roster_makes_no_set_larger(holders, aggregator):
    """The aggregator makes one up, with keys of its own, and counts it."""
    stranger = Signed.make(
        dataclasses.replace(aggregator.manifests["c"].body, site="mallory"), identity_of("mallory").signing_key
    )
    aggregator.manifests["mallory"] = stranger
    with_stranger = {"a": aggregator.complete["a"], "b": aggregator.complete["b"], "mallory": stranger.digest}
    aggregator.publish(members=with_stranger, excluded={"c": "late"})
    for session in holders.values():
        with pytest.raises(ProtocolError, match="with mallory"):
            look(session, aggregator)
    assert aggregator.said == {}


def test_a_stranger_under_the_name_of_a_site_makes_no_set_larger(holders, aggregator, tmp_path):
    """The site itself has sent something else, and cannot be asked."""
    forged = Signed.make(aggregator.manifests["c"].body, identity_of("mallory").signing_key, "c")
    aggregator.manifests["c"] = forged
    aggregator.publish(members=aggregator.complete | {"c": forged.digest})
    del holders["c"]
    assert nobody_answers(holders, aggregator) == {"manifest of c, signature"}


def test_members_who_dealt_to_two_lists_are_in_no_set(holders, aggregator):
    """Each list would have a quorum of its own."""
    other = dataclasses.replace(aggregator.manifests["b"].body, holders="77" * 32)
    aggregator.manifests["b"] = Signed.make(other, identity_of("b").signing_key)
    aggregator.complete["b"] = aggregator.manifests["b"].digest
    aggregator.publish()
    assert nobody_answers(holders, aggregator) == {"manifest of b, holders"}


def test_a_copied_submission_is_in_no_sum(holders, aggregator):
    """A site sends another's submission again, dealing and all, as its own: with it, that update counts twice."""
    victim = aggregator.manifests["b"].body
    copy = Signed.make(dataclasses.replace(victim, site="c"), identity_of("c").signing_key)
    aggregator.manifests["c"] = copy
    aggregator.complete["c"] = copy.digest
    number = str(aggregator.round_id)
    aggregator.dealings[number, "c"] = aggregator.dealings[number, "b"]
    aggregator.publish()
    for name, session in holders.items():
        look(session, aggregator)
        complaint = Signed.parse(Complaint, aggregator.of("complaints")[f"{name}.c"]).body
        assert (complaint.dealer, complaint.fault) == ("c", Fault.SEALED)
    assert not aggregator.of("echoes")


def test_a_record_that_only_the_network_has_signed_is_not_answered(holders, aggregator):
    """Nor does it enter the history: the true one is answered afterwards."""
    aggregator.publish()
    true = aggregator.chain.pop()
    forged = Signed.make(true.body, identity_of("mallory").signing_key, *true.signatures)
    aggregator.chain.append(forged)
    aggregator.record = forged
    for session in holders.values():
        with pytest.raises(ProtocolError, match="signature"):
            look(session, aggregator)
    assert aggregator.said == {}
    aggregator.chain[-1] = aggregator.record = true
    for name in "abca":
        look(holders[name], aggregator)
    assert len(aggregator.of("answers")) == 2


def test_a_retired_holder_answers_nothing_and_counts_for_nothing(holders, aggregator, rng):
    """From the next number on. What it says all the same is no echo of a holder."""
    aggregator.publish()
    for name in "abca":
        look(holders[name], aggregator)
    left = ("a", "b", TRUSTEE)
    aggregator.rosters.append(held_roster(2, left))
    del aggregator.sharing[1, "c"]
    aggregator.open(round_after(aggregator.round_id))
    for site in SITES:
        aggregator.deal(rng, site)
    aggregator.publish()
    assert not look(holders["c"], aggregator)
    assert not aggregator.of("echoes")
    echo = Echo(aggregator.round_id, aggregator.record.digest, "c")
    path = f"rounds/{aggregator.round_id}/echoes/c"
    aggregator.said[path] = Signed.make(echo, identity_of("c").signing_key).encode()
    assert look(holders["a"], aggregator)
    assert look(holders["b"], aggregator)
    assert sorted(aggregator.of("echoes")) == ["a", "b", "c"]  # three of three it takes, and c is none
    assert not aggregator.of("answers")
    look(holders[TRUSTEE], aggregator)
    assert sorted(aggregator.of("answers")) == [TRUSTEE]
