"""Random lives of a federation whose keys are split, held against what must be true of it at any time.

Sites submit with their dealings or without, holders bring sharing keys, echo, answer and complain, at any time, twice,
or with an answer that is lost; the operator skips and ends; there are new group keys and rosters with other holders;
time jumps, and the aggregator looks, folds and is opened again. After every step:

* a number has one published record at most, and each of its attempts the same holders;
* nothing is open while a published sum is awaited; it is, until a threshold of answers is there or it was skipped;
* no answer came before a quorum of echoes, and all of it is about the one record; nothing that was said has changed;
* a complete submission has its dealing until its round failed, or has been settled for an hour.

Which status a single request gets is not foreseen here, but for 5xx: tests/service/http/test_holding.py says that.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import ClassVar

import hypothesis
from hypothesis import Phase as Stages
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from he_agg.documents.holding import Answer, Echo
from he_agg.documents.roster import Role, Roster
from he_agg.documents.signed import Signed
from he_agg.documents.state import FederationState
from he_agg.errors import InputError
from he_agg.ids import RoundId
from he_agg.sharing.shares import ANSWER_BYTES
from service.core.holder_lists import list_of
from service.core.roster_cache import roster_of
from service.domain.events import Phase
from service.operator import operations
from tests.support.holding import Held, deal_to, holders_of, put_dealing, put_sharing_key
from tests.support.peers import KEY_ID, adopt, deal, make_plan
from tests.support.seeds import seed_of
from tests.support.simulated import Clock, SimulatedFederation
from tests.support.trust import COORDINATOR, Consortium, identity_of

SITES, HOLDERS, NOTARY = "abc", "abct", "notary"
PLAN = make_plan("split", split=True, min_sites=3, rounds=50, deadline_s=600)
MEMORY = Path("/dev/shm")
MUST_BE_SEEN = ("published", "failed", "settled", "skipped", "burnt", "new keys", "waiting for keys", "ended", "late")

sites, holders = st.sampled_from(SITES), st.sampled_from([*HOLDERS, NOTARY])


class SplitLife(RuleBasedStateMachine):
    """One aggregator from its first round on."""

    seen: ClassVar[Counter[str]] = Counter()

    @initialize()
    def found(self) -> None:
        self.directory = Path(tempfile.mkdtemp(dir=MEMORY if MEMORY.is_dir() else None))
        self.inside = SimulatedFederation(
            self.directory / "data", PLAN, SITES, clock=Clock(1_800_000_000.5), holders=HOLDERS, sweep_s=1e-9
        )
        self.inside.members.identities[NOTARY] = identity_of(NOTARY)
        self.epoch, self.skipped = 1, set[str]()
        self.said: dict[tuple[str, str], bytes] = {}

    def teardown(self) -> None:
        if hasattr(self, "inside"):
            self.inside.end()
            shutil.rmtree(self.directory)

    def taken(self, answer) -> None:
        assert answer.status_code < 500, answer.text

    @property
    def state(self) -> FederationState:
        return Signed.parse(FederationState, self.inside.at("a").state().content).body

    def newest(self) -> str | None:
        with self.inside.aggregator.store.read() as tx:
            row = tx.newest_round("split")
        return None if row is None else str(row.id)

    def is_holder(self, name: str) -> bool:
        """Whether a member may speak: who is in no roster any more is told so, whatever it asks."""
        return name in self.inside.members.roster.body.having(Role.HOLDER)

    def key_id(self, epoch: int) -> str:
        return KEY_ID if epoch == 1 else f"{epoch:064x}"

    # what members do

    @rule(who=st.lists(holders, min_size=1, max_size=5, unique=True))
    def sharing_keys(self, who) -> None:
        for name in who:
            self.taken(put_sharing_key(self.inside.at(name), self.epoch))

    @rule(who=st.permutations(SITES), without=st.sampled_from(["", "", "", "", "a", "c"]), fold=st.booleans())
    def submit(self, who, without, fold) -> None:
        """All sites send what they have to; one may forget its dealing."""
        state = self.state
        if state.open is None:
            return
        listed = holders_of(self.inside.at("a"), str(state.round_id))
        for site in who:
            peer = self.inside.at(site)
            terms = {"epoch": listed.epoch, "key_id": self.key_id(listed.epoch)}
            dealt = deal_to(PLAN, listed, str(state.round_id), site, SITES.index(site), **terms)
            self.taken(peer.announce(str(state.round_id), dealt.prepared.manifest))
            if site != without:
                self.taken(put_dealing(peer, dealt.id, dealt.dealing.to_bytes()))
            self.taken(peer.put(dealt.id, 0, dealt.prepared.whole))
        if fold:
            self.inside.fold()

    @rule(who=st.lists(holders, min_size=1, max_size=5, unique=True), then=st.sampled_from(["", "answer", "answer"]))
    def speak(self, who, then) -> None:
        """Holders echo, and answer if they may; some of them again."""
        if (newest := self.newest()) is None:
            return
        held = [Held(self.inside.at(name), newest) for name in who if self.is_holder(name)]
        if self.inside.at("a").record(newest).status_code != 200:
            return
        for one in held:
            self.taken(one.echo())
        for one in held if then else ():
            self.taken(one.answer(bytes(ANSWER_BYTES)))

    @rule(then=st.sampled_from(["settled", "settled", "awaited", "new key", "skip", "late", "end", "burn"]))
    def whole_round(self, then) -> None:
        """What members do when nothing goes wrong, so that rounds come to their end."""
        self.sharing_keys(HOLDERS)
        if then == "burn":
            self.new_roster(0, NOTARY)
            self.new_roster(0, "t")
            return
        self.submit(SITES, "", True)
        if then in ("settled", "new key", "late"):
            self.speak(["a", "b", "c"], "answer")
        if then == "late":
            self.speak_late("t", "a")
        if then == "new key":
            self.new_key(0)
        if then == "skip":
            self.skip(0)
        if then == "end":
            self.end(0)

    @rule(name=holders, dealer=sites)
    def speak_late(self, name, dealer) -> None:
        """A holder answers for a sum that is settled, and complains of it."""
        with self.inside.aggregator.store.read() as tx:
            last = tx.last_published("split")
        if last is not None and self.is_holder(name):
            held = Held(self.inside.at(name), str(last))
            before = len(self.documents(str(last), "answers"))
            for answer in (held.echo(), held.answer(bytes(ANSWER_BYTES)), held.complain(dealer), held.get("shares")):
                self.taken(answer)
            self.seen["late"] += len(self.documents(str(last), "answers")) > before and self.state.awaited != last

    # what coordinators and the operator do

    @rule(dice=st.integers(0, 2))
    def new_key(self, dice) -> None:
        if dice or self.state.stage == "ended" or not self.said:
            return
        bundle = deal(self.inside.members, self.epoch + 1, plan_id=PLAN.plan_id)
        answer = self.inside.at(COORDINATOR).bring(f"epochs/{self.epoch + 1}", bundle.encode())
        assert answer.status_code == 201, answer.text
        self.epoch += 1
        self.seen["new keys"] += 1

    @rule(dice=st.integers(0, 2), which=st.sampled_from(["t", NOTARY]))
    def new_roster(self, dice, which) -> None:
        """Another holder, or one less; never less than four."""
        members = dict(self.inside.members.roster.body.members)
        if dice or (which in members and sum(Role.HOLDER in one.roles for one in members.values()) == 4):
            return
        if members.pop(which, None) is None:
            members[which] = identity_of(which).member([Role.HOLDER])
        following = self.inside.members.next_roster(members)
        answer = self.inside.at(COORDINATOR).bring(f"rosters/{following.body.version}", following.encode())
        assert answer.status_code == 201, answer.text
        self.inside.members = Consortium("split", self.inside.members.identities, following)
        adopt(self.inside.members)

    @rule(dice=st.integers(0, 3))
    def skip(self, dice) -> None:
        awaited, aggregator = self.state.awaited, self.inside.aggregator
        if dice and awaited is not None:
            return
        try:
            operations.skip(aggregator.store, aggregator.conductor, "split")
        except InputError:
            assert awaited is None
            return
        self.skipped.add(str(awaited))
        self.seen["skipped"] += 1

    @rule(dice=st.integers(0, 5))
    def end(self, dice) -> None:
        if not dice and len(self.said) > 2:
            operations.end(self.inside.aggregator.store, self.inside.aggregator.conductor, "split")

    @rule(seconds=st.sampled_from([1.0, 601.0, 3700.0]), fold=st.booleans())
    def time_passes(self, seconds, fold) -> None:
        self.inside.clock.now += seconds
        (self.inside.fold if fold else self.inside.look)()

    @rule()
    def restart(self) -> None:
        self.inside.close()
        self.inside.open()

    # what must be true

    def documents(self, round_id: str, what: str) -> list[bytes]:
        with self.inside.aggregator.store.read() as tx:
            found: list[bytes] = getattr(tx, what)(RoundId.parse(round_id))
        return found

    @invariant()
    def all_of_it_holds(self) -> None:
        if not hasattr(self, "inside"):
            return
        state = self.state
        now = self.inside.clock.now
        with self.inside.aggregator.store.read() as tx:
            rows = [*tx.recent_rounds("split", 10**6), *tx.rounds_in([Phase.OPEN, Phase.CLOSED, Phase.FOLDING])]
            published = [row for row in rows if row.phase is Phase.PUBLISHED]
            assert len({row.id.number for row in published}) == len(published), "two sums of a number"
            pinned: dict[int, Roster] = {}
            for row in rows:
                roster = roster_of(tx, "split", row.basis.roster_version).body
                first = pinned.setdefault(row.id.number, roster)
                assert roster.has_holders_of(first), "attempts at one number under two lists"
            waiting = [row.id for row in published if row.is_awaited]
            assert ([state.awaited] if state.awaited else []) == waiting
            assert not (waiting and state.open), "a round is open while another is awaited"
            for row in published:
                self.check_said(tx, row)
            for row in rows:
                gone = row.phase is Phase.FAILED or (row.settled_at is not None and row.settled_at < now - 3600)
                complete = [sent for sent in tx.submissions(row.id) if sent.accepted_at is not None]
                assert gone or all(tx.has_dealing(sent.id) for sent in complete), "a dealing is missing"
            numbers, summed = {row.id.number for row in rows}, {row.id.number for row in published}
            self.seen["burnt"] += bool({number for number in numbers - summed if number + 1 in numbers})
        self.seen["published"] += bool(published)
        self.seen["failed"] += any(row.phase is Phase.FAILED for row in rows)
        rests = not rows or not any(row.phase in (Phase.OPEN, Phase.CLOSED, Phase.FOLDING) for row in rows)
        self.seen["waiting for keys"] += state.stage == "running" and rests and not waiting and self.epoch > 1
        self.seen["ended"] += state.stage == "ended" and bool(published)

    def check_said(self, tx, row) -> None:
        listed = list_of(tx, row)
        echoes: list[Echo] = [Signed.parse(Echo, data).body for data in tx.echoes(row.id)]
        answers: list[Answer] = [Signed.parse(Answer, data).body for data in tx.answers(row.id)]
        for one in (*echoes, *answers):
            assert isinstance(one, Echo | Answer)
            assert (one.record, one.holder in listed.names) == (row.record_digest, True)
        assert not answers or len(echoes) >= listed.thresholds.quorum, "an answer before a quorum of echoes"
        enough = len(answers) >= listed.thresholds.threshold
        assert row.is_awaited == (not enough and str(row.id) not in self.skipped)
        self.seen["settled"] += enough
        for what in ("echo", "answer"):
            for holder in listed.names:
                if (data := getattr(tx, what)(row.id, holder)) is not None:
                    assert self.said.setdefault((f"{row.id} {what}", holder), data) == data, "what was said has changed"


def test_random_lives_of_a_split_federation():
    seed = seed_of("split simulation")
    options = hypothesis.settings(
        hypothesis.settings.default,
        max_examples=8,
        stateful_step_count=30,
        suppress_health_check=list(hypothesis.HealthCheck),
        database=None,
        deadline=None,
        phases=[Stages.generate],
    )
    run_state_machine_as_test(hypothesis.seed(seed)(SplitLife), settings=options)


def test_a_life_in_which_all_of_it_happens():
    """So that what random lives are held against is known to happen at all."""
    SplitLife.seen.clear()
    life = SplitLife()
    life.found()
    try:
        for then in ("settled", "late", "skip", "new key", "burn", "awaited", "settled", "end"):
            life.whole_round(then)
            life.all_of_it_holds()
        life.speak(["a", "b", "c"], "answer")
        life.all_of_it_holds()
    finally:
        life.teardown()
    assert {what for what in MUST_BE_SEEN if not SplitLife.seen[what]} == set()
