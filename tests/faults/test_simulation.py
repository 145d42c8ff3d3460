"""Random lives of an aggregator against an oracle of dictionaries.

Operations of several sites in any order: put parts in any order, of one upload and of another, damaged ones and ones
that no manifest will name, complete early, late and twice, say what they found in a sum; the operator gives sums up
that were rejected. Each request may be lost before it is handled, or its answer afterwards, or come twice, or be cut
short. In between time jumps, forwards and backwards, and the aggregator looks at its deadlines, scrubs, folds, folds a
little and dies, gets a new group key, loses a bit of a stored part, is closed and opened again.
Every life comes to an end, which is a record: some in the middle, so that whatever else may happen happens after it.

What is a failure: an answer that the oracle does not expect, any 5xx, and whatever breaks one of the six invariants in
`audit.py`, checked after every step. What is not: a request that the oracle says is refused. Sites send zeros and a
single 1, so that a 2 is visible. Not covered here: real sockets, concurrency and kills (test_kill_loop.py), lost writes
(test_lost_writes.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import ClassVar

import hypothesis
import pytest
from hypothesis import Phase
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from he_agg.documents.signed import Signed
from he_agg.documents.verdict import OPENED, REJECTED, Verdict
from he_agg.errors import InputError
from he_agg.ids import RoundId
from he_agg.plan.sections import PART_HEADER_BYTES
from he_agg.protocol.http_signatures import manifest_field
from service.operator import operations
from service.store.parts.base import SUM, PartKey
from service.store.parts.directory import DirectoryParts
from tests.faults.audit import Audit
from tests.faults.model import Attempt, Model, Times
from tests.support.peers import KEY_ID, Prepared, deal, known, make_plan, prepare, read_ended
from tests.support.seeds import GIVEN, seed_of
from tests.support.simulated import Clock, SimulatedFederation
from tests.support.trust import COORDINATOR

SITES = "abcd"
PARTS = 2
DEADLINE_S = 600
TIMES = Times(DEADLINE_S, expiry_s=250, repair_s=900)
KEEP_SUMS = 3
MEMORY = Path("/dev/shm")
PLAN = make_plan("sim", values=3000, min_sites=2, rounds=10**6, deadline_s=DEADLINE_S)

sites = st.sampled_from(SITES)
fates = st.sampled_from(["handled", "handled", "handled", "lost before", "lost after", "twice"])
ages = st.sampled_from([0, 0, 0, 0, 1, 2])
jumps = st.sampled_from(
    [1.0, 30.0, 60.0, 90.0, 100.0, DEADLINE_S / 2, DEADLINE_S - 1.0, DEADLINE_S + 1.0, 86400.0, -1.0, -7200.0]
)
variants = st.sampled_from([0, 0, 0, 0, 0, 1])
runs = st.sampled_from([range(0, 1), range(0, PARTS), range(1, PARTS), range(PARTS, PARTS)])
"""Which parts go in a request: the first, all, the last, or none, which completes a submission that is there."""


def only(number: int) -> range:
    return range(number, number + 1)


MUST_BE_SEEN = (
    "receipts",
    "published",
    "failed",
    "part-corrupt",
    "round-failed",
    "incomplete",
    "absent",
    "repaired",
    "epoch-changed",
    "from memory",
    "opened",
    "rejected",
    "ends",
    "ended before",
    "federation-ended",
    "given up",
    "tried again",
    "another upload",
    "other parts",
)


class Life(RuleBasedStateMachine):
    """One aggregator from its first round on."""

    seen: ClassVar[Counter[str]] = Counter()
    """What has happened in all lives: a simulation in which nothing ends proves nothing."""

    @initialize()
    def found(self) -> None:
        self.directory = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        data_dir = self.directory / "data"
        self.inside = SimulatedFederation(
            data_dir,
            PLAN,
            SITES,
            clock=Clock(1_800_000_000.5),
            upload_expiry_s=TIMES.expiry_s,
            repair_wait_s=TIMES.repair_s,
            keep_sums=KEEP_SUMS,
            keep_unopened_s=1e12,
            sweep_s=1e-9,
        )
        self.audit = Audit(data_dir, PLAN, KEEP_SUMS)
        self.model = Model(SITES, len(PLAN.public.places), 2, TIMES, self.now)
        self.prepared: dict[tuple[str, str, int], Prepared] = {}
        self.by_upload: dict[str, Prepared] = {}

    @property
    def now(self) -> float:
        return self.inside.clock.now

    def teardown(self) -> None:
        if not hasattr(self, "inside"):
            return
        try:
            self.settle()
        finally:  # what a failed life leaves open would be told in the tests after this one
            self.inside.end()
            shutil.rmtree(self.directory)

    # requests

    def attempt(self, age: int) -> Attempt:
        return self.model.attempts[max(0, len(self.model.attempts) - 1 - age)]

    def submission(self, attempt: Attempt, site: str, variant: int) -> Prepared:
        """What a site submits to an attempt. Another variant is what a site would send that encrypted once more."""
        key = (f"sim.{attempt.number}.{attempt.attempt}", site, variant)
        if key not in self.prepared:
            size = sum(place.residues for place in PLAN.public.places)
            hot = (SITES.index(site) * size // len(SITES) + 97 * attempt.number + attempt.attempt) % size
            terms = {"epoch": attempt.epoch, "key_id": KEY_ID if attempt.epoch == 1 else f"{attempt.epoch:064x}"}
            submission = prepare(PLAN, key[0], site, variant, one_hot=hot, **terms)
            self.prepared[key] = self.audit.sent[submission.id] = self.by_upload[submission.upload] = submission
        return self.prepared[key]

    def send(self, fate: str, site: str, method: str, *arguments, expect) -> None:
        """Send one request. `expect` asks the oracle, once for each time that it is handled."""
        if fate == "lost before":
            return
        for _ in range(2 if fate == "twice" else 1):
            answer = getattr(self.inside.at(site), method)(*arguments)
            self.model.tick(self.now)
            expected = expect()
            assert answer.status_code in expected, (
                f"{method} of {site}: {answer.status_code} {answer.text}, not {expected}"
            )
            if method == "put" and answer.status_code == 200 and fate != "lost after":
                self.audit.receipt(answer.content)
                self.seen["receipts"] += 1
            if answer.status_code == 409 and "record" in answer.json():
                assert answer.json()["record"]["body"]["outcome"] in ("published", "failed")

    @rule(fate=fates, site=sites, age=ages, variant=variants, numbers=runs)
    def put(self, fate, site, age, variant, numbers) -> None:
        attempt = self.attempt(age)
        submission = self.submission(attempt, site, variant)
        before = attempt.uploads.get(site, submission.upload)
        self.put_of(fate, site, attempt, submission, numbers)
        self.seen["another upload"] += attempt.uploads.get(site, before) != before

    def put_of(self, fate, site, attempt, submission, numbers) -> None:
        def expect():
            expected = self.model.put(attempt, site, submission.upload, numbers, self.now)
            self.seen["other parts"] += expected == {400}
            return expected

        data = b"".join(submission.parts[n] for n in numbers)
        self.send(fate, site, "put", submission, numbers.start, data, expect=expect)

    @rule(
        who=st.lists(sites, min_size=2, max_size=4, unique=True),
        others_hang=st.booleans(),
        fate=fates,
        order=st.permutations(range(PARTS)),
        in_one=st.booleans(),
        then=st.sampled_from(["nothing", "deadline", "rot", "rot, repair", "fold a little", "fold"] * 2 + ["new key"]),
    )
    def whole_submissions(self, who, others_hang, fate, order, in_one, then) -> None:
        """What sites do when nothing goes wrong, so that rounds come to their end; the others may stop half-way."""
        for site in SITES if others_hang else ():
            if site not in who:
                self.put(fate, site, 0, order[0], only(order[0]))  # perhaps of another upload than it sends later
        for site in who:
            if in_one:
                self.put(fate, site, 0, 0, range(PARTS))
                continue
            for number in order:
                self.put(fate, site, 0, 0, only(number))
            self.put(fate, site, 0, 0, range(PARTS, PARTS))
        if then == "new key":
            self.new_key(0, who[0], order)
        elif then != "nothing":
            self.time_passes(DEADLINE_S + 1.0)
            self.background_pass()
        if then.startswith("rot"):
            if in_one:
                self.restart()  # a sum in memory is not made of what is on the disk, and so not spoilt by it
            self.rot(who[0], order[0], "bit")
        if then == "fold a little":
            self.fold_a_little_and_die(1)
        if then in ("rot", "rot, repair", "fold"):
            self.fold()
        if then == "rot, repair":
            self.send_again(order)
            self.fold()
        if then == "rot":
            self.time_passes(TIMES.repair_s + 1.0)
            self.fold()

    @rule(site=sites, number=st.integers(0, PARTS - 1))
    def put_another_part(self, site, number) -> None:
        """A part like any other, which is not the one that the manifest names, or will."""
        attempt = self.attempt(0)
        submission, numbers = self.submission(attempt, site, 0), only(number)
        part = submission.parts[number]
        data = part[:PART_HEADER_BYTES] + bytes([part[PART_HEADER_BYTES] ^ 1]) + part[PART_HEADER_BYTES + 1 :]
        self.send(
            "handled", site, "put", submission, number, data,
            expect=lambda: self.model.put(attempt, site, submission.upload, numbers, self.now, right=False),
        )  # fmt: skip

    @rule(
        site=sites,
        number=st.integers(0, PARTS - 1),
        how=st.sampled_from(["no part", "too large", "short", "long", "other", "cut"]),
    )
    def put_damaged(self, site, number, how) -> None:
        attempt = self.attempt(0)
        submission = self.submission(attempt, site, 0)
        whole = submission.parts[number]
        data = {
            "no part": b"XXXX" + whole[4:],
            "too large": whole[:PART_HEADER_BYTES] + b"\xff" * (len(whole) - PART_HEADER_BYTES),
            "short": whole[:-1],
            "long": whole + b"\0",
            "other": submission.parts[number - 1],
            "cut": whole[: len(whole) // 2],
        }[how]
        digest = {"Content-Digest": manifest_field(submission.upload)}
        headers = digest | {"Content-Length": str(len(whole))} if how == "cut" else digest
        answer = self.inside.at(site).put(submission, number, data, headers)
        self.model.tick(self.now)
        assert 400 <= answer.status_code < 500, f"a damaged part was taken: {answer.status_code}"
        if (how, number) == ("long", PARTS - 1):  # a whole part, and behind it what is no manifest
            self.model.put_some(attempt, site, submission.upload, only(number), self.now)
        if answer.json()["reason"] == "residue-out-of-range" and submission.upload not in attempt.added.get(number, {}):
            attempt.added.pop(number, None)  # the running sum is spoilt, and begins anew

    @rule(
        fate=fates, site=sites, age=st.sampled_from([1, 1, 1, 0, 2]), found=st.sampled_from([OPENED] * 3 + [REJECTED])
    )
    def judge(self, fate, site, age, found) -> None:
        attempt = self.attempt(age)
        round_id = f"sim.{attempt.number}.{attempt.attempt}"
        record = self.inside.at(site).record(round_id)
        digest = read_ended(record.content).signed.digest if record.status_code == 200 else "00" * 32
        self.model.tick(self.now)

        def expect():
            expected = self.model.judge(attempt, site, found)
            self.seen[found] += expected == {201}
            return expected

        verdict = Verdict(RoundId.parse(round_id), digest, site, found)
        body = Signed.make(verdict, self.inside.members.identities[site].signing_key).encode()
        self.send(fate, site, "put_verdict", round_id, body, expect=expect)

    @rule(quarrel=st.booleans(), rejecting=sites)
    def dispute(self, quarrel, rejecting) -> None:
        """The operator gives up the newest sum, if that may be; before, one of its members may have rejected it."""
        if quarrel and len(self.model.attempts) > 1:
            self.judge("handled", rejecting, 1, REJECTED)
        store, conductor = self.inside.aggregator.store, self.inside.aggregator.conductor
        if self.model.dispute(self.now):
            operations.dispute(store, conductor, "sim")
            self.seen["given up"] += 1
        else:
            with pytest.raises(InputError):
                operations.dispute(store, conductor, "sim")

    @rule(who=st.lists(sites, min_size=2, max_size=4, unique=True), again=st.booleans())
    def spoilt_round(self, who, again) -> None:
        """What sites and operator do where a sum does not open; the members may try again at once."""
        self.whole_submissions(who, False, "handled", range(PARTS), True, "fold")
        self.judge("handled", who[-1], 1, OPENED)  # one is too few
        self.dispute(True, who[0])
        if again:
            members = sorted(self.model.newest.invited)
            self.whole_submissions(members, False, "handled", range(PARTS), True, "fold")

    @rule(site=sites, age=ages)
    def look_at_it(self, site, age) -> None:
        attempt = self.attempt(age)
        upload = attempt.uploads.get(site)
        if upload is None:
            return
        answer = self.inside.at(site).status(self.by_upload[upload])
        self.model.tick(self.now)
        assert answer.status_code == 200
        state, missing = answer.json()["state"], set(answer.json()["missing"])
        if attempt.phase == "open":
            assert state == ("complete" if site in attempt.complete else "open")
            assert missing == attempt.missing(site, PARTS), "a stored part was forgotten"
        else:
            if attempt.phase == "closed" and site in attempt.complete:
                assert missing == attempt.missing(site, PARTS), "a damaged part is not asked for"
            in_sum = site in attempt.complete and attempt.phase != "failed"
            assert state == ("complete" if in_sum else "excluded")

    @rule(site=sites)
    def where_are_we(self, site) -> None:
        answer = self.inside.at(site).current()
        self.model.tick(self.now)
        newest = self.model.newest
        if newest.phase == "open":
            assert answer["round_id"] == f"sim.{newest.number}.{newest.attempt}"
            assert answer["invited"] == sorted(newest.invited)
        else:
            assert (answer["stage"], answer["round_id"]) == ("ended" if self.model.end else "running", None)

    # time, background work, accidents

    @rule(
        seconds=st.sampled_from([1.0, 30.0, DEADLINE_S / 2, DEADLINE_S - 1.0, DEADLINE_S + 1.0, 86400.0, -1.0, -7200.0])
    )
    def time_passes(self, seconds) -> None:
        self.inside.clock.now += seconds

    @rule(dice=st.integers(0, 3), site=sites, order=st.permutations(range(PARTS)))
    def new_key(self, dice, site, order) -> None:
        """The coordinator begins the next epoch, now and then, when a site has just submitted."""
        if dice:
            return
        for number in order:
            self.put("handled", site, 0, 0, only(number))
        self.put("handled", site, 0, 0, range(PARTS, PARTS))
        bundle = deal(known("sim"), self.model.epoch + 1, plan_id=PLAN.plan_id)
        answer = self.inside.at(COORDINATOR).bring(f"epochs/{bundle.body.epoch}", bundle.encode())
        assert answer.status_code == 201, answer.text
        self.model.new_key(self.now)
        self.seen["new keys"] += 1

    @rule(dice=st.integers(0, 15))
    def end(self, dice) -> None:
        """The operator ends the federation, in some lives, and may do so again."""
        if not dice:
            self.stop()

    def stop(self) -> None:
        for _ in range(2):
            operations.end(self.inside.aggregator.store, self.inside.aggregator.conductor, "sim")
            if not self.model.ending:
                self.model.stop(self.now)
            self.model.tick(self.now)

    @rule()
    def background_pass(self) -> None:
        self.inside.look()
        self.model.look(self.now)

    @rule()
    def fold(self) -> None:
        newest = self.model.newest
        summed = any(newest.summed(number) for number in range(PARTS))
        self.seen["from memory"] += newest.phase == "closed" and summed
        self.seen["tried again"] += newest.phase == "closed" and newest.least == len(newest.invited) < len(SITES)
        self.inside.fold()
        self.model.fold(self.now)
        newest = self.model.newest
        self.seen["damage found"] += newest.damaged_at is not None

    @rule(order=st.permutations(range(PARTS)))
    def send_again(self, order) -> None:
        """Sites of a closed round look whether a part of theirs is wanted again, and send it."""
        newest = self.model.newest
        for site in sorted(newest.complete):
            for number in order:
                if number in newest.missing(site, PARTS):
                    self.put_of("handled", site, newest, self.by_upload[newest.uploads[site]], only(number))
                    self.seen["repaired"] += 1

    @rule(parts=st.integers(0, PARTS))
    def fold_a_little_and_die(self, parts) -> None:
        newest = self.model.newest
        if newest.phase == "closed" and newest.damaged_at is None and not newest.rotten:
            self.inside.fold_some(parts)
        self.restart()

    @rule()
    def restart(self) -> None:
        self.inside.close()
        self.inside.open()
        self.model.restart()

    @rule(site=sites, number=st.integers(0, PARTS - 1), how=st.sampled_from(["bit", "short", "gone"]))
    def rot(self, site, number, how) -> None:
        """A stored part changes on the disk, after its receipt."""
        newest = self.model.newest
        part_store, round_id = self.inside.aggregator.part_store, self.round_id()
        assert isinstance(part_store, DirectoryParts)
        known = number in newest.stored.get(site, ()) and (site, number) not in newest.rotten
        if (
            newest.phase not in ("open", "closed")
            or not known
            or part_store.path(PartKey(round_id, SUM, number)).exists()
        ):
            return
        path = part_store.path(PartKey(round_id, newest.uploads[site], number))
        data = path.read_bytes()
        if how == "gone":
            path.unlink()
        else:
            path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if how == "bit" else data[:1000])
        newest.rotten.add((site, number))

    def round_id(self):
        return RoundId("sim", self.model.newest.number, self.model.newest.attempt)

    # what must hold

    @invariant()
    def promises_are_kept(self) -> None:
        if hasattr(self, "audit"):
            self.audit.check()

    def settle(self) -> None:
        """At the end everything comes to rest, and each round is as the oracle says."""
        self.fold()
        self.seen["ended before"] += self.model.ending
        self.put("handled", "a", 0, 0, range(PARTS))  # that the end comes when a site has a receipt for the open round
        self.stop()
        self.restart()
        self.fold()
        self.background_pass()
        self.audit.check()
        peer = self.inside.at("a")
        for attempt in self.model.attempts if self.model.end else self.model.attempts[:-1]:
            round_id = f"sim.{attempt.number}.{attempt.attempt}"
            record = peer.record(round_id).json()["record"]["body"]
            outcome = "failed" if attempt.phase == "failed" else "published"
            assert (record["outcome"], record["epoch"]) == (outcome, attempt.epoch)
            self.seen[outcome] += 1
            self.seen.update(record["excluded"].values())
            if outcome == "published":
                assert record["members"] == {
                    site: self.by_upload[attempt.uploads[site]].id for site in attempt.complete
                }
            assert record["members"].keys() | record["excluded"].keys() == attempt.invited
        self.check_end()
        rests = [p for p in self.inside.settings.data_dir.glob("rounds/*/**/*.part") if p.parent.name != SUM]
        newest = self.model.newest
        held = self.model.kept()
        known = {sent for attempt in (*held, newest) for sent in attempt.uploads.values()}
        found = {p.parent.name for p in rests}
        assert found <= known, "an ended round was not scrubbed"
        evidence = {attempt.uploads[site] for attempt in held for site in attempt.complete}
        assert evidence <= found, "evidence is gone before anybody has opened the sum"

    def check_end(self) -> None:
        """The end is the last record, the same for every site; none while a closed attempt waits for damaged parts."""
        peers = [self.inside.at(site) for site in SITES]
        state = peers[0].current()
        if self.model.end is None:
            assert self.model.newest.damaged_at is not None
            assert state["stage"] == "running"
            return
        number, attempt = self.model.end
        ends = {peer.record_at(state["index"]).content for peer in peers}
        ends |= {read_ended(peer.record(f"sim.{number}.{attempt}").content).signed.encode() for peer in peers}
        (end,) = ends
        body = json.loads(end)["body"]
        assert (body["outcome"], body["reason"], body["members"]) == ("ended", "operator", {})
        assert (state["stage"], state["head"]) == ("ended", hashlib.sha256(end).hexdigest())
        assert peers[0].record_at(state["index"] + 1).status_code == 404
        self.seen["ends"] += 1


def run(examples: int, steps: int) -> None:
    seed = seed_of("simulation")
    assert len(PLAN.public.places) == PARTS
    # Shrinking a life takes minutes: it is done when somebody looks into a failure, by its seed.
    phases = [Phase.generate, *([Phase.shrink] if GIVEN and "CI" not in os.environ else [])]
    options = hypothesis.settings(
        hypothesis.settings.default,
        max_examples=examples,
        stateful_step_count=steps,
        suppress_health_check=list(hypothesis.HealthCheck),
        database=None,
        phases=phases,
    )
    Life.seen.clear()
    for more in range(4):  # which rules a life has is drawn as well: sometimes one is rare in all of them
        run_state_machine_as_test(hypothesis.seed(seed + more)(Life), settings=options)
        if all(Life.seen[what] for what in MUST_BE_SEEN):
            break
    print(dict(Life.seen))
    for what in MUST_BE_SEEN:
        assert Life.seen[what], f"no {what} in any life"


def test_random_lives():
    run(examples=30, steps=50)


@pytest.mark.slow
def test_many_random_lives():
    run(examples=2000, steps=100)
