"""`take_part` says how a round went where `aggregate` would raise; against the real aggregator, sync and async."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from client_sdk import AsyncSite, PhaseStarted, Site
from he_agg import InputError, Reason
from he_agg.ids import RoundId
from tests.support.flows import assert_mean_of
from tests.support.peers import operator, pass_time
from tests.support.real import SITES, in_threads, until


def aggregate_at(federation, names):
    """The mean at each of these sites."""

    def hospital(name):
        with Site.open(federation.config(name)) as site:
            mine = federation.update(name)
            return site.current().aggregate(mine.tensors, mine.weight)

    return in_threads(hospital, names)


def the_others_alone(federation, names=SITES[:2]):
    """These sites submit, and the deadline comes."""

    def hospital(name):
        with Site.open(federation.config(name)) as site:
            mine = federation.update(name)
            site.current().submit(mine.tensors, mine.weight)

    in_threads(hospital, names)
    pass_time(federation.server.data_dir, federation.name)


def test_counted(federate):
    federation = federate()

    def hospital(name):
        with Site.open(federation.config(name)) as site:
            mine = federation.update(name)
            return site.current().take_part(mine.tensors, mine.weight, rounding="nearest", on_overflow="clip")

    for outcome in in_threads(hospital):
        assert (outcome.counted, outcome.reason, outcome.why) == (True, None, "")
        assert outcome.round_id == f"{federation.name}.1.1"
        assert_mean_of(outcome.mean, federation.plan, [federation.update(site) for site in SITES])


def test_too_late_has_the_mean_of_the_others(federate):
    federation = federate()
    late = federation.update(SITES[2])
    with Site.open(federation.config(SITES[2])) as site:
        round = site.current()
        the_others_alone(federation)
        outcome = round.take_part(late.tensors, late.weight)
        assert site.pending() == []
    assert (outcome.counted, outcome.reason) == (False, Reason.ROUND_CLOSED)
    assert outcome.why
    assert outcome.mean is not None
    assert_mean_of(outcome.mean, federation.plan, [federation.update(site) for site in SITES[:2]])


def test_failed_has_no_mean_and_the_next_attempt_comes(federate):
    federation = federate(deadline_s=1)
    mine = federation.update(SITES[0])
    with Site.open(federation.config(SITES[0])) as site:
        rounds = site.rounds()
        outcome = next(rounds).take_part(mine.tensors, mine.weight)
        assert (outcome.mean, outcome.counted, outcome.reason) == (None, False, Reason.ROUND_FAILED)
        assert "too few sites" in outcome.why
        assert next(rounds).attempt == 2


@pytest.mark.parametrize("restart", ["trained anew", "nothing new", "another machine"])
def test_what_was_submitted_before_counts(federate, restart):
    federation = federate()
    before, other = federation.update(SITES[0]), federation.update(SITES[0], number=3)
    with Site.open(federation.config(SITES[0])) as site:
        site.current().submit(before.tensors, before.weight)
    spool = {"spool": federation.root / "new-disk"} if restart == "another machine" else {}
    waits = threading.Event()

    def watch(event):
        if isinstance(event, PhaseStarted) and event.phase == "wait":
            waits.set()

    def hospital(name):
        if name != SITES[0]:
            assert waits.wait(60)  # the round stays open until the first one has been told so
            return aggregate_at(federation, [name])[0]
        with Site.open(federation.config(name), progress=watch, **spool) as site:
            round = site.current()
            outcome = round.take_part() if restart == "nothing new" else round.take_part(other.tensors, other.weight)
        assert (outcome.counted, outcome.reason) == (False, Reason.SECOND_SUBMISSION)
        return outcome.mean

    for mean in in_threads(hospital):
        assert_mean_of(mean, federation.plan, [federation.update(site) for site in SITES])


def test_what_was_submitted_before_counts_though_the_round_is_over(federate):
    """A machine without its spool comes back too late: it is told what counts, and takes nobody for a liar."""
    federation = federate()
    before, other = federation.update(SITES[0]), federation.update(SITES[0], number=3)
    with Site.open(federation.config(SITES[0])) as site:
        site.current().submit(before.tensors, before.weight)
    with Site.open(federation.config(SITES[0]), spool=federation.root / "new-disk") as site:
        round = site.current()
        means = aggregate_at(federation, SITES[1:])
        outcome = round.take_part(other.tensors, other.weight)
    assert (outcome.counted, outcome.reason) == (False, Reason.SECOND_SUBMISSION)
    for mean in (*means, outcome.mean):
        assert_mean_of(mean, federation.plan, [federation.update(site) for site in SITES])


def test_what_is_wrong_is_still_an_error(federate):
    federation = federate()
    mine = federation.update(SITES[0])
    with Site.open(federation.config(SITES[0])) as site:
        for wrong in ({"weights": np.zeros(3)}, mine.tensors | {"bias": np.array(7.0)}):
            with pytest.raises(InputError):
                site.current().take_part(wrong, mine.weight)
        with pytest.raises(InputError, match="weight"):
            site.current().take_part(mine.tensors)


def test_async_sites_have_the_same_outcomes(federate):
    federation = federate(rounds=2)

    def close_without_the_third():
        with operator(federation.server.data_dir) as (store, _):

            def both():
                with store.read() as tx:
                    return len(tx.completed(RoundId(federation.name, 1, 1))) == 2

            until(both)
        pass_time(federation.server.data_dir, federation.name)

    async def hospital(name):
        async with AsyncSite.open(federation.config(name)) as site:
            outcomes = []
            async for round in site.rounds():
                mine = federation.update(name, round.number)
                if (name, round.number) == (SITES[2], 1):
                    await asyncio.to_thread(close_without_the_third)
                outcomes.append(await round.take_part(mine.tensors, mine.weight))
            return outcomes

    async def main():
        return await asyncio.gather(*map(hospital, SITES))

    found = asyncio.run(main())
    assert [[outcome.counted for outcome in each] for each in found] == [[True, True], [True, True], [False, True]]
    assert found[2][0].reason == Reason.ROUND_CLOSED
    for number, sites in ((1, SITES[:2]), (2, SITES)):
        for each in found:
            assert_mean_of(each[number - 1].mean, federation.plan, [federation.update(site, number) for site in sites])


def test_without_samples_a_site_takes_no_part_and_has_the_mean(federate):
    federation = federate()
    mine = federation.update(SITES[2])
    with Site.open(federation.config(SITES[2])) as site:
        round = site.current()
        the_others_alone(federation)
        outcome = round.take_part(mine.tensors, 0)
        assert site.pending() == []
    assert (outcome.counted, outcome.reason) == (False, None)
    assert "no samples" in outcome.why
    assert outcome.mean is not None
    assert_mean_of(outcome.mean, federation.plan, [federation.update(site) for site in SITES[:2]])


@pytest.mark.parametrize("weight", [-1, True, 0.0, None])
def test_only_the_number_nought_means_no_samples(federate, weight):
    federation = federate()
    mine = federation.update(SITES[2])
    with Site.open(federation.config(SITES[2])) as site, pytest.raises(InputError, match="weight"):
        site.current().take_part(mine.tensors, weight)
