"""Real sites and a trustee, of whom a liar with the aggregator's own key shows some another record than the others."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from dataclasses import replace

import pytest

from client_sdk import Site
from client_sdk._protocol import hold
from he_agg import HeAggError, ProtocolError, Reason
from he_agg.documents.signed import Signed
from service.core.aggregator_key import AggregatorKey
from tests.attacks.malicious import Lies, MaliciousAggregator
from tests.support.flows import assert_mean_of
from tests.support.peers import read_ended
from tests.support.real import SITES, Hospitals, in_threads, until
from tests.support.trust import AGGREGATOR

TRUSTEE = "trustee"
HOLDERS = (*SITES, TRUSTEE)
_numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def short_polls(monkeypatch):
    """A trustee that has promised looks for others' echoes so long before it asks again where things stand."""
    monkeypatch.setattr(hold, "POLL_S", 4)


class Split(Hospitals):
    """A federation whose round has a sum; a liar stands before some of its members."""

    def __init__(self, server, root, name):
        super().__init__(
            server,
            root,
            Hospitals.plan_of(name, values=300, codec="hybrid", keys="split", min_sites=3, rounds=2),
            holders=HOLDERS,
            start=False,
        )
        self.trustee_looks(TRUSTEE)
        self.start_with_all_keys()
        (self.published,) = set(in_threads(self._submit))
        until(lambda: self.peer().record(self.published).status_code == 200)
        key = AggregatorKey.load_or_create(server.data_dir).signing_key
        self.liar = MaliciousAggregator(server.url, key, self.plan.public)
        true = read_ended(self.peer().record(self.published).content).signed.body
        excluded = dict.fromkeys(SITES, "too-few-sites")
        failed = replace(true, outcome="failed", members={}, sum_digests=(), excluded=excluded)
        self.false = head = Signed.make(failed, key, AGGREGATOR).digest
        self.lies = Lies(
            record=lambda record: failed if record.round_id == true.round_id else record,
            manifests=lambda _: [],  # as of every round that has failed
            state=lambda state: replace(state, head=head, awaited=None),
        )

    def _submit(self, name):
        with Site.open(self.config(name)) as site:
            round, update = next(iter(site.rounds())), self.update(name)
            round.submit(update.tensors, update.weight)
            return round.id

    def lie_to(self, *names):
        self.liar.lies = self.lies
        for name in names:
            path = self.directory(name) / ("holder.toml" if name == TRUSTEE else "site.toml")
            path.write_text(path.read_text().replace(self.server.url, self.liar.url))

    def fetch(self, name):
        """What a holder gets, if it is a site; an error instead of a mean."""
        try:
            if name == TRUSTEE:
                return self.trustee_looks(name)
            with Site.open(self.config(name), result_s=4.0) as site:
                return site.fetch(self.published)
        except HeAggError as error:
            return error

    def believes_it(self, name):
        """Whether a member has the false record in its history."""
        files = [path for path in (self.directory(name) / "spool").rglob("*") if path.is_file()]
        return any(self.false.encode() in path.read_bytes() for path in files)

    def said(self, what):
        query = f"SELECT holder FROM {what} WHERE round_id = ? ORDER BY holder"
        with contextlib.closing(sqlite3.connect(self.server.data_dir / "aggregator.sqlite3")) as store:
            return [holder for (holder,) in store.execute(query, [self.published])]


@pytest.fixture
def federation(aggregator, tmp_path):
    made = Split(aggregator, tmp_path, f"views-{next(_numbers)}")
    with made.liar:
        yield made
    made.close()


@pytest.mark.parametrize("deceived", [(TRUSTEE,), (SITES[2],)])
def test_one_of_four_who_is_told_that_the_round_failed_keeps_nobody_from_the_sum(federation, deceived):
    federation.lie_to(*deceived)
    outcomes = dict(zip(HOLDERS, in_threads(federation.fetch, HOLDERS), strict=True))
    for name in set(SITES) - set(deceived):
        updates = [federation.update(site) for site in SITES]
        assert_mean_of(outcomes[name], federation.plan, updates)
    assert federation.said("echoes") == sorted(set(HOLDERS) - set(deceived))
    assert len(federation.said("answers")) >= 2
    (name,) = deceived
    assert [holder for holder in HOLDERS if federation.believes_it(holder)] == [name]
    # Told the truth, it does not believe it: there are two signed records for one place.
    federation.liar.lies = Lies()
    refused = federation.fetch(name)
    assert isinstance(refused, HeAggError)
    assert name not in federation.said("echoes")


@pytest.mark.parametrize("deceived", [(SITES[2], TRUSTEE), (SITES[1], SITES[2])])
def test_where_half_are_told_that_the_round_failed_nobody_answers(federation, deceived):
    """Neither half is a quorum; whoever had to go on without the other would open the way to a second set."""
    federation.lie_to(*deceived)
    outcomes = dict(zip(HOLDERS, in_threads(federation.fetch, HOLDERS), strict=True))
    for name in set(SITES) - set(deceived):
        assert isinstance(outcomes[name], ProtocolError)
        assert outcomes[name].reason == Reason.SUM_NOT_READY
    for name in set(SITES) & set(deceived):
        assert outcomes[name].reason == Reason.ROUND_FAILED
    assert {holder for holder in HOLDERS if federation.believes_it(holder)} == set(deceived)
    federation.liar.lies = Lies()
    in_threads(federation.fetch, deceived)
    assert federation.said("echoes") == sorted(set(HOLDERS) - set(deceived))
    assert federation.said("answers") == []
