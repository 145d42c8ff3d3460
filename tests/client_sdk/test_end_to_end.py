"""Sites against the real aggregator, started as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import threading
import time
import tracemalloc
from functools import partial

import numpy as np
import pytest

from client_sdk import AsyncSite, PhaseFinished, PhaseProgress, PhaseStarted, Retrying, Site, Waits
from client_sdk._protocol import collect as _collect
from client_sdk._protocol import encrypt as _encrypt
from client_sdk._protocol.retry import RetryPolicy
from he_agg import ConfigError, InputError, KeystoreError, PlanError, ProtocolError, Reason
from he_agg.documents.roster import Role
from he_agg.ids import RoundId
from he_agg.plan.schemes import SCHEMES
from keys import GroupKey, Identity
from keys.pinning import archive_of
from tests.support.flows import assert_mean_of
from tests.support.real import SITES, in_threads
from tests.support.server import QUICK, he_agg, start_server


@pytest.mark.parametrize("codec", sorted(SCHEMES))
def test_three_sites_average_over_rounds(federate, codec):
    federation = federate(rounds=3, codec=codec)

    def hospital(name):
        means, books = [], []
        with Site.open(federation.config(name)) as site:
            for round in site.rounds():
                update = federation.update(name, round.number)
                before = round.submitted
                means.append(round.aggregate(update.tensors, weight=update.weight))
                books.append((dict(round.seconds), round.bytes_up, round.bytes_down))
                assert (before, round.submitted) == (False, True)
                assert repr(round) == f"Round('{federation.name}.{round.number}.1', submitted=True)"
        return means, books

    outcomes = in_threads(hospital)
    for means, books in outcomes:
        assert len(means) == 3
        for number, mean in enumerate(means, 1):
            assert_mean_of(mean, federation.plan, [federation.update(site, number) for site in SITES])
        for seconds, bytes_up, bytes_down in books:
            assert list(seconds) == ["encrypt", "upload", "wait", "download", "decrypt"]
            assert all(spent > 0 for spent in seconds.values())
            total = federation.plan.public.wire_bytes
            assert total < bytes_up < total + 2000
            assert total < bytes_down < total + 8000  # the record, and three signed manifests
    for name in SITES:
        chain, ledger, verdicts = sorted((federation.directory(name) / "spool" / name).iterdir())
        assert chain.name == f"{federation.name}.chain"
        records = [json.loads(line) for line in chain.read_bytes().splitlines()]
        assert [record["ended"] for record in records] == [False, False, False, True]
        states = [json.loads(line)["state"] for line in ledger.read_bytes().splitlines()]
        assert states == ["sent", "counted"] * 3
        lines = [json.loads(line) for line in verdicts.read_bytes().splitlines()]
        assert [(line["round"], line["found"], line["signature"] is None) for line in lines] == [
            (number, "opened", delivered) for number in (1, 2, 3) for delivered in (False, True)
        ]


def test_async_sites_share_one_event_loop(federate):
    federation = federate(rounds=2)
    beats = 0

    async def hospital(name):
        means = []
        async with AsyncSite.open(federation.config(name)) as site:
            assert (site.name, site.federation) == (name, federation.name)
            assert (await site.status()).round_id is not None
            async for round in site.rounds():
                update = federation.update(name, round.number)
                means.append(await round.aggregate(update.tensors, update.weight))
                assert set(round.seconds) == {"encrypt", "upload", "wait", "download", "decrypt"}
            assert site.pending() == []
            again = await site.fetch()
            assert np.array_equal(again.sums, means[-1].sums)
            assert await site.current() is None
        return means

    async def heart():
        nonlocal beats
        while True:
            await asyncio.sleep(0.01)
            beats += 1

    async def main():
        pulse = asyncio.create_task(heart())
        try:
            return await asyncio.gather(*map(hospital, SITES))
        finally:
            pulse.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await pulse

    for means in asyncio.run(main()):
        for number, mean in enumerate(means, 1):
            assert_mean_of(mean, federation.plan, [federation.update(site, number) for site in SITES])
    assert beats > 5


def test_submit_resume_and_fetch_async(federate):
    federation = federate()
    updates = {name: federation.update(name) for name in SITES}

    async def hospital(name):
        async with AsyncSite.open(federation.config(name)) as site:
            round = await site.current()
            receipt = await round.submit(updates[name].tensors, updates[name].weight)
            assert receipt.site == name
            assert site.pending() == [round.id]
            return await (round.resume() if name == SITES[0] else round.fetch())

    async def main():
        return await asyncio.gather(*map(hospital, SITES))

    for mean in asyncio.run(main()):
        assert_mean_of(mean, federation.plan, list(updates.values()))


@pytest.fixture
def impatient(monkeypatch):
    """Restarts take a second here: waits between tries stay short, so that tests do."""
    monkeypatch.setattr("client_sdk._protocol.session.RetryPolicy", partial(RetryPolicy, cap_s=0.5))


class Assassin:
    """Kills the aggregator with SIGKILL at one event of each round, and starts it again a bit later."""

    def __init__(self, server, moments):
        self.server, self.moments = server, dict(enumerate(moments, 1))
        self.lock = threading.Lock()
        self.doctors = []
        self.retries = 0

    def __call__(self, event):
        with self.lock:
            if isinstance(event, Retrying):
                self.retries += 1
                return
            if isinstance(event, Waits):
                return
            number = RoundId.parse(event.round_id).number
            if self.moments.get(number) == (type(event), event.phase):
                del self.moments[number]
                self.server.kill()
                self.doctors.append(threading.Timer(0.2, self.server.start))
                self.doctors[-1].start()


def test_aggregator_killed_in_every_phase(hospitals, tmp_path, impatient):
    """Sites and their loops do not notice more than a pause, and the sums stay exact."""
    moments = [
        (PhaseStarted, "encrypt"),
        (PhaseProgress, "upload"),
        (PhaseFinished, "upload"),
        (PhaseStarted, "wait"),
        (PhaseProgress, "download"),
    ]
    with start_server(tmp_path / "data", environment=QUICK) as server:
        federation = hospitals(tmp_path, server, rounds=len(moments))
        assassin = Assassin(server, moments)

        def hospital(name):
            with Site.open(federation.config(name), progress=assassin) as site:
                return [
                    round.aggregate(update.tensors, update.weight)
                    for round in site.rounds()
                    for update in [federation.update(name, round.number)]
                ]

        outcomes = in_threads(hospital)
        for doctor in assassin.doctors:
            doctor.join()
    assert len(assassin.doctors) == len(moments)
    assert assassin.retries >= len(moments)
    for means in outcomes:
        assert len(means) == len(moments)
        for number, mean in enumerate(means, 1):
            assert_mean_of(mean, federation.plan, [federation.update(site, number) for site in SITES])


def test_aggregator_away_while_nothing_is_open(hospitals, tmp_path, impatient):
    """A site that only waits for a round survives a restart too."""
    with start_server(tmp_path / "data", environment=QUICK) as server:
        federation = hospitals(tmp_path, server, start=False)
        retried = threading.Event()
        found = []

        def wait():
            with Site.open(
                federation.config(SITES[0]), progress=lambda e: retried.set() if isinstance(e, Retrying) else None
            ) as site:
                found.extend(round.id for round in site.rounds())

        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.5)
        server.kill()
        assert retried.wait(30)
        server.start()
        he_agg("federation", "end", federation.name, "--data-dir", server.data_dir)
        thread.join(60)
        assert not thread.is_alive()
    assert found == []


def test_second_different_update_is_refused_and_nothing_is_lost(federate):
    federation = federate()
    name = SITES[0]
    update = federation.update(name)
    with Site.open(federation.config(name)) as site:
        round = site.current()
        round.submit(update.tensors, update.weight)
    with Site.open(federation.config(name)) as site:  # restarted
        round = site.current()
        assert round.submitted
        with pytest.raises(InputError) as caught:
            round.aggregate(update.tensors, update.weight + 1)
        assert caught.value.reason == Reason.SECOND_SUBMISSION

    def hospital(other):
        with Site.open(federation.config(other)) as site:
            round = site.current()
            if other == name:
                return round.resume()
            mine = federation.update(other)
            return round.aggregate(mine.tensors, mine.weight)

    for mean in in_threads(hospital):
        assert_mean_of(mean, federation.plan, [federation.update(site) for site in SITES])


def test_lost_spool_is_explained(federate):
    federation = federate()
    name = SITES[0]
    update = federation.update(name)
    with Site.open(federation.config(name)) as site:
        site.current().submit(update.tensors, update.weight)
    with Site.open(federation.config(name), spool=federation.root / "new-disk") as site:
        with pytest.raises(ProtocolError, match="the spool was lost") as caught:
            site.current().aggregate(update.tensors, update.weight)
        assert caught.value.reason == Reason.SECOND_SUBMISSION


def test_round_that_a_site_missed(federate):
    """The deadline passes without it: its submission is refused, and the mean of the others can be had."""
    federation = federate(deadline_s=3)
    late = SITES[2]
    update = federation.update(late)

    def hospital(name):
        with Site.open(federation.config(name)) as site:
            mine = federation.update(name)
            return site.current().aggregate(mine.tensors, mine.weight)

    with Site.open(federation.config(late)) as site:
        round = site.current()
        means = in_threads(hospital, SITES[:2])
        with pytest.raises(ProtocolError) as caught:
            round.aggregate(update.tensors, update.weight)
        assert caught.value.reason == Reason.ROUND_CLOSED
        assert "round.fetch()" in caught.value.hint
        means.append(round.fetch())
        assert site.pending() == []
    for mean in means:
        assert_mean_of(mean, federation.plan, [federation.update(site) for site in SITES[:2]])


def test_round_of_too_few_sites_fails_and_is_tried_again(federate):
    federation = federate(deadline_s=1)
    name = SITES[0]
    update = federation.update(name)
    with Site.open(federation.config(name)) as site:
        rounds = site.rounds()
        first = next(rounds)
        with pytest.raises(ProtocolError, match="too few sites") as caught:
            first.aggregate(update.tensors, update.weight)
        assert caught.value.reason == Reason.ROUND_FAILED
        second = next(rounds)
        assert (second.number, second.attempt, second.submitted) == (1, 2, False)


@pytest.mark.parametrize("which", ["key", "plan", "epoch"])
def test_another_keystore_is_refused_before_anything_is_sent(federate, which):
    federation = federate()
    directory = federation.directory(SITES[0])
    if which == "plan":
        other = federate(start=False).plan
        public = type(other).create(federation.name, other.layout, max_sites=4, rounds=9)
        key = GroupKey.create(public)
    else:
        key = GroupKey.create(federation.plan, epoch=2 if which == "epoch" else 1)
    key.save(directory / "other.keystore")
    other_keystore = directory / "other.keystore"
    # Another epoch is waited for, as long as the settings say.
    with Site.open(federation.config(SITES[0]), keystore=other_keystore, round_s=1.0) as site:
        for ask in (lambda: next(site.rounds()), site.current):
            with pytest.raises(PlanError if which == "plan" else KeystoreError) as caught:
                ask()
            if which == "epoch":
                assert caught.value.reason == Reason.NOT_MY_EPOCH
            else:
                assert "nothing was encrypted" in caught.value.hint
        assert site.status().key_id == federation.key.key_id  # looking is allowed


def with_identity(federation, name, identity, roster=None):
    """Open a site with another identity than the one in its directory, and perhaps a roster that knows it."""
    directory = federation.directory(name)
    identity.save(directory / "other.identity")
    options = {"identity": directory / "other.identity", "spool": directory / "other.spool"}
    if roster is not None:
        (directory / "other.roster.json").write_bytes(roster.encode())
        options["roster"] = directory / "other.roster.json"
    return Site.open(federation.config(name), **options)


def test_an_identity_that_the_roster_does_not_know(federate):
    """Refused here, before anything is sent; and by the aggregator, if this site's roster were a forgery."""
    federation = federate()
    name, stranger = SITES[0], Identity.create(SITES[0])
    with pytest.raises(KeystoreError, match="lists the key with fingerprint"):
        with_identity(federation, name, stranger)
    forged = federation.consortium.roster.body
    forged = dataclasses.replace(forged, members={**forged.members, name: stranger.member([Role.SITE])})
    (federation.directory(name) / "other.identity").unlink()
    with with_identity(federation, name, stranger, federation.consortium.signed(forged)) as site:
        with pytest.raises(ProtocolError) as caught:
            site.status()
        assert caught.value.reason == Reason.BAD_SIGNATURE
        assert "compare fingerprints" in caught.value.hint
    with Site.open(federation.config(name)) as site:
        assert site.status().round_id is not None


def test_wrong_clock_is_told_with_the_difference(federate):
    federation = federate()
    with Site.open(federation.config(SITES[0])) as site:
        signer = dataclasses.replace(site._session.signer, clock=lambda: time.time() + 1000)
        transport, site._transport._sender._signer = site._transport._sender._signer, signer
        with pytest.raises(ConfigError, match=r"this machine's is (999|100[01]) s ahead") as caught:
            site.status()
        assert caught.value.reason == Reason.CLOCK_SKEW
        site._transport._sender._signer = transport
        assert site.status().round_id is not None


def test_newer_rosters_are_followed_and_the_pin_replaced(federate):
    """The coordinator publishes two more versions while the sites are at work; nobody touches their files."""
    federation = federate(rounds=3)
    consortium, members = federation.consortium, federation.consortium.roster.body.members
    name = SITES[0]
    pin = federation.directory(name) / "roster.json"
    rosters = [consortium.roster]
    for _ in range(2):
        consortium = dataclasses.replace(consortium, roster=consortium.next_roster(members))
        rosters.append(consortium.roster)

    def hospital(site_name):
        means = []
        with Site.open(federation.config(site_name)) as site:
            for round in site.rounds():
                update = federation.update(site_name, round.number)
                means.append(round.aggregate(update.tensors, update.weight))
                if site_name == name and round.number == 1:
                    for number, roster in enumerate(rosters[1:], 2):
                        path = federation.root / f"roster-{number}.json"
                        path.write_bytes(roster.encode())
                        he_agg("federation", "roster", federation.name, path, "--data-dir", federation.server.data_dir)
        return means

    for means in in_threads(hospital):
        for number, mean in enumerate(means, 1):
            assert_mean_of(mean, federation.plan, [federation.update(site, number) for site in SITES])
    assert pin.read_bytes() == rosters[2].encode()
    archive = archive_of(pin)
    assert [path.read_bytes() for path in sorted(archive.iterdir())] == [r.encode() for r in rosters[:2]]


def test_fetch_by_id_and_latest(federate):
    federation = federate()

    def hospital(name):
        with Site.open(federation.config(name)) as site:
            with pytest.raises(ProtocolError, match="there is none yet"):
                site.fetch()
            mine = federation.update(name)
            return site.current().submit(mine.tensors, mine.weight)

    receipts = in_threads(hospital)
    with Site.open(federation.config(SITES[1])) as site:
        for mean in (site.fetch(receipts[1].round_id), site.fetch()):
            assert_mean_of(mean, federation.plan, [federation.update(site) for site in SITES])
        with pytest.raises(ProtocolError) as caught:
            site.fetch(f"{federation.name}.7.1")
        assert caught.value.reason == Reason.UNKNOWN_ROUND


def test_a_part_that_the_aggregators_disk_damaged_is_sent_again_by_itself(hospitals, tmp_path):
    # Folded from files: of parts that are in a running sum the aggregator needs no file.
    environment = {**QUICK, "HE_AGG_RUNNING_SUM_BYTES": "0"}
    with start_server(tmp_path / "data", environment=environment) as server:
        federation = hospitals(tmp_path, server)
        updates = {name: federation.update(name) for name in SITES}
        victim = SITES[1]
        with Site.open(federation.config(victim)) as site:
            receipt = site.current().submit(updates[victim].tensors, updates[victim].weight)
        (directory,) = (federation.server.data_dir / "rounds" / receipt.round_id / "submissions").iterdir()
        part = directory / "1.part"
        data = part.read_bytes()
        part.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

        def hospital(name):
            with Site.open(federation.config(name)) as site:
                round = site.current()
                if name == victim:
                    return round.resume(), round.bytes_up
                return round.aggregate(updates[name].tensors, updates[name].weight), round.bytes_up

        for mean, _ in in_threads(hospital):
            assert_mean_of(mean, federation.plan, list(updates.values()))
        told = [line for line in federation.server.log_lines if line.get("upload") == directory.name]
        (asked,) = [line for line in told if line["level"] == "CRITICAL"]
        assert (asked["site"], asked["n"]) == (victim, 1)
        # All parts, with a receipt; the receipt once more, by `resume`; and then the damaged part alone.
        assert [line["status"] for line in told if line.get("method") == "PUT"] == [200, 200, 204]


def test_memory_does_not_grow_with_the_number_of_parts(federate, monkeypatch):
    """74 parts of 41 kB go up and come down; beside the integers themselves as many are held as is said, and a few."""
    for module in (_encrypt, _collect):
        monkeypatch.setattr(module, "HELD_BYTES", 10 * 41024)
    before = federate()  # whose round loads what is loaded once

    def whole(name):
        with Site.open(before.config(name)) as site:
            mine = before.update(name)
            return site.current().aggregate(mine.tensors, mine.weight)

    in_threads(whole)
    federation = federate(values=150_000)
    total = federation.plan.public.wire_bytes
    assert len(federation.plan.public.places) == 74
    peaks = {}

    def watch(event):
        if isinstance(event, PhaseStarted):
            tracemalloc.reset_peak()
            peaks[event.phase] = -tracemalloc.get_traced_memory()[0]
        elif isinstance(event, PhaseFinished):
            peaks[event.phase] += tracemalloc.get_traced_memory()[1]

    def hospital(name):
        with Site.open(federation.config(name)) as site:
            mine = federation.update(name)
            return site.current().submit(mine.tensors, mine.weight)

    in_threads(hospital, SITES[1:])
    with Site.open(federation.config(SITES[0]), progress=watch) as site:
        update = federation.update(SITES[0])
        tracemalloc.start()
        try:
            mean = site.current().aggregate(update.tensors, update.weight)
        finally:
            tracemalloc.stop()
    assert_mean_of(mean, federation.plan, [federation.update(site) for site in SITES])
    assert total == 74 * 41024
    integers = 4 * federation.plan.public.values
    assert peaks["encrypt"] < integers + 30 * 41024
    assert peaks["upload"] < 30 * 41024
    assert peaks["download"] < 2 * integers + 30 * 41024  # opened as they come: the sums have 8 bytes
