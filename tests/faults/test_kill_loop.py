"""kill -9, hundreds of times: at every failpoint and at random moments, under sites that simply go on.

Claims, checked over all deaths of one data directory:

* every name in `service.failpoints` is passed in the life of a round, so an aggregator dies there when told to;
* sites that retry what got no answer, and resume from what the aggregator says is missing, always finish their rounds;
* each sum is exact, and as every site sends zeros and a single 1, nothing was counted twice: there is no 2;
* a receipt is honoured: its submission is in the record, and asking again gives the same receipt, whoever died since;
* what a site says of a sum is taken once, whoever died since, and stays: every verdict is there at the end;
* the record and the sum of a published round never change, and the database is sound at the end;
* with the last sum of a federation comes its end, once, the last record for all sites; the next one is founded then;
* every other federation splits its keys: each dealing, echo and answer is stored once, and there is no second record of
  a number; nothing opens before the sum is settled, and answers give the sum of the keys that were dealt.

The same over an object store, which is killed as well: while it is gone, answers are 503 and never a receipt.

`make test` dies 86 times, `make soak` 2,200 times.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import re
import sqlite3
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import service
from he_agg import Plan
from he_agg.documents.record import NO_RECORD, RoundRecord
from he_agg.documents.signed import Signed
from he_agg.documents.state import FederationState
from he_agg.documents.verdict import OPENED, REJECTED
from he_agg.errors import ConfigError, TransportError
from he_agg.ids import RoundId
from he_agg.sharing.decoding import rebuild
from he_agg.sharing.masks import total_mask, unmasked
from he_agg.sharing.shares import read_answer
from service.failpoints import EXIT_KILLED, FAILPOINTS, VARIABLE, arm
from tests.sharing.dealt import MASK_KEY
from tests.support.holding import Dealt, Held, deal_to, holders_of, put_dealing, put_sharing_key
from tests.support.object_store import BUCKET, ObjectStoreServer, running_object_store
from tests.support.peers import Prepared, make_plan, prepare, read_ended, read_part, register
from tests.support.replicas import PatientPeer
from tests.support.seeds import seed_of
from tests.support.server import ServerProcess

SITES = "abc"
ONCE_A_ROUND = {name for name in FAILPOINTS if name.startswith(("removal", "objects", "scrubbing", "folding"))}
OF_A_DIRECTORY = {name for name in FAILPOINTS if name.startswith(("directory.", "file.", "removal."))}
OF_OBJECTS = {name for name in FAILPOINTS if name.startswith("object")}
EXIT_REFUSED = 4
STORE_DIES = "store"
"""The object store is killed, and a little later, dead or alive, the aggregator."""
ROUNDS = 3
"""Of each federation: so that it often dies about the last."""
PATIENCE_S = 120
QUICK = {"HE_AGG_RECHECK_S": "0.02", "HE_AGG_KEEP_SUMS": "1000000"}


class Killer:
    """Starts an aggregator again whenever it has died, each time with the next way to die."""

    def __init__(
        self,
        server: ServerProcess,
        deaths: list[str],
        chance: random.Random,
        object_store: ObjectStoreServer | None = None,
    ) -> None:
        self.server = server
        self._environment = environment_of(object_store)
        self._object_store = object_store
        self.died: list[str] = []
        self.unexpected: list[str] = []
        self.done = threading.Event()
        self.finished = False
        """Whether all deaths have been died, so that the round under way is the last."""
        self._deaths = iter(deaths)
        self._chance = chance
        self._next: str | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self.done.is_set():
            way = next(self._deaths, None)
            code = self._live(way)
            if code is None:
                return
            expected = -9 if way in (None, "random", STORE_DIES) else EXIT_KILLED
            if code != expected:
                self.unexpected.append(f"{way}: exit code {code}")
            self.died.append(str(way))

    def _live(self, way: str | None) -> int | None:
        """One life. Returns the exit code, or None when all deaths have been died."""
        random_kill = way in ("random", STORE_DIES)
        armed = {} if way is None or random_kill else {VARIABLE: way}
        self.server.environment = self._environment | armed
        begun = time.monotonic()
        while True:
            try:
                self.server.start()
                break
            except TransportError:
                # Its supervisor starts it again until an object store that has just come back takes what is put.
                again = self._object_store is not None and self.server.code == EXIT_REFUSED
                if not again or time.monotonic() > begun + PATIENCE_S:
                    return self.server.code
        end = time.monotonic() + (self._chance.expovariate(1 / 0.04) if random_kill else PATIENCE_S)
        while (code := self.server.poll()) is None:
            if self.done.is_set():
                self.server.kill()
                return None
            if way is not None and time.monotonic() > end:
                if way == STORE_DIES:
                    self._without_store()
                if not random_kill:
                    self.unexpected.append(f"{way}: not passed within {PATIENCE_S} s")
                return self.server.kill()
            self.finished = way is None
            time.sleep(0.005)  # each look is a question to the process that forks
        return code

    def _without_store(self) -> None:
        """Let the object store be gone for a while, and perhaps the aggregator before it is back."""
        assert self._object_store is not None
        self._object_store.kill()
        time.sleep(self._chance.expovariate(1 / 0.2))
        if self._chance.random() < 0.5:
            self.server.kill()
        self._object_store.start()

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self._thread.join()


class Site:
    """A site that never gives up: what gets no answer is asked again, and an upload goes on where it was.

    Args:
        passing: answers after which it asks again: a poll without news, an object store that is gone.
    """

    def __init__(self, peer: PatientPeer, name: str, passing: tuple[int, ...] = (204,)) -> None:
        self.name = name
        self.passing = passing
        self.peer = peer

    @property
    def retries(self) -> int:
        return self.peer.retries

    def ask(self, method: str, *arguments, accept=(200,), **more) -> httpx.Response:
        end = time.monotonic() + PATIENCE_S
        while True:
            answer = getattr(self.peer, method)(*arguments, **more)
            if answer.status_code in accept:
                return answer
            assert answer.status_code in self.passing, f"{method} {answer.status_code}: {answer.text}"
            assert time.monotonic() < end, f"{method}: no news for {PATIENCE_S} s"

    def submit(self, prepared: Prepared, in_one: bool, dealt: Dealt | None = None) -> bytes:
        if dealt is not None:
            taken = put_dealing(self.peer, dealt)
            assert taken.status_code in (200, 201), taken.text
        if in_one:
            return self.ask("submit", prepared).content
        missing = list(range(len(prepared.parts)))
        while missing:
            for number in missing:
                self.ask("put", prepared, number, prepared.parts[number], accept=(200, 204))
            missing = self.ask("status", prepared).json()["missing"]
        return self.ask("complete", prepared).content

    def sum(self, plan, round_id: str) -> list[bytes]:
        whole, parts = self.ask("sum_from", round_id).content, []
        for place in plan.public.places:
            parts.append(whole[: place.wire_bytes])
            whole = whole[place.wire_bytes :]
        return parts


def verdict_of(site: str, number: int) -> str:
    """Every third round one of the three says that it could not open the sum, which two have opened."""
    return REJECTED if number % 3 == 0 and SITES.index(site) == number // 3 % 3 else OPENED


def assert_verdicts(site: Site, round_id: str, number: int) -> None:
    documents = site.ask("request", "GET", f"/v1/rounds/{round_id}/verdicts").json()["verdicts"]
    said = {one["body"]["site"]: one["body"]["verdict"] for one in documents}
    assert said == {name: verdict_of(name, number) for name in SITES}


def at_once(sites: list[Site], work) -> dict[str, Any]:
    """What each site has got from its work; the first failure, if there is one."""
    done: dict[str, Any] = {}
    failures: list[BaseException] = []

    def worked(site: Site) -> None:
        try:
            done[site.name] = work(site)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=worked, args=(site,)) for site in sites]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return done


def hold(sites: list[Site], round_id: str, keys: np.ndarray) -> None:
    """All three see the same record, and two or more answer for it: the sum of keys is that of its members."""
    held = {site.name: Held(site.peer, round_id) for site in sites}
    state = Signed.parse(FederationState, sites[0].ask("state").content).body
    assert (str(state.awaited), state.open) == (round_id, None), "something has opened before the sum was settled"

    def echo(site: Site) -> None:
        answer = held[site.name].echo()
        assert answer.status_code in (200, 201), answer.text

    def answer(site: Site) -> bytes:
        shares = held[site.name].shares()
        for _ in range(2):
            answer = held[site.name].answer(shares)
            assert answer.status_code in (200, 201), answer.text
        return shares

    at_once(sites, echo)
    shares = at_once(sites, answer)
    a = held[SITES[0]]
    found = a.get("answers").json()
    for what in ("echoes", "answers"):
        assert [one["body"]["holder"] for one in found[what]] == list(SITES)
        assert {one["body"]["record"] for one in found[what]} == {a.record.digest}, "two records were answered"
    masks = total_mask(MASK_KEY, a.contexts())
    answers = {SITES.index(name) + 1: read_answer(row) for name, row in shares.items()}
    rebuilt = rebuild(answers, len(SITES), lambda total: unmasked(total, masks, len(sites)) is not None)
    total = unmasked(rebuilt.total, masks, len(sites))
    assert total is not None
    assert np.array_equal(total, keys.sum(axis=0)), "the sum of keys is wrong"


def play_round(sites: list[Site], plan, round_id: str, number: int):
    """All sites at once. Returns what must never change again."""
    places = plan.public.places
    size = sum(place.residues for place in places)
    hot = [(7919 * number + i * size // len(sites)) % size for i in range(len(sites))]
    dealt = {}
    if plan.public.splits_keys:
        listed = holders_of(sites[0].peer, round_id)
        dealt = {
            site.name: deal_to(plan, listed, round_id, site.name, number, one_hot=position)
            for site, position in zip(sites, hot, strict=True)
        }
        prepared = {name: one.prepared for name, one in dealt.items()}
    else:
        prepared = {
            site.name: prepare(plan, round_id, site.name, number, one_hot=position)
            for site, position in zip(sites, hot, strict=True)
        }

    def submit(site: Site) -> bytes:
        in_one = (number + SITES.index(site.name)) % 2 == 0
        return site.submit(prepared[site.name], in_one, dealt.get(site.name))

    receipts = at_once(sites, submit)
    ended = sites[0].ask("record", round_id, wait=1).content
    parsed = read_ended(ended).record
    assert parsed.outcome == "published"
    assert parsed.members == {name: p.id for name, p in prepared.items()}, "a receipt was not honoured"
    parts = sites[number % len(sites)].sum(plan, round_id)
    assert tuple(hashlib.sha256(part).hexdigest() for part in parts) == parsed.sum_digests
    if dealt:
        hold(sites, round_id, np.stack([one.key for one in dealt.values()]).astype(np.int32))
    for site in sites:
        site.ask("judge", round_id, verdict_of(site.name, number), accept=(200, 201))
    total = np.concatenate([read_part(plan, n, part) for n, part in enumerate(parts)])
    assert {int(i): int(total[i]) for i in np.flatnonzero(total)} == Counter(hot), "the sum is wrong"
    return round_id, ended, parts, {site.name: (prepared[site.name], receipts[site.name]) for site in sites}


def record_in(history) -> Signed[RoundRecord]:
    _, ended, *_ = history
    return read_ended(ended).signed


def assert_unchanged(sites: list[Site], plan, history) -> None:
    round_id, ended, parts, receipts = history
    assert sites[0].ask("record", round_id).content == ended
    assert_verdicts(sites[1], round_id, RoundId.parse(round_id).number)
    assert sites[0].sum(plan, round_id) == parts
    for site in sites:
        prepared, receipt = receipts[site.name]
        assert site.ask("complete", prepared).content == receipt


def assert_ended(sites: list[Site], federation: str, records: list[bytes]) -> None:
    """All sites have the same chain, and the end is the last of it."""
    for site in sites:
        chain = [site.ask("record_at", index).content for index in range(1, ROUNDS + 2)]
        assert chain[:ROUNDS] == records, "a record has changed"
        end = Signed.parse(RoundRecord, chain[-1])
        assert (end.body.outcome, end.body.reason) == ("ended", "rounds")
        assert (str(end.body.round_id), end.body.previous) == (
            f"{federation}.{ROUNDS + 1}.1",
            hashlib.sha256(records[-1]).hexdigest(),
        )
        state = Signed.parse(FederationState, site.ask("state").content).body
        assert (state.stage, state.index, state.head, state.open) == ("ended", ROUNDS + 1, end.digest, None)
        site.ask("record_at", ROUNDS + 2, accept=(404,))


def environment_of(object_store: ObjectStoreServer | None) -> dict[str, str]:
    if object_store is None:
        return QUICK
    place = {"HE_AGG_PARTS": f"s3://{BUCKET}/kill-loop", "HE_AGG_PARTS_TIMEOUT_S": "30"}
    return QUICK | object_store.environment() | place


def run_loop(
    tmp_path: Path, deaths: list[str], seed: int, object_store: ObjectStoreServer | None = None
) -> Counter[str]:
    """Federations, one after another, until all deaths have been died. Returns how often each was."""
    data_dir = tmp_path / "data"
    register(data_dir, plan_of("stroke-0"), list(SITES))
    passing = (204,) if object_store is None else (204, 503)
    with ServerProcess(data_dir, environment_of(object_store)) as server, contextlib.ExitStack() as stack:
        server.kill()  # it was started once, so that there is an address
        client = stack.enter_context(httpx.Client(base_url=server.url, timeout=PATIENCE_S))
        killer = stack.enter_context(Killer(server, deaths, random.Random(seed), object_store))
        lives: list[tuple[list[Site], Any, list]] = []
        last = False
        while not last:
            last = killer.finished
            plan = plan_of(f"stroke-{len(lives) + 1}", split=len(lives) % 2 == 1)
            members = register(data_dir, plan, list(SITES), holders=SITES if plan.public.splits_keys else ())
            sites = [Site(PatientPeer(client, plan.public.federation, members[name]), name, passing) for name in SITES]
            if plan.public.splits_keys:
                assert {put_sharing_key(site.peer).status_code for site in sites} <= {200, 201}
            histories: list = []
            lives.append((sites, plan, histories))
            for number in range(1, ROUNDS + 1):
                state = Signed.parse(FederationState, sites[0].ask("state").content).body
                assert state.head == (record_in(histories[-1]).digest if histories else NO_RECORD)
                round_id = str(state.round_id)
                assert round_id == f"{plan.public.federation}.{number}.1", "an attempt failed"
                histories.append(play_round(sites, plan, round_id, number))
                earlier, its_plan, rounds = random.Random(round_id).choice(lives)
                assert_unchanged(earlier, its_plan, random.Random(number).choice(rounds))
                assert not killer.unexpected, killer.unexpected
            assert_ended(sites, plan.public.federation, [record_in(history).encode() for history in histories])
        for sites, plan, histories in lives[:7]:
            for history in histories:
                assert_unchanged(sites, plan, history)
            assert_ended(sites, plan.public.federation, [record_in(history).encode() for history in histories])
        killer.done.set()
        retries = sum(site.retries for sites, *_ in lives for site in sites)
        print(f"{len(killer.died)} deaths in {len(lives)} federations, {retries} requests got no answer")
    assert killer.died == deaths
    failures = [line for line in server.log_lines if line.get("level") in ("ERROR", "CRITICAL")]
    if STORE_DIES in deaths:  # what it then says; not that a part is lost, which is critical
        failures = [line for line in failures if line["level"] == "CRITICAL"]
    failures = [line for line in failures if line.get("message") != "a site has rejected a sum"]
    assert not failures, failures[:3]
    for *_, histories in lives:
        previous = NO_RECORD
        for index, history in enumerate(histories, 1):
            signed = record_in(history)
            assert (signed.body.index, signed.body.previous) == (index, previous), "the chain has a gap"
            previous = signed.digest
    with contextlib.closing(sqlite3.connect(data_dir / "aggregator.sqlite3")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        ends = db.execute("SELECT federation, COUNT(*) FROM rounds WHERE phase = 'ended' GROUP BY 1").fetchall()
        told = {db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in ("echoes", "answers")}
    assert dict(ends) == {plan.public.federation: 1 for _, plan, _ in lives}
    assert told == {len(SITES) * ROUNDS * (len(lives) // 2)}, "a holder has said something twice, or not at all"
    return Counter(death.partition(":")[0] for death in killer.died)


def plan_of(federation: str, split: bool = False) -> Plan:
    return make_plan(federation, values=3000, min_sites=len(SITES), rounds=ROUNDS, split=split)


def deaths_of(chance: random.Random, total: int, names: list[str], at_random: list[str]) -> list[str]:
    """Every failpoint at its first passages, then at others and random moments, in random order."""
    deaths = [f"{name}:{count}" for name in names for count in ((1, 2) if name in ONCE_A_ROUND else (1, 2, 3))]
    while len(deaths) < total:
        name = chance.choice(names)
        count = chance.randint(1, 2 if name in ONCE_A_ROUND else 12)
        deaths.append(chance.choice([*at_random, f"{name}:{count}"]))
    chance.shuffle(deaths)
    return deaths[:total]


@pytest.mark.parametrize("total", [pytest.param(80, id="quick"), pytest.param(2000, id="soak", marks=pytest.mark.slow)])
def test_nothing_is_lost_or_counted_twice_however_often_it_dies(tmp_path, total):
    seed = seed_of("kill loop")
    names = [name for name in FAILPOINTS if name not in OF_OBJECTS]
    died = run_loop(tmp_path, deaths_of(random.Random(seed), total, names, ["random"]), seed)
    assert died.total() == total
    assert set(died) == {*names, "random"}


@pytest.mark.parametrize("total", [pytest.param(6, id="quick"), pytest.param(200, id="soak", marks=pytest.mark.slow)])
def test_over_an_object_store_that_dies_as_well(tmp_path, total):
    seed = seed_of("kill loop of objects")
    chance = random.Random(seed)
    names = [name for name in FAILPOINTS if name not in OF_A_DIRECTORY]
    if total < len(FAILPOINTS):  # what only an object store passes, and the store's own deaths
        deaths = [*(f"{name}:1" for name in OF_OBJECTS), *([STORE_DIES] * 2)]
    else:
        deaths = deaths_of(chance, total, names, ["random", STORE_DIES])
    chance.shuffle(deaths)
    with running_object_store() as object_store:
        died = run_loop(tmp_path, deaths, seed, object_store)
    assert died.total() == total
    assert died[STORE_DIES] >= 2
    assert set(died) >= OF_OBJECTS


def test_every_failpoint_is_in_the_closed_list():
    sources = [path.read_text() for path in Path(service.__file__).parent.rglob("*.py")]
    passed = [name for source in sources for name in re.findall(r'\bfailpoint\("([^"]*)"\)', source)]
    assert sorted(set(passed)) == sorted(FAILPOINTS)


@pytest.mark.parametrize(
    "setting", ["nonsense:1", "file.renamed", "file.renamed:", "file.renamed:0", "file.renamed:-1"]
)
def test_a_failpoint_that_does_not_exist_is_refused(setting):
    with pytest.raises(ConfigError):
        arm(setting)
    arm(None)
