"""Random lives of a federation that splits its keys: holders come and go, are late, or never answer.

Sites submit with their dealings and stop half-way, holders bring sharing keys, echo and answer in any order; each
request may be lost before it is handled, or its answer afterwards, or come twice. In between time jumps, the aggregator
is closed and opened again, coordinators begin another epoch and change the list of holders, the operator skips a sum
whose holders do not answer. Every life comes to an end, which is a record.

What must hold after every step, beside the invariants of `audit.py`:

* nothing opens, and the federation does not end, before the newest sum is settled: by enough answers, or skipped;
* a number has one record that holders have echoed or answered, and one list of holders in all its attempts;
* a number whose list has changed after a failure is left: the next attempt is the first one of the next number;
* a round has opened with so many sharing keys that it can be settled; answers come after a quorum of echoes;
* what a holder has said stays as it is; dealings are there until an hour after their round was settled;
* the answers give the sum of the keys that its members dealt, exactly; and the auditor finds nothing.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import shutil
import sqlite3
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import hypothesis
import numpy as np
import pytest
from hypothesis import Phase
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from he_agg.audit import audit
from he_agg.documents.holding import Answer, Complaint, Echo
from he_agg.documents.record import RoundRecord
from he_agg.documents.roster import Role, Roster
from he_agg.documents.signed import Signed
from he_agg.documents.state import FederationState
from he_agg.errors import InputError
from he_agg.ids import RoundId
from he_agg.sharing.decoding import rebuild
from he_agg.sharing.masks import total_mask, unmasked
from he_agg.sharing.shares import ANSWER_BYTES, read_answer
from service.operator import operations
from tests.faults.audit import Audit
from tests.sharing.dealt import MASK_KEY
from tests.support.holding import Dealt, Held, deal_to, holders_of, put_dealing, put_sharing_key
from tests.support.peers import KEY_ID, adopt, deal, known, make_plan
from tests.support.seeds import GIVEN, seed_of
from tests.support.simulated import Clock, SimulatedFederation
from tests.support.trust import AUDITOR, COORDINATOR, identity_of

SITES = "abcd"
LISTS = ("abct", "abctu", "abt", "abcd")
"""Who may hold; t and u are trustees."""
DEADLINE_S = 600
MEMORY = Path("/dev/shm")
PLAN = make_plan("split", split=True, min_sites=3, rounds=10**6, deadline_s=DEADLINE_S)

fates = st.sampled_from(["handled", "handled", "handled", "lost before", "lost after", "twice"])
MUST_BE_SEEN = (
    "published",
    "failed",
    "burnt",
    "settled",
    "exact",
    "skipped",
    "keys",
    "new keys",
    "new lists",
    "ends",
    "late",
)


class Life(RuleBasedStateMachine):
    """One aggregator from its foundation on."""

    seen: ClassVar[Counter[str]] = Counter()

    @initialize(at_first=st.sampled_from(LISTS[:3]))
    def found(self, at_first) -> None:
        self.directory = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        data_dir = self.directory / "data"
        self.inside = SimulatedFederation(
            data_dir, PLAN, SITES, clock=Clock(1_800_000_000.5), holders=at_first, sweep_s=1e-9, keep_sums=10**6
        )
        for name in "tu":
            self.inside.members.identities[name] = identity_of(name)
        self.audit = Audit(data_dir, PLAN)
        self.dealt: dict[tuple[str, str], Dealt] = {}
        self.checked: set[str] = set()
        self.promised: dict[tuple[str, int], str] = {}
        self.burnt: set[str] = set()
        self.said: dict[tuple[str, ...], bytes] = {}
        self.holders, self.epoch = at_first, 1

    def teardown(self) -> None:
        if not hasattr(self, "inside"):
            return
        try:
            self.settle()
        finally:
            self.inside.end()
            shutil.rmtree(self.directory)

    def state(self) -> FederationState:
        return Signed.parse(FederationState, self.inside.at("a").state().content).body

    def send(self, fate: str, request) -> bool:
        """Whether whoever sent it has heard that it was taken."""
        if fate == "lost before":
            return False
        for _ in range(2 if fate == "twice" else 1):
            answer = request()
            assert answer.status_code < 500, answer.text
        return answer.status_code in (200, 201, 204) and fate != "lost after"

    # what sites and holders do

    @rule(fate=fates, who=st.sampled_from(["a", "ab", "bc", "abc", "abct", "abctu", "abcdtu"]))
    def bring_sharing_keys(self, fate, who) -> None:
        for name in set(who) & set(self.holders):
            self.seen["keys"] += self.send(fate, lambda name=name: put_sharing_key(self.inside.at(name), self.epoch))

    @rule(fate=fates, who=st.sampled_from(["ab", "abc", "abd", "abcd", "abcd", "abcd"]), stops=st.integers(0, 12))
    def submit(self, fate, who, stops) -> None:
        """Sites submit to what is open; one of them may stop half-way, or forget its dealing."""
        state = self.state()
        if state.open is None:
            return
        round_id = str(state.round_id)
        for site in who:
            peer, dealt = self.inside.at(site), self.dealing_of(round_id, site)
            steps = [
                lambda p=peer, d=dealt: p.put(d.prepared, 0, d.prepared.parts[0]),
                lambda p=peer, d=dealt: put_dealing(p, d),
                lambda p=peer, d=dealt: p.submit(d.prepared),
            ]
            if site == who[-1] and stops == 4:
                del steps[1]
            for step in steps[: stops if site == who[-1] else 3]:
                if not self.send(fate, step):
                    break

    @rule(
        who=st.sampled_from(["abc", "acd", "abcd", "abcd"]),
        away=st.sampled_from(["", "", "a", "t", "ab"]),
        then=st.sampled_from(["skip", "skip", "begin epoch", "holders", "burn", "burn", "complaint"]),
        names=st.sampled_from(LISTS),
    )
    def whole_round(self, who, away, then, names) -> None:
        """What happens when nothing goes wrong, so that sums are settled; some holders may be away."""
        self.bring_sharing_keys("handled", "abcdtu")
        if then == "burn":
            self.change_holders(0, names, True)
            self.bring_sharing_keys("handled", "abcdtu")
        self.submit("handled", who, 12)
        if len(who) < len(SITES):
            self.time_passes(DEADLINE_S + 1.0)
        if then == "holders":
            self.change_holders(0, names, False)
        self.inside.fold()
        there = [name for name in "utabcd" if name not in away]
        self.hold("handled", there, len(there), 0, "both")
        if then == "complaint":
            self.complain("a", "b")
        if then == "skip":
            self.skip()
            self.hold("handled", "abctud", 6, 0, "both")
        if then == "begin epoch":
            self.begin_epoch(0)

    def dealing_of(self, round_id: str, site: str) -> Dealt:
        """What a site submits to an attempt; signed anew when there is another roster."""
        listed = holders_of(self.inside.at(site), round_id)
        number, size = RoundId.parse(round_id), sum(place.residues for place in PLAN.public.places)
        hot = (SITES.index(site) * size // len(SITES) + 97 * number.number + number.attempt) % size
        key_id = KEY_ID if listed.epoch == 1 else f"{listed.epoch:064x}"
        seed = 1000 * number.number + 10 * number.attempt + SITES.index(site)
        made = deal_to(PLAN, listed, round_id, site, seed, one_hot=hot, key_id=key_id)
        self.dealt[made.id, site] = made
        self.audit.sent[made.id] = made.prepared
        return made

    @rule(
        fate=fates,
        who=st.permutations("abctud"),
        many=st.integers(1, 6),
        back=st.sampled_from([0, 0, 0, 1, 2]),
        what=st.sampled_from(["echo", "answer", "both", "both", "both"]),
    )
    def hold(self, fate, who, many, back, what) -> None:
        """Holders see the newest sum, or an older one, and say what they say, in some order; some are away."""
        published = self.rows("SELECT id FROM rounds WHERE phase = 'published' ORDER BY chain_index DESC")
        if len(published) <= back:
            return
        round_id = published[back][0]
        names = holders_of(self.inside.at("a"), round_id).names
        there = [name for name in who[:many] if name in names and name in {*SITES, *self.holders}]
        held = {name: Held(self.inside.at(name), round_id) for name in there}
        number = RoundId.parse(round_id).number
        for name, one in held.items():
            assert self.promised.setdefault((name, number), one.record.digest) == one.record.digest, "a second record"
        for name in there if what != "answer" else ():
            self.send(fate, held[name].echo)
        for name in there if what != "echo" else ():
            if name not in holders_of(held[name].peer, round_id).keys:
                assert held[name].answer(bytes(ANSWER_BYTES)).status_code == 403, "an answer without a share was taken"
                continue
            if held[name].get("shares").status_code != 200:
                continue  # the dealings are gone
            settled = self.inside.row(round_id).settled_at is not None
            self.seen["late"] += self.send(fate, held[name].answer) and settled
        settled = self.inside.row(round_id).settled_at is not None
        answered = self.rows("SELECT count(*) FROM answers WHERE round_id = ?", round_id)[0][0]
        least = holders_of(self.inside.at("a"), round_id).thresholds.threshold
        assert settled or answered < least, "enough have answered, and it is not settled"
        self.seen["settled"] += settled and answered >= least

    @rule(name=st.sampled_from("abct"), dealer=st.sampled_from([*SITES, "t"]))
    def complain(self, name, dealer) -> None:
        published = self.rows("SELECT id FROM rounds WHERE phase = 'published' ORDER BY chain_index DESC")
        if published and name in {*SITES, *self.holders}:
            one = Held(self.inside.at(name), published[0][0])
            self.seen["complaints"] += self.send("twice", lambda: one.complain(dealer))

    # what coordinators and the operator do, and what happens

    @rule(dice=st.integers(0, 3))
    def begin_epoch(self, dice) -> None:
        if dice or self.state().stage == "ended":
            return
        bundle = deal(known("split"), self.epoch + 1, plan_id=PLAN.plan_id)
        assert self.inside.at(COORDINATOR).bring(f"epochs/{self.epoch + 1}", bundle.encode()).status_code == 201
        self.epoch += 1
        self.seen["new keys"] += 1

    @rule(dice=st.integers(0, 2), names=st.sampled_from(LISTS), then_fail=st.booleans())
    def change_holders(self, dice, names, then_fail) -> None:
        """A new version of the roster, with other holders or the same ones; the open attempt may fail after it."""
        if dice or self.state().stage == "ended":
            return
        people = known("split")
        members = {name: m for name, m in people.roster.body.members.items() if name not in "tu"}
        for name in SITES + names:
            roles = {Role.SITE} if name in SITES else set()
            members[name] = identity_of(name).member([*roles, *([Role.HOLDER] if name in names else [])])
        following = people.next_roster(members)
        answer = self.inside.at(COORDINATOR).bring(f"rosters/{following.body.version}", following.encode())
        assert answer.status_code == 201, answer.text
        adopt(replace(people, roster=following))
        self.seen["new lists"] += set(names) != set(self.holders)
        self.holders = names
        if then_fail:
            self.inside.clock.now += DEADLINE_S + 1.0
            self.inside.look()

    @rule()
    def skip(self) -> None:
        store, conductor = self.inside.aggregator.store, self.inside.aggregator.conductor
        if self.state().awaited is None:
            with pytest.raises(InputError):
                operations.skip(store, conductor, "split")
        else:
            operations.skip(store, conductor, "split")
            self.seen["skipped"] += 1

    @rule(seconds=st.sampled_from([1.0, 60.0, DEADLINE_S + 1.0, 4000.0, -60.0]))
    def time_passes(self, seconds) -> None:
        self.inside.clock.now += seconds
        self.inside.look()

    @rule()
    def fold(self) -> None:
        self.inside.fold()

    @rule(dice=st.booleans())
    def restart(self, dice) -> None:
        if dice:
            self.inside.close()
            self.inside.open()

    @rule(dice=st.integers(0, 20))
    def stop(self, dice) -> None:
        if not dice:
            operations.end(self.inside.aggregator.store, self.inside.aggregator.conductor, "split")

    # what must hold

    def rows(self, query: str, *arguments: Any) -> list[tuple]:
        path = self.inside.settings.data_dir / "aggregator.sqlite3"
        with contextlib.closing(sqlite3.connect(path)) as db:
            return db.execute(query, arguments).fetchall()

    @invariant()
    def promises_are_kept(self) -> None:
        if not hasattr(self, "audit"):
            return
        self.audit.check()
        rounds = self.rows("SELECT id, phase, record, settled_at, roster_version, holder_list FROM rounds")
        rounds.sort(key=lambda row: (RoundId.parse(row[0]).number, RoundId.parse(row[0]).attempt))
        rosters = {v: Signed.parse(Roster, d).body for v, d in self.rows("SELECT version, document FROM rosters")}
        for before, after in itertools.pairwise(rounds):
            (was, phase, _, settled_at, version, _), of_same = before, RoundId.parse(before[0]).number
            now = RoundId.parse(after[0])
            if phase == "published":
                assert settled_at is not None, f"{after[0]} has begun, and the sum of {was} is not settled"
                assert (now.number, now.attempt) == (of_same + 1, 1)
                continue
            assert phase == "failed"
            same = rosters[version].has_holders_of(rosters[after[4]])
            if after[1] != "ended":
                assert same == (now.number == of_same), "a number has two lists of holders, or was left for nothing"
                self.burnt |= set() if same else {was}
        for round_id, phase, _, settled_at, version, listed in rounds:
            if phase != "ended":
                least = rosters[version].holders.quorum
                assert len(json.loads(listed)["keys"]) >= least, "a round has opened that cannot be settled"
                echoed = self.rows("SELECT count(*) FROM echoes WHERE round_id = ?", round_id)[0][0]
                answered = self.rows("SELECT count(*) FROM answers WHERE round_id = ?", round_id)[0][0]
                assert not answered or echoed >= least, "an answer came before a quorum of echoes"
            if phase in ("closed", "folding") or (
                phase == "published" and (settled_at is None or settled_at > self.inside.clock.now - 3600)
            ):
                assert not self.rows(
                    "SELECT id FROM submissions WHERE round_id = ? AND accepted_at IS NOT NULL"
                    " AND id NOT IN (SELECT submission_id FROM dealings)",
                    round_id,
                ), "a dealing is missing"
        self.check_said()

    def check_said(self) -> None:
        """Nothing that was said has changed or gone, and all of it is of one record of each number."""
        now: dict[tuple[str, ...], bytes] = {}
        for table in ("echoes", "answers", "complaints"):
            kind: Any = {"echoes": Echo, "answers": Answer, "complaints": Complaint}[table]
            records: dict[int, set[str]] = {}
            for round_id, holder, data in self.rows(f"SELECT round_id, holder, document FROM {table}"):
                body = Signed.parse(kind, data).body
                assert (str(body.round_id), body.holder) == (round_id, holder)
                records.setdefault(body.round_id.number, set()).add(body.record)
                now[table, round_id, holder, getattr(body, "dealer", "")] = data
            assert all(len(each) == 1 for each in records.values()), "two records of a number are certified"
        assert now.items() >= self.said.items(), "what was said has changed"
        self.said = now

    def check_keys(self, round_id: str) -> None:
        """The answers to a settled round give the sum of what its members dealt."""
        answers = self.rows("SELECT document FROM answers WHERE round_id = ?", round_id)
        held = Held(self.inside.at("a"), round_id)
        listed = holders_of(held.peer, round_id)
        if len(answers) < listed.thresholds.threshold:
            return
        bodies = [Signed.parse(Answer, data).body for (data,) in answers]
        rows = {listed.holders.index(body.holder): read_answer(body.shares) for body in bodies}
        members = {site: self.dealt[sent, site] for site, sent in held.record.body.members.items()}
        masks = total_mask(MASK_KEY, held.contexts())
        rebuilt = rebuild(
            rows, listed.thresholds.threshold, lambda total: unmasked(total, masks, len(members)) is not None
        )
        total = unmasked(rebuilt.total, masks, len(members))
        assert total is not None
        assert np.array_equal(total, np.sum([d.key for d in members.values()], axis=0, dtype=np.int32))
        self.seen["exact"] += 1

    def settle(self) -> None:
        """At the end everything comes to rest, each sum of keys is exact, and the auditor finds nothing."""
        self.inside.fold()
        operations.end(self.inside.aggregator.store, self.inside.aggregator.conductor, "split")
        self.inside.fold()
        state = self.state()
        assert state.stage == "ended" or state.awaited is not None, "it has not ended, and nothing is awaited"
        if state.awaited is not None:
            operations.skip(self.inside.aggregator.store, self.inside.aggregator.conductor, "split")
            assert self.state().stage == "ended"
        self.inside.close()
        self.inside.open()
        self.promises_are_kept()
        rounds = self.rows("SELECT id, record FROM rounds WHERE record IS NOT NULL")
        for round_id, record in rounds:
            outcome = Signed.parse(RoundRecord, record).body.outcome
            self.seen[outcome] += 1
            if outcome == "published":
                self.check_keys(round_id)
        self.seen["ends"] += 1
        self.seen["burnt"] += len(self.burnt)
        found = audit(io.BytesIO(self.inside.at(AUDITOR).document("transcript").content))
        assert found.ok, found.findings
        assert len(found.rounds) == len(rounds)


def run(examples: int, steps: int) -> None:
    seed = seed_of("split simulation")
    options = hypothesis.settings(
        hypothesis.settings.default,
        max_examples=examples,
        stateful_step_count=steps,
        suppress_health_check=list(hypothesis.HealthCheck),
        database=None,
        phases=[Phase.generate, *([Phase.shrink] if GIVEN and "CI" not in os.environ else [])],
    )
    run_state_machine_as_test(hypothesis.seed(seed)(Life), settings=options)


def test_a_life_in_which_all_of_it_happens():
    """So that what random lives are held against is known to happen at all."""
    Life.seen.clear()
    life = Life()
    life.found("abct")
    try:
        for who, away, then, names in (
            ("abcd", "", "nothing", ""),
            ("abcd", "t", "begin epoch", ""),
            ("acd", "", "holders", "abctu"),
            ("abcd", "ab", "skip", ""),
            ("abcd", "", "burn", "abt"),
            ("abcd", "", "complaint", ""),
        ):
            life.whole_round(who, away, then, names)
            life.promises_are_kept()
    finally:
        life.teardown()
    print(dict(Life.seen))
    assert {what for what in MUST_BE_SEEN if not Life.seen[what]} == set()


def test_random_lives_of_holders():
    run(examples=8, steps=20)


@pytest.mark.slow
def test_many_random_lives_of_holders():
    run(examples=200, steps=60)
