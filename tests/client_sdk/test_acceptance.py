"""Every step of the acceptance against an aggregator that lies in it, and the honest round beside each.

Whatever the lie: the caller gets the same error, word for word; the security log has one line that says which step it
was; nothing was decrypted unless the step comes after that; the downloaded parts are gone; the submission is not.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import os
import re
import stat
import weakref
from typing import Any

import numpy as np
import pytest

from client_sdk._effects import Request, Response
from client_sdk._net.transport import AsyncTransport, Transport
from client_sdk._protocol import verbs as _flows
from he_agg import dequantize, quantize
from he_agg.codecs.ckks import CkksOpening
from he_agg.documents.draw import draw
from he_agg.documents.record import NO_RECORD
from he_agg.documents.roster import Role
from he_agg.documents.signed import Signed
from he_agg.errors import DecryptionError, ProtocolError, Reason, TransportError
from he_agg.ids import RoundId
from he_agg.kernels.bitpack import pack, unpack
from he_agg.mac import RoundMac, SumCheck
from he_agg.plan.sections import Part
from he_agg.protocol.wire import encode_part, parse_part
from he_agg.signing import SigningKey
from keys import GroupKey
from tests.support.documents import EXAMPLES
from tests.support.federation import fold_all, key_of
from tests.support.flows import (
    AGGREGATOR_KEY,
    CONSORTIUM,
    OPEN,
    ROUND,
    SITES,
    FakeAggregator,
    World,
    answer_of,
    assert_mean_of,
    digests_of,
    encrypted,
    problem,
    roster_after,
    security_log,
    session_for,
    small_plan,
    spooled,
    submission,
    unreachable,
    update_of,
)
from tests.support.trust import AGGREGATOR, COORDINATOR, identity_of

PLAN = small_plan()
PLACES = PLAN.public.places
ZEROS = "00" * 32
MESSAGE = "round test.1.1: its sum failed the checks of this site; nothing was released"
HINT = (
    "this accuses nobody: a member, the aggregator or this machine may be at fault. This site's security log says "
    "what was wrong: tell the coordinators and the operator, who see which sites have rejected it; `he-agg dispute` "
    "has the round tried again"
)


class Liar(FakeAggregator):
    """Publishes honestly, or as `lie` says; `alter` changes answers on their way."""

    def __init__(self, lie=None, alter=None):
        super().__init__(PLAN)
        self.others_submit()
        self.lie = lie
        self.alter = alter

    def __call__(self, request: Request, body: bytes) -> Response:
        if request.path.startswith(f"/v1/rounds/{ROUND}/record") and self.record is None:
            if self.lie is not None:
                self.lie(self)
            if self.record is None:
                self.close()
        answer = super().__call__(request, body)
        return answer if self.alter is None else self.alter(self, request, answer) or answer


class Ledger:
    """What of a sum was verified, opened and handed over, in order."""

    def __init__(self, monkeypatch):
        self.log: list[Any] = []
        holds, take, sums = SumCheck.holds, CkksOpening.take, CkksOpening.sums

        def holding(check, number, packed):
            held = holds(check, number, packed)
            self.log.append(("tags", number) if held else ("wrong", number))
            return held

        def taking(opening, part):
            assert self.log[-1] == ("tags", part.number), "opened before its tags were verified"
            self.log.append(("open", part.number))
            take(opening, part)

        def handing_over(opening):
            self.log.append("release")
            return sums(opening)

        monkeypatch.setattr(SumCheck, "holds", holding)
        monkeypatch.setattr(CkksOpening, "take", taking)
        monkeypatch.setattr(CkksOpening, "sums", handing_over)

    @property
    def opened(self) -> int:
        """How often a sum was handed over, after all of its parts were verified and opened."""
        for at in [i for i, line in enumerate(self.log) if line == "release"]:
            assert {line[1] for line in self.log[:at] if line[0] == "open"} == set(range(len(PLACES)))
        return self.log.count("release")

    @property
    def wrong(self) -> list[int]:
        """Parts whose tags did not hold. Nothing came after one."""
        wrong = [i for i, line in enumerate(self.log) if line[0] == "wrong"]
        assert all(i == len(self.log) - 1 for i in wrong)
        return [self.log[i][1] for i in wrong]


def take_part(tmp_path, monkeypatch, aggregator, **changed):
    """Aggregate; the error if there was one."""
    session = dataclasses.replace(session_for(tmp_path, PLAN), **changed)
    ledger, world = Ledger(monkeypatch), World(aggregator)
    try:
        mean = world.run(_flows.aggregate(session, OPEN, update_of()))
    except DecryptionError as error:
        return session, ledger, world, error
    assert_mean_of(mean, PLAN, [update_of(0), update_of(1), update_of(2)])
    return session, ledger, world, None


def assert_refused(tmp_path, monkeypatch, what, lie=None, alter=None, *, opened=0, downloaded=False, **changed):
    """See that a lie is refused in the step that is meant, and that without it the very same calls give the mean."""
    session, ledger, world, error = take_part(tmp_path / "lie", monkeypatch, Liar(lie, alter), **changed)
    assert error is not None, "it was accepted"
    assert (type(error), error.reason) == (DecryptionError, Reason.SUM_REJECTED)
    assert (error.message, error.hint) == (MESSAGE, HINT)
    assert (error.__cause__, error.__context__) == (None, None)
    (line,) = security_log(session)
    assert {name: line[name] for name in ("event", "federation", "site", "round")} == {
        "event": "sum-rejected",
        "federation": "test",
        "site": "a",
        "round": "test.1.1",
    }
    assert line["what"].startswith(what), line
    assert ledger.opened == opened
    assert any("/sum?" in path for path in world.paths("GET")) == downloaded
    assert not (session.spool.entry(ROUND).path / "sum").exists()
    assert session.is_stored(ROUND)
    monkeypatch.undo()
    honest, ledger, _, error = take_part(tmp_path / "honest", monkeypatch, Liar())
    assert error is None
    assert ledger.opened == 1
    assert security_log(honest) == []
    assert spooled(tmp_path / "honest") == []
    return line


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"round_id": RoundId("other", 1, 1)}, "record, federation"),
        ({"epoch": 2}, "record, epoch"),
        ({"key_id": ZEROS}, "record, group key"),
        ({"plan_id": ZEROS}, "record, plan"),
        ({"round_id": RoundId("test", 2, 1)}, "record, round"),
        ({"round_id": RoundId("test", 1, 2)}, "record, round"),
    ],
)
def test_1_record_about_something_else(tmp_path, monkeypatch, changed, what):
    assert_refused(tmp_path, monkeypatch, what, lambda server: server.close(**changed))


def of_two(server):
    """The sum of this site and one other; the third is said to be late."""
    del server.complete["c"]
    server.close()


def of_one(server):
    del server.complete["b"], server.complete["c"]
    server.close()


def test_2_too_few_sites(tmp_path, monkeypatch):
    """The sum of one site is its update; the plan of this site says that there must be two."""
    line = assert_refused(tmp_path, monkeypatch, "record, fewest members", of_one)
    assert (line["expected"], line["got"]) == ("2", "1")


def test_2_fewer_sites_than_this_sites_own_settings_ask_for(tmp_path, monkeypatch):
    """Plan and roster would be content with two."""
    line = assert_refused(tmp_path, monkeypatch, "record, fewest members", of_two, min_sites=3)
    assert (line["expected"], line["got"]) == ("3", "2")


@pytest.mark.parametrize("named", ["the newest", "one from before"])
def test_2_fewer_sites_than_the_roster_asks_for(tmp_path, monkeypatch, named):
    """The coordinators have raised the number; naming the roster from before does not lower it again."""
    stricter = CONSORTIUM.next_roster(dict(CONSORTIUM.roster.body.members), min_sites=3)
    for name, lie in (("honest", None), ("lie", of_two)):
        server = Liar(lie)
        server.rosters.append(stricter)
        if named == "the newest":
            server.roster = stricter.body_digest
        session = session_for(tmp_path / name, PLAN)
        session.rosters.follow(stricter)
        _, ledger, _, error = take_part(tmp_path / name, monkeypatch, server, rosters=session.rosters)
        assert (ledger.opened, error is None) == ((1, True) if lie is None else (0, False))
        monkeypatch.undo()
    (line,) = security_log(session)
    assert (line["what"], line["expected"], line["got"]) == ("record, fewest members", "3", "2")


def test_2_more_sites_than_the_plan_holds(tmp_path, monkeypatch):
    members = {f"s{i}": ZEROS for i in range(6)}
    assert_refused(tmp_path, monkeypatch, "record, most members", lambda server: server.close(members=members))


def test_3_roster_that_this_site_does_not_trust(tmp_path, monkeypatch):
    line = assert_refused(tmp_path, monkeypatch, "record, roster", lambda server: server.close(roster="ab" * 32))
    assert line["got"] == "ab" * 32


@pytest.mark.parametrize("name", ["d", COORDINATOR])
def test_3_member_that_is_no_site_of_the_roster(tmp_path, monkeypatch, name):
    def lie(server):
        server.close(members=server.complete | {name: ZEROS})

    line = assert_refused(tmp_path, monkeypatch, "record, members", lie)
    assert line["got"] == name


def test_3_member_that_is_listed_twice(tmp_path, monkeypatch):
    """Not canonical JSON: no record at all. And the manifests may not list it twice either."""
    line = assert_refused(tmp_path, monkeypatch, "manifests, sites", alter=manifests_altered(lambda d: [d[0], *d]))
    assert line["got"] == "a a b c"


@pytest.mark.parametrize(
    "signer",
    [
        (AGGREGATOR, SigningKey.generate()),
        ("b", identity_of("b").signing_key),
        (AGGREGATOR, identity_of("b").signing_key),
        (COORDINATOR, identity_of(COORDINATOR).signing_key),
        ("b", AGGREGATOR_KEY),
    ],
)
def test_4_record_that_no_aggregator_of_the_roster_signed(tmp_path, monkeypatch, signer):
    assert_refused(tmp_path, monkeypatch, "record, signature", lambda server: server.close(signer=signer))


def answered(told):
    """Let the answer about the round be another one: `told` gets the aggregator."""

    def alter(server, request, answer):
        return told(server) if request.path.startswith(f"/v1/rounds/{ROUND}/record?") else None

    return alter


def honest_manifests(server):
    return [server.manifests[site].encode() for site in SITES]


def test_4_record_without_a_signature(tmp_path, monkeypatch):
    strip = answered(lambda server: answer_of(Signed(server.record.body).encode(), honest_manifests(server)))

    line = assert_refused(tmp_path, monkeypatch, "record, signature", alter=strip)
    assert line["got"] == "signed by nobody"


def manifests_altered(change):
    """Let the aggregator's manifests be others than those of the record, which is honest."""

    def told(server):
        documents = change([server.manifests[site] for site in SITES])
        return answer_of(server.record.encode(), [document.encode() for document in documents])

    return answered(told)


def resigned(document, key, **changed):
    manifest = dataclasses.replace(document.body, **changed)
    return Signed.make(manifest, key)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda d: d[:2], "manifests, sites"),
        (lambda d: [], "manifests, sites"),
        (lambda d: [d[0], d[2], d[1]], "manifests, sites"),
        (lambda d: [*d[:2], resigned(d[2], identity_of("b").signing_key)], "manifest of c, signature"),
        (lambda d: [*d[:2], resigned(d[2], AGGREGATOR_KEY)], "manifest of c, signature"),
        (lambda d: [*d[:2], Signed(d[2].body, {"c": bytes(64)})], "manifest of c, signature"),
        (lambda d: [*d[:2], Signed(d[2].body)], "manifests"),
        (lambda d: [*d[:2], EXAMPLES["record"].document], "manifests"),
        (
            lambda d: [*d[:2], resigned(d[2], identity_of("c").signing_key, nonce="11" * 16)],
            "manifest of c, digest",
        ),
    ],
)
def test_4_manifests_that_are_not_those_of_the_record(tmp_path, monkeypatch, change, what):
    assert_refused(tmp_path, monkeypatch, what, alter=manifests_altered(change))


NO_MANIFESTS = [
    b"",
    b"{",
    b"[",
    b'{"manifests":',
    b'{"manifests":{',
    b'{"manifests":[3',
    b'{"manifests":[{}',
    b'{"manifests":[\xff',
    b'{"manifests":[1e999',
    b'{"manifests":[' + b"[" * 99_999,
    b'{"manifest":[],"manifests":[',
    b'{"manifests":[],"manifests":[',
    b'{"manifests":[],"record":{},"v":1}{"manifests":[',
]
"""What may stand before an honest record instead of its members' manifests."""


@pytest.mark.parametrize("unread", NO_MANIFESTS)
def test_4_manifests_that_are_none(tmp_path, monkeypatch, unread):
    """The record is honest, and what comes with it is no list of manifests."""

    def told(server):
        return Response(200, {}, unread + b'],"record":%b,"v":1}' % server.record.encode())

    assert_refused(tmp_path, monkeypatch, "manifests", alter=answered(told))


SPELLINGS = {
    "a space": lambda text: text.replace(b'"body":', b'"body": ', 1),
    "a space at the end": lambda text: text + b" ",
    "another order": lambda text: re.sub(rb'("kind":"manifest"),("signatures":\{[^}]*\})', rb"\2,\1", text, count=1),
    "an escape": lambda text: text.replace(b'"kind":"manifest"', b'"kind":"m\\u0061nifest"', 1),
    "a zero in front of a tag": lambda text: re.sub(rb'"tags":\[\["', b'"tags":[["0', text, count=1),
    "a key twice": lambda text: text.replace(b'"kind":"manifest"', b'"kind":"manifest","kind":"manifest"', 1),
    "a key more": lambda text: text.replace(b'"kind":"manifest"', b'"kind":"manifest","more":1', 1),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_4_manifests_in_another_form(tmp_path, monkeypatch, spelling):
    """They say what the honest ones say, and have the same digests once they are written again."""

    def told(server):
        texts = honest_manifests(server)
        other = SPELLINGS[spelling](texts[1])
        assert other != texts[1]
        return answer_of(server.record.encode(), [texts[0], other, texts[2]])

    line = assert_refused(tmp_path, monkeypatch, "manifests", alter=answered(told))
    assert line["what"] == "manifests"


def test_4_more_than_the_manifests_of_so_many_members_can_be(tmp_path, monkeypatch):
    """The plan holds five sites, and so much is read; the record has three, and no more is looked at."""
    alter = manifests_altered(lambda d: [d[index % 3] for index in range(40)])
    line = assert_refused(tmp_path, monkeypatch, "manifests", alter=alter)
    assert line["reason"] == Reason.TOO_LARGE


@pytest.mark.parametrize("unread", NO_MANIFESTS)
def test_4_whatever_comes_with_a_record_the_record_is_checked_first(tmp_path, monkeypatch, unread):
    """Both lie: the log says what the record says, and nothing of manifests is read."""
    stranger = SigningKey.generate()

    def told(server):
        return Response(200, {}, unread + b'],"record":%b,"v":1}' % server.record.encode())

    assert_refused(
        tmp_path, monkeypatch, "record, signature",
        lambda server: server.close(signer=(AGGREGATOR, stranger)), answered(told),
    )  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        {"round_id": RoundId("test", 1, 2)},
        {"round_id": RoundId("test", 2, 1)},
        {"epoch": 2},
        {"key_id": ZEROS},
        {"plan_id": ZEROS},
        {"tags": ()},
        {"tags": ((PLAN.public.sections[0].modulus,) * 5, (0,) * 5)},
        {"part_digests": (ZEROS,)},
    ],
)
def test_4_manifest_for_something_else(tmp_path, monkeypatch, changed):
    """Signed by its site and in the record, but for another round, key or plan: a replay."""

    def lie(server):
        server.replace("c", *submission(PLAN, "c", update_of(2), **changed))
        server.close()

    assert_refused(tmp_path, monkeypatch, "manifest of c", lie)


def without_receipt(server, request, answer):
    """The receipt never arrives: a site that has one raises another alarm when it is left out."""
    return problem(409, "round-closed") if request.method == "PUT" else None


def test_5_another_submission_in_this_sites_name(tmp_path, monkeypatch):
    """Signed with this site's own key: somebody else has a copy of its identity."""

    def lie(server):
        server.replace("a", *submission(PLAN, "a", update_of(7)))
        server.close()

    line = assert_refused(tmp_path, monkeypatch, "record, own submission", lie, without_receipt)
    assert len(line["expected"]) == len(line["got"]) == 64


def test_5_this_site_is_left_out_without_a_word(tmp_path, monkeypatch):
    def lie(server):
        del server.complete["a"]
        server.close(excluded={})

    assert_refused(tmp_path, monkeypatch, "record, own submission", lie, without_receipt)


def test_5_what_breaks_a_receipt_is_an_alarm_and_refused_all_the_same(tmp_path):
    """Said once, as what it is; from then on such a record is refused as any other."""

    def replaced(server):
        server.replace("a", *submission(PLAN, "a", update_of(7)))
        server.close()

    def left_out(server):
        del server.complete["a"]
        server.close(excluded={})

    for name, lie in (("replaced", replaced), ("left out", left_out)):
        server, session = Liar(), session_for(tmp_path / name, PLAN)
        World(server).run(_flows.submit(session, OPEN, update_of()))
        lie(server)
        with pytest.raises(ProtocolError) as caught:
            World(server).run(_flows.fetch(session, ROUND))
        assert caught.value.reason == Reason.RECEIPT_BROKEN
        with pytest.raises(DecryptionError) as refused:
            World(server).run(_flows.fetch(session, ROUND))
        assert (refused.value.reason, refused.value.message) == (Reason.SUM_REJECTED, MESSAGE)
        assert [line["event"] for line in security_log(session)] == ["receipt-broken", "sum-rejected"]
        assert session.spool.entry(ROUND).receipt() is not None


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"previous": "11" * 32, "index": 2}, "record, "),
        ({"previous": "11" * 32, "index": 9}, "record, "),
    ],
)
def test_6_record_that_does_not_follow(tmp_path, monkeypatch, changed, what):
    """There is no record before the first round: what it claims to follow cannot be had, or is another one."""

    def lie(server):
        server.close(**changed)

    assert_refused(tmp_path, monkeypatch, what, lie)


def test_6_a_member_saw_another_history(tmp_path, monkeypatch):
    """The aggregator told site c another past: c's own signature gives it away."""

    def lie(server):
        server.replace("c", *submission(PLAN, "c", update_of(2), previous="22" * 32))
        server.close()

    line = assert_refused(tmp_path, monkeypatch, "manifest of c, previous", lie)
    assert line["got"] == "22" * 32


@pytest.mark.parametrize("digests", [(ZEROS,), (ZEROS,) * 4])
def test_7_another_number_of_parts(tmp_path, monkeypatch, digests):
    lie = lambda server: server.close(sum_digests=digests)  # noqa: E731
    assert_refused(tmp_path, monkeypatch, "record, parts of the sum", lie)


@pytest.mark.parametrize(
    "change",
    [
        lambda part: b"",
        lambda part: part[:100] + part[101:],  # the last one may be the same as the one that follows
        lambda part: part[:100] + bytes([part[100] ^ 1]) + part[101:],
    ],
)
def test_7_part_with_another_digest(tmp_path, monkeypatch, change):
    def lie(server):
        server.close()
        server.sum[0] = change(server.sum[0])

    line = assert_refused(tmp_path, monkeypatch, "sum, part 0, digest", lie, downloaded=True)
    assert len(line["expected"]) == len(line["got"]) == 64


def republishing(change):
    """Serve another sum than the members', with a record that names the digests of that one."""

    def lie(server):
        server.close()
        server.republish(change(server))

    return lie


@pytest.mark.parametrize(
    "change",
    [
        lambda part: part[:10],
        lambda part: part[:-1],
        lambda part: b"X" + part[1:],
        lambda part: part[:24] + bytes(32) + part[56:],
    ],
)
def test_7_part_that_is_none_although_its_digest_is_right(tmp_path, monkeypatch, change):
    lie = republishing(lambda server: [change(server.sum[0]), *server.sum[1:]])
    assert_refused(tmp_path, monkeypatch, "sum, part 0", lie, downloaded=True)


def parts_of(server, site):
    """A site's parts."""
    return [parse_part(server.parts[server.complete[site]][p.number], p, PLAN.plan_id) for p in PLACES]


def folded(server, *sites):
    """The sum of submissions, each as often as it is named."""
    sums = fold_all(PLAN.public, [parts_of(server, site) for site in sites])
    return [encode_part(part, PLACES[part.number], PLAN.plan_id) for part in sums]


def with_residue(data, place, at, value):
    """A part with one residue replaced."""
    part = parse_part(data, place, PLAN.plan_id)
    residues = unpack(part.packed, place.residues, place.section.modulus_bits)
    residues[at] = value(int(residues[at]))
    packed = pack(residues, place.section.modulus_bits)
    return encode_part(Part(part.number, packed.data), place, PLAN.plan_id)


def flipped(number):
    """One bit of one residue of a part of each section."""

    def change(server):
        parts = list(server.sum)
        parts[number] = with_residue(parts[number], PLACES[number], 17, lambda x: x ^ 1)
        return parts

    return change


FALSE_SUMS = {
    "a site is left out, and said to be in it": lambda server: folded(server, "a", "b"),
    "a site is counted twice": lambda server: folded(server, "a", "b", "b"),
    "a site is counted twice beside all": lambda server: folded(server, "a", "b", "c", "c"),
    "this site's own submission as the sum": lambda server: folded(server, "a"),
    "another site's submission as the sum": lambda server: folded(server, "b"),
    "a bit in the first part": flipped(0),
    "a bit in the last part": flipped(-1),
    "zeros": lambda server: [with_all_zero(place) for place in PLACES],
    "another key's ciphertext": lambda server: [
        encode_part(part, PLACES[part.number], PLAN.plan_id)
        for part in server_codec().encrypt(np.zeros(PLAN.public.values, np.int32), GroupKey.create(PLAN), ROUND)
    ],
}


def server_codec():
    from he_agg.codecs import codec_for

    return codec_for(PLAN.public)


def with_all_zero(place):
    return encode_part(Part(place.number, bytes(place.packed_bytes)), place, PLAN.plan_id)


@pytest.mark.parametrize("false_sum", FALSE_SUMS.values(), ids=FALSE_SUMS)
def test_7_sum_that_is_not_that_of_the_members(tmp_path, monkeypatch, false_sum):
    """Well-formed, digests and signatures right: the tags alone tell, while it is still ciphertext."""
    assert_refused(tmp_path, monkeypatch, "sum, part", republishing(false_sum), downloaded=True)


def test_7_parts_of_two_sites_are_swapped_between_places(tmp_path, monkeypatch):
    """Two parts of equal form change places in one submission before it is folded."""
    first, second = (p.number for p in PLACES[:2])

    def lie(server):
        own = server.parts[server.complete["b"]]
        other = {**own}
        for here, there in ((first, second), (second, first)):
            packed = parse_part(own[there], PLACES[there], PLAN.plan_id).packed
            other[here] = encode_part(Part(here, packed), PLACES[here], PLAN.plan_id)
        server.parts[server.complete["b"]] = other
        server.close()

    assert_refused(tmp_path, monkeypatch, "sum, part", lie, downloaded=True)


def test_7_sum_of_the_round_before(tmp_path, monkeypatch):
    """The same members, and the same update of each, in the round before: its sum is not this round's."""
    before = RoundId("test", 9, 1)

    def old_sum(server):
        old = FakeAggregator(PLAN)
        old.open(before)
        old.others_submit("abc")
        old.close()
        return old.sum

    assert_refused(tmp_path, monkeypatch, "sum, part", republishing(old_sum), downloaded=True)


def test_7_tags_of_a_site_that_are_wrong(tmp_path, monkeypatch):
    """Site c itself signs tags that are not its submission's: the sum cannot be told from a false one."""

    def lie(server):
        honest, wire = submission(PLAN, "c", update_of(2))
        tags = [list(section) for section in honest.body.tags]
        tags[0][0] = (tags[0][0] + 1) % PLAN.public.sections[0].modulus
        changed = dataclasses.replace(honest.body, tags=tuple(map(tuple, tags)))
        server.replace("c", Signed.make(changed, identity_of("c").signing_key), wire)
        server.close()

    assert_refused(tmp_path, monkeypatch, "sum, part", lie, downloaded=True)


def counting(site, values, key=None):
    """A member of the group, with right tags, submits what no honest one would."""

    def lie(server):
        server.replace(site, *encrypted(PLAN, site, values, key or key_of(PLAN)))
        server.close()

    return lie


def values_of(site):
    update = update_of("abc".index(site))
    return quantize(PLAN, update.tensors, update.weight).values.copy()


def test_8_member_that_encrypts_under_another_key(tmp_path, monkeypatch):
    lie = counting("c", values_of("c"), GroupKey.create(PLAN))
    line = assert_refused(tmp_path, monkeypatch, "sum, opened", lie, downloaded=True, opened=1)
    assert line["reason"] in (Reason.OFF_GRID, Reason.SUM_OUT_OF_RANGE)


def test_8_residue_that_is_none(tmp_path, monkeypatch):
    """x + q is the same number for the tags; the codec takes numbers below q only."""
    place = PLACES[0]
    modulus = place.section.modulus

    def lie(server):
        # x + q fits the bits for the smallest x only: site c helps, and makes the sum's first residue a zero.
        honest, wire = submission(PLAN, "c", update_of(2))
        bits = place.section.modulus_bits
        first = [int(unpack(parts_of(server, site)[0].packed, place.residues, bits)[0]) for site in "ab"]
        wire[0] = with_residue(wire[0], place, 0, lambda _: -sum(first) % modulus)
        mac = RoundMac(key_of(PLAN).mac_key, PLAN.public, 1, ROUND)
        total = mac.new_total()
        for n, data in enumerate(wire):
            total.add(n, mac.part(n, parse_part(data, PLACES[n], PLAN.plan_id).packed))
        tags, digests = mac.tags(total, "c", honest.body.nonce), digests_of(wire)
        changed = dataclasses.replace(honest.body, tags=tags, part_digests=digests)
        server.replace("c", Signed.make(changed, identity_of("c").signing_key), wire)
        server.close()
        server.republish([with_residue(server.sum[0], place, 0, lambda x: x + modulus), *server.sum[1:]])

    line = assert_refused(tmp_path, monkeypatch, "sum, opened", lie, downloaded=True, opened=1)
    assert line["reason"] == Reason.RESIDUE_OUT_OF_RANGE


@pytest.mark.parametrize("count", [0, 2])
def test_9_member_that_counts_itself_another_number_of_times(tmp_path, monkeypatch, count):
    values = values_of("c")
    assert values[-1] == 1
    values[-1] = count
    line = assert_refused(tmp_path, monkeypatch, "sum, opened", counting("c", values), downloaded=True, opened=1)
    assert line["reason"] == Reason.COUNT_MISMATCH


def test_steps_come_in_the_order_of_the_contract(tmp_path, monkeypatch):
    """Lies in all steps at once, taken away one after the other: each time the next step speaks."""
    stranger = SigningKey.generate()
    lies = [
        ("record, plan", {"plan_id": ZEROS}),
        ("record, most members", {"members": {f"s{i}": ZEROS for i in range(6)}}),
        ("record, roster", {"roster": ZEROS}),
        ("record, signature", {"signer": (AGGREGATOR, stranger)}),
        ("manifests", {"none": True}),
        ("manifests, sites", {"empty": True}),
        ("record, own submission", {"own": True}),
        ("record, index", {"index": 5, "previous": "11" * 32}),
        ("manifest of c, previous", {"previous_of_c": True}),
        ("record, parts of the sum", {"sum_digests": (ZEROS,)}),
    ]
    for number, (what, _) in enumerate(lies):
        left = lies[number:]

        def lie(server, left=left):
            told = {}
            for _, changed in left:
                told = changed | told
            if told.pop("previous_of_c", False):
                server.replace("c", *submission(PLAN, "c", update_of(2), previous="22" * 32))
            for about_manifests in ("none", "empty"):
                told.pop(about_manifests, None)
            if told.pop("own", False):
                server.replace("a", *submission(PLAN, "a", update_of(7)))
            server.close(**told)

        def alter(server, request, answer, left=left):
            faults = dict(left)
            if "/record?" in request.path and "manifests, sites" in faults:
                nothing = [b"\xff"] if "manifests" in faults else []
                return answer_of(server.record.encode(), nothing)
            if "/records/" in request.path:
                return Response(200, {}, server.record.encode())
            return without_receipt(server, request, answer)

        root = tmp_path / str(number)
        session, ledger, _, error = take_part(root, monkeypatch, Liar(lie, alter))
        assert error is not None
        assert (security_log(session)[0]["what"], ledger.opened) == (what, 0)


def test_all_refusals_look_the_same(tmp_path, monkeypatch):
    """Type, reason, text, hint, cause, exit code: nothing tells the caller which step it was."""
    lies = {
        "1": lambda server: server.close(plan_id=ZEROS),
        "2": of_one,
        "3": lambda server: server.close(roster=ZEROS),
        "4": lambda server: server.close(signer=(AGGREGATOR, SigningKey.generate())),
        "5": lambda server: (server.complete.pop("a"), server.close(excluded={})),
        "7": republishing(flipped(0)),
        "8": counting("c", values_of("c"), GroupKey.create(PLAN)),
        "9": counting("c", np.zeros(PLAN.public.values, np.int32)),
    }
    seen, steps = set(), set()
    for name, lie in lies.items():
        session, _, _, error = take_part(tmp_path / name, monkeypatch, Liar(lie, without_receipt))
        seen.add((type(error), error.reason, error.message, error.hint, error.args, error.__cause__, error.__context__))
        steps.add(security_log(session)[0]["what"])
        monkeypatch.undo()
    assert len(seen) == 1
    assert len(steps) == 7  # the log does tell; steps 8 and 9 differ in the reason


def test_security_log_has_nothing_secret(tmp_path, monkeypatch):
    """Lines of every kind: no tag, no key, no plaintext; for the owner's eyes only."""
    session, _, _, error = take_part(tmp_path / "x", monkeypatch, Liar(republishing(flipped(0))))
    assert error is not None
    monkeypatch.undo()
    _, _, _, error = take_part(tmp_path / "x", monkeypatch, Liar(counting("c", values_of("c"), GroupKey.create(PLAN))))
    text = session.log.path.read_text()
    assert len(text.splitlines()) == 2
    assert stat.S_IMODE(session.log.path.stat().st_mode) == 0o600
    stored = session.stored(session.spool.entry(ROUND))
    tags = [str(tag) for section in stored.manifest.tags for tag in section]
    secrets = [session.key.mac_key.hex(), session.key.mac_seed.hex(), session.identity.signing_key.to_bytes().hex()]
    assert [secret for secret in (*tags, *secrets) if secret in text] == []
    fields = {"time", "event", "federation", "site", "round", "reason", "what", "expected", "got"}
    assert all(set(json.loads(line)) == fields for line in text.splitlines())


def test_full_disk_does_not_turn_a_refusal_into_something_else(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(
        os,
        "write",
        lambda fd, data: (_ for _ in ()).throw(OSError(28, "full")) if b"rejected" in data else real(fd, data),
    )
    session, _, _, error = take_part(tmp_path, monkeypatch, Liar(republishing(flipped(0))))
    assert (error.reason, error.message) == (Reason.SUM_REJECTED, MESSAGE)
    assert security_log(session) == []


def test_refused_sum_can_be_fetched_when_the_aggregator_serves_the_right_one(tmp_path, monkeypatch):
    """Damage between its disk and us, say: the record was right all the time."""
    server = Liar()
    spoil = lambda s, request, answer: Response(200, {}, answer.body[:-1]) if "/sum?" in request.path else None  # noqa: E731
    server.alter = spoil
    session, ledger, _, error = take_part(tmp_path, monkeypatch, server)
    assert (error.reason, ledger.opened) == (Reason.SUM_REJECTED, 0)
    server.alter = None
    mean = World(server).run(_flows.resume(session, OPEN))
    assert_mean_of(mean, PLAN, [update_of(0), update_of(1), update_of(2)])


def test_fetch_checks_the_same(tmp_path, monkeypatch):
    """A site that was late fetches the sum of the others: a false one is refused, the right one is not."""
    for false_sum in (None, lambda server: folded(server, "b")):
        root = tmp_path / str(bool(false_sum))
        server = Liar()
        server.close()
        if false_sum is not None:
            server.republish(false_sum(server))
        session = session_for(root, PLAN)
        ledger, flow = Ledger(monkeypatch), _flows.fetch(session, ROUND)
        if false_sum is None:
            assert_mean_of(World(server).run(flow), PLAN, [update_of(1), update_of(2)])
        else:
            with pytest.raises(DecryptionError, match="failed the checks"):
                World(server).run(flow)
            assert re.fullmatch(r"sum, part [0-9]+, tags", security_log(session)[0]["what"])
            assert spooled(root) == []
        assert ledger.opened == (false_sum is None)
        monkeypatch.undo()


def test_fetch_checks_the_own_submission_if_it_is_known(tmp_path, monkeypatch):
    server = Liar()
    server.alter, session = without_receipt, session_for(tmp_path, PLAN)
    with pytest.raises(ProtocolError, match="closed before"):
        World(server).run(_flows.submit(session, OPEN, update_of()))
    server.replace("a", *submission(PLAN, "a", update_of(7)))
    server.close()
    with pytest.raises(DecryptionError):
        World(server).run(_flows.fetch(session, ROUND))
    assert security_log(session)[0]["what"] == "record, own submission"


def test_site_that_was_not_drawn_is_missed_nowhere(tmp_path):
    """Sites are drawn for a round: who is not among them may fetch the mean all the same, and is not named."""
    plan = small_plan(sample_percent=50)

    def published(directory, **changed):
        server = FakeAggregator(plan)
        while "a" in draw({"a", "b", "c"}, 2, ROUND, server.rosters[-1].body_digest, NO_RECORD):
            server.rosters.append(roster_after(server.rosters[-1]))
        server.open(ROUND)
        server.others_submit()
        server.close(**changed)
        directory.mkdir()
        (directory / "a.roster.json").write_bytes(server.rosters[-1].encode())
        return server, session_for(directory, plan)

    server, session = published(tmp_path / "drawn", excluded={})
    assert_mean_of(World(server).run(_flows.fetch(session, ROUND)), plan, [update_of(1), update_of(2)])
    server, session = published(tmp_path / "named", excluded={"a": "late"})
    with pytest.raises(DecryptionError):
        World(server).run(_flows.fetch(session, ROUND))
    assert security_log(session)[0]["what"] == "record 1, invited sites"


MISNAMED = {
    "an invited site in neither list": {},
    "9,998 invented names": {"a": "late"} | {f"invented-{i}": "absent" for i in range(9_997)},
    "a site of nobody": {"a": "late", "stranger": "absent"},
    "a member of another kind": {"a": "late", COORDINATOR: "absent"},
}


@pytest.mark.parametrize("excluded", MISNAMED.values(), ids=MISNAMED)
def test_record_names_the_invited_sites_and_nobody_else(tmp_path, excluded):
    """In a sum that is opened, in a failed round, and in a record that the site has missed."""
    server = FakeAggregator(PLAN)
    server.others_submit()
    server.close(excluded=excluded)
    session = session_for(tmp_path / "opened", PLAN)
    with pytest.raises(DecryptionError):
        World(server).run(_flows.fetch(session, ROUND))
    assert security_log(session)[0]["what"] == "record 1, invited sites"
    assert len(session.chain) == 0

    server.open(RoundId("test", 2, 1))
    server.others_submit()
    server.close()
    session = session_for(tmp_path / "missed", PLAN)
    with pytest.raises(DecryptionError):
        World(server).run(_flows.fetch(session, RoundId("test", 2, 1)))
    assert security_log(session)[0]["what"] == "record 1, invited sites"

    server = FakeAggregator(PLAN)
    server.fail(excluded=excluded)
    session = session_for(tmp_path / "failed", PLAN)
    with pytest.raises(ProtocolError) as caught:
        World(server).run(_flows.fetch(session, ROUND))
    assert caught.value.reason == Reason.BAD_ANSWER
    assert len(session.chain) == 0


@pytest.mark.parametrize("stored", [False, True])
def test_each_part_is_verified_and_opened_as_it_arrives(tmp_path, monkeypatch, stored):
    """Each part is looked at once, also one that an earlier run has left; all of them before anything is released."""
    server, last = Liar(), len(PLACES) - 1
    log: list[Any] = []

    def meddle(request, body):
        if "/sum?" in request.path:
            log.append(("get", int(request.path.rpartition("=")[2])))

    def break_off(request, body):
        if "/sum?" not in request.path:
            return None
        if request.path.endswith(f"={last}"):
            return unreachable()
        return Response(200, {}, server(request, body).body[: -PLACES[last].wire_bytes])

    session = session_for(tmp_path, PLAN, patience_s=0.5)
    World(server).run(_flows.submit(session, OPEN, update_of()))
    if stored:
        with pytest.raises(TransportError):
            World(server, break_off).run(_flows.resume(session, OPEN))
    log = Ledger(monkeypatch).log
    World(server, meddle).run(_flows.resume(session, OPEN))
    each = [(what, number) for number in range(len(PLACES)) for what in ("tags", "open")]
    each.insert(2 * last if stored else 0, ("get", last if stored else 0))
    assert log == [*each, "release"]


@pytest.mark.parametrize("number", range(len(PLACES)))
def test_a_wrong_part_is_named_and_neither_it_nor_anything_after_it_is_opened(tmp_path, monkeypatch, number):
    server = Liar(republishing(flipped(number)))
    session, ledger, _, error = take_part(tmp_path, monkeypatch, server)
    assert error is not None
    assert security_log(session)[0]["what"] == f"sum, part {number}, tags"
    assert [line for line in ledger.log if line[0] == "open"] == [("open", n) for n in range(number)]
    assert (ledger.wrong, ledger.opened) == ([number], 0)


def test_that_a_part_does_not_open_shows_when_all_are_there(tmp_path, monkeypatch):
    """Whoever serves the sum sees a site fetch all of it either way, and not which part it was."""
    lies = (None, counting("c", values_of("c"), GroupKey.create(PLAN)))
    seen = []
    for lie in lies:
        _, ledger, world, error = take_part(tmp_path / str(lie), monkeypatch, Liar(lie))
        assert (error is None) == (lie is None)
        seen.append((ledger.log, [path for path in world.paths("GET") if "/sum?" in path]))
        monkeypatch.undo()
    assert seen[0] == seen[1]


def test_roles_of_the_consortium_are_what_the_tests_take_them_for():
    roster = CONSORTIUM.roster.body
    assert set(roster.having(Role.SITE)) == set(SITES)
    assert set(roster.having(Role.AGGREGATOR)) == {AGGREGATOR}


@pytest.mark.parametrize("count", [1, 2])
def test_refused_sum_stays_in_no_frame_of_the_error(tmp_path, monkeypatch, count):
    """Step 9 fails after the sum was opened: whoever keeps the error, or its traceback, does not keep the plaintext."""
    from client_sdk._protocol import collect as _collect

    seen = []

    def dequantizing(plan, sums, n_sites, sites):
        seen.append(weakref.ref(sums))
        return dequantize(plan, sums, n_sites, sites)

    monkeypatch.setattr(_collect, "dequantize", dequantizing)
    values = values_of("c")
    values[-1] = count
    session, world = session_for(tmp_path, PLAN), World(Liar(counting("c", values)))
    kept = None
    try:
        mean = world.run(_flows.aggregate(session, OPEN, update_of()))
    except DecryptionError as error:
        kept = error
    gc.collect()
    assert len(seen) == 1
    if count == 1:
        assert mean.n_sites == 3  # the honest path
    else:
        assert kept.__traceback__ is not None
        assert seen[0]() is None


class Wire:
    """In the place of a connection: requests go to an aggregator in memory."""

    def __init__(self, server):
        self.world = World(server)

    def send(self, request, _):
        return self.world.perform(request)


def blocking(session, server, flow):
    wire = Wire(server)

    class Inside(Transport):
        def _send(self, request, listener):
            return wire.send(request, listener)

    transport = Inside("http://127.0.0.1:1", session.signer)
    try:
        return transport.run(flow, lambda event: None)
    finally:
        transport.close()


def on_asyncio(session, server, flow):
    wire = Wire(server)

    class Inside(AsyncTransport):
        async def _send(self, request, listener):
            return wire.send(request, listener)

    async def main():
        transport = Inside("http://127.0.0.1:1", session.signer)
        try:
            return await transport.run(flow, lambda event: None)
        finally:
            await transport.close()

    return asyncio.run(main())


@pytest.mark.parametrize("drive", [blocking, on_asyncio])
def test_both_drivers_refuse_and_accept_alike(tmp_path, monkeypatch, drive):
    """`Site` and `AsyncSite` run the same flows: here with the drivers that they use."""
    for lie in (None, republishing(flipped(0)), counting("c", values_of("c"), GroupKey.create(PLAN))):
        root = tmp_path / str(id(lie))
        session, server = session_for(root, PLAN), Liar(lie)
        flow = _flows.aggregate(session, OPEN, update_of())
        if lie is None:
            assert_mean_of(drive(session, server, flow), PLAN, [update_of(0), update_of(1), update_of(2)])
            assert (security_log(session), spooled(root)) == ([], [])
            continue
        with pytest.raises(DecryptionError) as caught:
            drive(session, server, flow)
        error = caught.value
        assert (error.reason, error.message, error.hint, error.__cause__) == (Reason.SUM_REJECTED, MESSAGE, HINT, None)
        assert len(security_log(session)) == 1
        assert not (session.spool.entry(ROUND).path / "sum").exists()
