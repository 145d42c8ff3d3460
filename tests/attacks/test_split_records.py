"""An aggregator that shows holders different records of one number, and sites different histories.

Real flows of real holders and sites, with their journals on disk, against an aggregator in memory that says what it
likes and signs it. That without echoes it reads keys so, tests/sharing/test_mixing.py computes.
"""

from __future__ import annotations

from itertools import combinations, product

import pytest

from client_sdk._protocol import verbs
from he_agg.documents.holding import Echo
from he_agg.documents.signed import Signed
from he_agg.errors import InputError, ProtocolError, Reason
from he_agg.ids import RoundId
from he_agg.sharing.thresholds import Thresholds
from tests.support.flows import KilledError, World, problem, security_log, update_of
from tests.support.holders import HOLDERS, SITES, HeldFederation, HolderWorld, begin, holder_in, look
from tests.support.holders import split_plan as held_plan
from tests.support.split import SplitAggregator, session_of, split_plan, split_roster
from tests.support.trust import identity_of

PLAN, HELD = split_plan(), held_plan()
FIRST, AGAIN, NEXT = RoundId("test", 1, 1), RoundId("test", 1, 2), RoundId("test", 2, 1)
MANY = 100  # sites, so that they are no limit
NUMBERS = Thresholds.choose(len(HOLDERS))
FAILED = {"outcome": "failed", "members": {}, "excluded": dict.fromkeys(SITES, "too-few-sites"), "sum_digests": ()}


class Views:
    """Two histories of one federation, of which the aggregator shows each holder one, or one after the other.

    Attributes:
        kept: the histories: in the first, all is as the sites have it; in the second, number 1 has another record.
    """

    def __init__(self, root, rng, other, corrupt):
        self.root, self.corrupt = root, corrupt
        first, second = HeldFederation(HELD), HeldFederation(HELD)
        self.sessions = begin(first, root, without=corrupt)
        # The corrupt holder has a sharing key as well: the list is one and the same.
        look(holder_in(root / "corrupt", HELD, corrupt), first)
        second.sharing = dict(first.sharing)
        for history in (first, second):
            if history is second and other == "attempt":
                history.publish(**FAILED)
                history.open(AGAIN)
            for site in SITES:
                history.deal(rng, site)
            history.publish()
        self.kept = (first, second)
        for history in self.kept:
            self._corrupt_echo(history)

    def _corrupt_echo(self, history):
        """Have the corrupt holder say that it has seen this record, whatever it has said of others."""
        echo = Echo(history.round_id, history.record.digest, self.corrupt)
        path = f"rounds/{history.round_id}/echoes/{self.corrupt}"
        history.said[path] = Signed.make(echo, identity_of(self.corrupt).signing_key).encode()

    def show(self, holder, which):
        return look(self.sessions[holder], self.kept[which])

    def forget_records(self, holder):
        """Have a holder forget which records it has seen: what it has promised is in its journal alone."""
        self.sessions[holder].spool.chain_path("test").unlink()
        self.sessions[holder] = holder_in(self.root, HELD, holder)

    def answered(self):
        """Which holders have answered which of the two records."""
        return [set(history.of("answers")) for history in self.kept]


@pytest.mark.parametrize("division", list(product((0, 1), repeat=3)))
def test_a_failed_attempt_for_some_holders_gives_no_second_set(tmp_path, rng, division):
    """Some are shown that an attempt was published, the others that it failed and the next one was.

    Each is shown the other history, too, with its journal alone to go by. One holder lies, and has seen both.
    """
    views = Views(tmp_path, rng, "attempt", "c")
    shown = dict(zip(("a", "b", "trustee"), division, strict=True))
    for holder, which in [*shown.items(), *shown.items()]:  # twice: the first has to see the last one's echo
        views.show(holder, which)
    for holder, which in shown.items():
        with pytest.raises(ProtocolError):
            views.show(holder, 1 - which)
        views.forget_records(holder)
        views.show(holder, 1 - which)
    answered = views.answered()
    for which in (0, 1):
        enough = division.count(which) + 1 >= NUMBERS.quorum
        assert answered[which] <= {holder for holder, at in shown.items() if at == which}
        assert len(answered[which]) == (NUMBERS.threshold if enough else 0)  # then it is settled
    assert not (answered[0] and answered[1])


@pytest.mark.parametrize("other", ["set", "attempt"])
def test_a_holder_that_is_killed_between_journal_and_echo_answers_no_other_record(tmp_path, rng, other):
    """What it has promised is in its journal alone: nobody has heard of it."""
    views = Views(tmp_path, rng, other, "trustee")
    first, second = views.kept

    def killed(request, body):
        if request.method == "PUT" and "/echoes/" in request.path:
            raise KilledError

    with pytest.raises(KilledError):
        look(views.sessions["a"], first, HolderWorld(first, killed, site="a"))
    assert "a" not in first.of("echoes")
    views.forget_records("a")
    for holder in "bca":
        views.show(holder, 1)
    assert "a" not in second.of("echoes") | second.of("answers")
    (refused,) = [line for line in security_log(views.sessions["a"]) if line["event"] == "not-answered"]
    assert "answers once" in refused["what"]
    views.forget_records("a")
    assert views.show("a", 0)
    assert sorted(first.of("echoes")) == ["a", "trustee"]


@pytest.mark.parametrize("other", ["set", "attempt"])
def test_a_holder_answers_in_no_history_without_the_record_that_it_has_promised(tmp_path, rng, other):
    """Nor for a later number: the same updates may be in both, and a holder of both would open the way to two sums."""
    views = Views(tmp_path, rng, other, "trustee")
    second = views.kept[1]
    for holder in "ab":
        views.show(holder, 0)
    second.open(NEXT)
    for site in SITES:
        second.deal(rng, site)
    second.publish()
    views.forget_records("a")
    assert not views.show("a", 1)
    assert not second.of("echoes")
    assert views.sessions["a"].promises.newest == 1
    (refused,) = [line for line in security_log(views.sessions["a"]) if line["event"] == "not-answered"]
    assert "promised" in refused["what"]
    views.forget_records("a")  # with the history that it knows it goes on
    first = views.kept[0]
    first.open(NEXT)
    for site in SITES:
        first.deal(rng, site)
    first.publish()
    assert views.show("a", 0)
    assert sorted(first.of("echoes")) == ["a"]


# Sums of the same updates over different sets: what no threshold of holders stops.

REPLACED = ("a", "c", "trustee", "uncle")


@pytest.mark.parametrize("told", ["failed", "published without it"])
def test_an_update_goes_to_no_other_holders_under_a_later_number(tmp_path, told):
    """Holders who have been replaced may have answered for it; the new ones cannot know.

    Number 1 is published with this site to the old holders, and they answer. This site, and the holders that are new,
    are told another history, in which it was left out. It would send the same update again, now dealt to the new
    holders, of whom a quorum knows that history alone; and the two sums differ by one update.
    """
    aggregator = SplitAggregator(PLAN)
    session = session_of(tmp_path, PLAN)
    leave_out(session, aggregator, tmp_path, told)
    aggregator.rosters.append(split_roster(REPLACED, version=2))
    aggregator.open(NEXT)
    for again in (session, session_of(tmp_path, PLAN)):
        world = World(aggregator)
        with pytest.raises(InputError, match="to other holders") as caught:
            world.run(verbs.submit(again, aggregator.opened, update_of()))
        assert caught.value.reason == Reason.REPEATED_UPDATE
        assert world.paths("PUT") == []
    World(aggregator).run(verbs.submit(session, aggregator.opened, update_of(may_repeat=True)))
    assert list(aggregator.complete) == ["a"]


@pytest.mark.parametrize("holders", [HOLDERS, HOLDERS[:3], (*HOLDERS, "uncle")], ids=["same", "one less", "one more"])
def test_an_update_that_was_left_out_may_go_to_nearly_the_same_holders(tmp_path, holders):
    """A quorum of the one and of the other have an honest holder in common, who has one history."""
    aggregator = SplitAggregator(PLAN)
    session = session_of(tmp_path, PLAN)
    leave_out(session, aggregator, tmp_path, "published without it")
    aggregator.rosters.append(split_roster(holders, version=2))
    aggregator.open(NEXT)
    World(aggregator).run(verbs.submit(session, aggregator.opened, update_of()))
    assert list(aggregator.complete) == ["a"]


def test_which_lists_have_an_honest_holder_in_common():
    """Counted: all quorums of all lists of three to five out of six."""
    lists = [names for size in (3, 4, 5) for names in combinations(["a", "b", "c", "d", "e", "f"], size)]
    rosters = {names: split_roster(names).body for names in lists}
    first = {size: lists[[len(names) for names in lists].index(size)] for size in (3, 4, 5)}
    for one, other in product(first.values(), lists):
        numbers = [Thresholds.choose(len(names)) for names in (one, other)]
        quorums = [combinations(names, of.quorum) for names, of in zip((one, other), numbers, strict=True)]
        fewest = min(len(set(these) & set(those)) for these, those in product(*quorums))
        corrupt = min(of.claim(MANY) for of in numbers)
        assert rosters[one].quorums_meet(rosters[other]) == (fewest > corrupt), (one, other)


def leave_out(session, aggregator, root, told):
    """Take all of a site's submission, give it no receipt, and tell it that the submission is in no sum."""

    def withheld(request, body):
        sent = request.method == "PUT" and not request.path.endswith("/dealing")
        return problem(409, "round-closed") if sent else None

    with pytest.raises(ProtocolError):
        World(aggregator, withheld).run(verbs.submit(session, aggregator.opened, update_of()))
    if told == "failed":
        aggregator.fail()
    else:
        aggregator.others_deal(root / "others")
        aggregator.close()
    assert "a" not in aggregator.complete
