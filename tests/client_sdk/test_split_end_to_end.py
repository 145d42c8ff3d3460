"""Three hospitals and a trustee under split keys, against the real aggregator, started as a process of its own."""

from __future__ import annotations

import asyncio
import json
import threading

import numpy as np
import pytest

from client_sdk import AsyncSite, Site
from client_sdk._protocol import hold
from client_sdk.federated import Update
from client_sdk.local import local_federation, plan_for
from he_agg import ProtocolError, Reason
from he_agg.sharing.field import P, read, write
from he_agg.sharing.shares import ANSWER_BYTES
from he_agg.sharing.shares import answer as answer_of
from tests.support.flows import assert_mean_of
from tests.support.real import SITES, in_threads, until

TRUSTEE = "trustee"
SPLIT = {"codec": "hybrid", "keys": "split", "min_sites": 3, "holders": (*SITES, TRUSTEE), "start": False}


def assert_right(mean, federation, number=1):
    assert_mean_of(mean, federation.plan, [federation.update(site, number) for site in SITES])


def noted(federation, site):
    path = federation.directory(site) / "identity.security.log"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_three_sites_and_a_trustee_average_over_rounds(federate):
    federation = federate(rounds=3, **SPLIT)

    def hospital(name):
        with Site.open(federation.config(name)) as site:
            means = []
            for round in site.rounds():
                update = federation.update(name, round.number)
                means.append(round.aggregate(update.tensors, weight=update.weight))
                assert list(round.seconds) == ["encrypt", "upload", "wait", "hold", "download", "decrypt"]
            return means

    with federation.trustee(TRUSTEE):
        federation.start_with_all_keys()
        outcomes = in_threads(hospital)
    for means in outcomes:
        assert len(means) == 3
        for number, mean in enumerate(means, 1):
            assert_right(mean, federation, number)
    for name in (*SITES, TRUSTEE):
        assert noted(federation, name) == []


def test_a_site_that_dies_after_its_upload_is_in_the_sum(federate):
    """Two hospitals and the trustee are enough to open it; the third gets it when it is back."""
    federation, gone = federate(rounds=1, **SPLIT), threading.Event()

    def hospital(name):
        with Site.open(federation.config(name)) as site:
            (round,) = [next(iter(site.rounds()))]
            update = federation.update(name)
            if name == SITES[2]:
                round.submit(update.tensors, update.weight)
                gone.set()
                return None
            gone.wait(30)
            return round.aggregate(update.tensors, update.weight)

    with federation.trustee(TRUSTEE):
        federation.start_with_all_keys()
        *means, none = in_threads(hospital)
    assert none is None
    with Site.open(federation.config(SITES[2])) as site:
        means.append(site.fetch())
    for mean in means:
        assert_right(mean, federation)


def test_one_liar_of_four_holders_is_named_and_the_sum_is_right(federate, monkeypatch):
    """It answers first, so that everybody sees its answer."""
    federation, lied = federate(rounds=1, **SPLIT), threading.Event()

    def answer(shares):
        total = answer_of(shares)
        if not threading.current_thread().name.startswith(TRUSTEE):
            assert lied.wait(30)
            return total
        row = read(total, ANSWER_BYTES // 2, "answer").copy()
        row[5] = (int(row[5]) + 1) % P
        return write(row)

    put = hold._send

    def send(session, round_id, where, encoded):
        yield from put(session, round_id, where, encoded)
        if where == f"answers/{TRUSTEE}":
            lied.set()

    monkeypatch.setattr(hold, "answer", answer)
    monkeypatch.setattr(hold, "_send", send)

    def hospital(name):
        with Site.open(federation.config(name)) as site:
            (round,) = [next(iter(site.rounds()))]
            update = federation.update(name)
            return round.aggregate(update.tensors, update.weight)

    with federation.trustee(TRUSTEE):
        federation.start_with_all_keys()
        means = in_threads(hospital)
    for name, mean in zip(SITES, means, strict=True):
        assert_right(mean, federation)
        (line,) = noted(federation, name)
        assert (line["event"], line["holder"]) == ("holder-lied", TRUSTEE)


def test_a_round_that_too_few_holders_have_answered_is_fetched_later(federate):
    """Two hospitals and no trustee: the sum is there, and opens as soon as one more has seen its record."""
    federation = federate(rounds=1, **SPLIT)
    federation.trustee_looks(TRUSTEE)
    federation.start_with_all_keys()

    def submit(name):
        with Site.open(federation.config(name)) as site:
            (round,) = [next(iter(site.rounds()))]
            update = federation.update(name)
            round.submit(update.tensors, update.weight)

    in_threads(submit)

    def fetch(name):
        with Site.open(federation.config(name), result_s=1.0) as site:
            return site.fetch()

    def is_published():
        """The last receipt comes before the sum is made."""
        with pytest.raises(ProtocolError) as early:
            fetch(SITES[0])
        return "expected a published round" not in early.value.message

    until(is_published)
    for _ in range(2):
        with pytest.raises(ProtocolError, match="fewer than 2 of 4 holders have answered") as caught:
            fetch(SITES[0])
        assert caught.value.reason == Reason.SUM_NOT_READY
    with pytest.raises(ProtocolError):
        fetch(SITES[1])
    federation.trustee_looks(TRUSTEE)
    for mean in in_threads(fetch):
        assert_right(mean, federation)


def test_async_sites_deal_hold_and_open_on_one_event_loop(federate):
    """Three hospitals are holders enough if all of them are there: none may wait for another with the loop in hand."""
    federation = federate(rounds=2, **SPLIT | {"holders": SITES, "start": True})

    async def hospital(name):
        async with AsyncSite.open(federation.config(name)) as site:
            means = []
            async for round in site.rounds():
                update = federation.update(name, round.number)
                means.append(await round.aggregate(update.tensors, update.weight))
            return means

    async def all_of_them():
        return await asyncio.gather(*(hospital(name) for name in SITES))

    for means in asyncio.run(all_of_them()):
        assert len(means) == 2
        for number, mean in enumerate(means, 1):
            assert_right(mean, federation, number)


def test_sites_on_one_machine_are_each_others_holders(aggregator, name):
    plan = plan_for({"w": np.zeros(50)}, 4, name, keys="split", rounds=1)
    with local_federation(plan, 4, aggregator=aggregator) as federation:

        def work(site, i):
            return next(iter(site.rounds())).aggregate({"w": np.full(50, i / 4)}, weight=1 + i)

        means = federation.everywhere(work)
    updates = [Update({"w": np.full(50, i / 4)}, 1 + i) for i in range(4)]
    for mean in means:
        assert_mean_of(mean, plan, updates)
