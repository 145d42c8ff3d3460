"""What dealers, and the aggregator, can do to dealings: a holder complains of the first, and accuses nobody else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from client_sdk._effects import Response
from he_agg.documents.holding import Complaint
from he_agg.documents.signed import Signed
from he_agg.ids import RoundId
from he_agg.sharing.dealing import Excerpt
from he_agg.sharing.field import P, read, write
from he_agg.sharing.proof import ROW_WIDTH, combinations, commit, prove
from he_agg.sharing.shamir import expand
from he_agg.sharing.shares import Fault, convicts
from tests.support.flows import security_log
from tests.support.holders import (
    HOLDERS,
    SITES,
    HeldFederation,
    HolderWorld,
    begin,
    look,
    notices,
    published,
    split_plan,
)

PLAN = split_plan()


@pytest.fixture
def aggregator():
    return HeldFederation(PLAN)


def proven_again(context, holders, plaintexts):
    """The public part that a cheating dealer makes of any plaintexts: all as it should be but for the rows."""
    commitments = [commit(context, index, plaintext) for index, plaintext in enumerate(plaintexts, start=1)]
    rows = np.stack([expand(plaintexts[0][32:], ROW_WIDTH), read(plaintexts[1][32:], ROW_WIDTH, "row")])
    return b"".join(
        (holders.header, *commitments, write(prove(combinations(context, holders.header, commitments), rows)))
    )


def one_bad_row(context, holders):
    def cheat(halves):
        plaintexts = list(halves[1])
        row = read(plaintexts[3][32:], ROW_WIDTH, "row").copy()
        row[5] = (int(row[5]) + 1) % P
        plaintexts[3] = plaintexts[3][:32] + write(row)
        return proven_again(context, holders, plaintexts), plaintexts

    return cheat


def higher_degree(context, holders):
    def cheat(halves):
        plaintexts = list(halves[1])
        for index in (2, 3):
            row = read(plaintexts[index][32:], ROW_WIDTH, "row").astype(np.int64)
            plaintexts[index] = plaintexts[index][:32] + write(((row + (index + 1) ** 2 * 7) % P).astype(np.uint16))
        return proven_again(context, holders, plaintexts), plaintexts

    return cheat


def wrong_plaintext(context, holders):
    return lambda halves: (halves[0], [*halves[1][:3], bytes([halves[1][3][0] ^ 1]) + halves[1][3][1:]])


def wrong_proof(context, holders):
    return lambda halves: (halves[0][:-1] + bytes([halves[0][-1] ^ 1]), halves[1])


SEALED, OPENED = Fault.SEALED, Fault.OPENED
CHEATS = {
    "one bad row": (one_bad_row, {"trustee": OPENED}),
    "higher degree": (higher_degree, {"c": OPENED, "trustee": OPENED}),
    "wrong plaintext": (wrong_plaintext, {"trustee": SEALED}),
    "wrong proof": (wrong_proof, dict.fromkeys(HOLDERS[1:], OPENED)),  # it is given at points, the first is right
}


@pytest.mark.parametrize("what", CHEATS)
def test_a_bad_dealing_is_complained_of_and_the_record_not_promised(tmp_path, rng, aggregator, what):
    cheat, faults = CHEATS[what]
    holders = begin(aggregator, tmp_path)
    context, listed = aggregator.context("b"), aggregator.listed.holders
    aggregator.deal(rng, "a"), aggregator.deal(rng, "b", cheat(context, listed)), aggregator.deal(rng, "c")
    aggregator.publish()
    for name, session in holders.items():
        world = HolderWorld(aggregator, site=name)
        came_back = look(session, aggregator, world)
        if name not in faults:
            assert came_back or name in aggregator.of("answers")
            continue
        assert session.promises.of(1) is None
        assert name not in aggregator.of("echoes")
        complaint = Signed.parse(Complaint, aggregator.of("complaints")[f"{name}.b"]).body
        assert (complaint.dealer, complaint.fault) == ("b", faults[name])
        convicted = complaint.plaintext is not None and convicts(
            aggregator.dealings["test.1.1", "b"], context, listed.index(name), complaint.plaintext
        )
        assert convicted == (faults[name] is OPENED)
        assert [line["dealer"] for line in security_log(session) if line["event"] == "bad-dealing"] == ["b"]
        (told,) = notices(world)
        assert "complained" in told
        look(session, aggregator, world)  # again: the same complaint, and nobody is told twice
        assert len(notices(world)) == 1
    assert {path.split(".")[0] for path in aggregator.of("complaints")} == set(faults)


class Bare:
    """What a dealer signs that nobody can read, cut for a holder without a look at it."""

    def __init__(self, dealing, at, value):
        self.dealing, self.at, self.value = dealing, at, value

    def excerpt(self, name):
        whole = self.dealing.excerpt(name).to_bytes()
        changed = whole[: self.at] + self.value + whole[self.at + len(self.value) :]
        return type("Cut", (), {"to_bytes": lambda _: changed})()

    @property
    def digest(self):
        name = HOLDERS[0]
        return Excerpt.digest_of(self.excerpt(name).to_bytes(), self.dealing.holders, name)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, b"HEKX"),
        (4, b"\x02"),
        (5, b"\x0b"),
        (6, b"\x01\x08"),
        (8, b"\x05\x00"),
        (10, b"\x03\x00"),
        (140, b"\xff\xff"),
    ],
    ids=["magic", "version", "R", "width", "m", "t", "no element"],
)
def test_a_dealing_that_nobody_can_read_is_complained_of(tmp_path, rng, aggregator, at, value):
    holders = published(aggregator, rng, tmp_path, resealed=lambda dealing: Bare(dealing, at, value))
    look(holders["c"], aggregator)
    complaint = Signed.parse(Complaint, aggregator.of("complaints")["c.b"]).body
    assert (complaint.fault, complaint.plaintext) == (SEALED, None)
    assert aggregator.of("echoes") == {}


def garbage(dealing):
    return dataclasses.replace(dealing, blobs=tuple(bytes(len(blob)) for blob in dealing.blobs))


def moved(dealing):
    """Shares of equal length in each other's places: of the holders 3 and 4."""
    first, second, third, fourth = dealing.blobs
    return dataclasses.replace(dealing, blobs=(first, second, fourth, third))


@pytest.mark.parametrize("resealed", [garbage, moved])
def test_shares_that_do_not_open_accuse_their_dealer(tmp_path, rng, aggregator, resealed):
    holders = published(aggregator, rng, tmp_path, resealed=resealed)
    look(holders["trustee"], aggregator)
    assert Signed.parse(Complaint, aggregator.of("complaints")["trustee.b"]).body.fault is SEALED
    assert holders["trustee"].promises.of(1) is None


@pytest.mark.parametrize(
    "facts",
    [
        {"dealer": "a"},
        {"round_id": RoundId("test", 2, 1)},
        {"round_id": RoundId("test", 1, 2)},
        {"epoch": 2},
        {"holders": "00" * 32},
        {"roster": "00" * 32},
        {"nonce": "77" * 16},
        {"key_id": "00" * 32},
        {"plan_id": "00" * 32},
    ],
    ids=lambda facts: next(iter(facts)),
)
def test_a_dealing_that_was_made_for_something_else_opens_nowhere(tmp_path, rng, aggregator, facts):
    """Such as another's that was copied, or one of an earlier round."""
    holders = published(aggregator, rng, tmp_path, **facts)
    look(holders["c"], aggregator)
    assert Signed.parse(Complaint, aggregator.of("complaints")["c.b"]).body.fault is SEALED
    assert aggregator.of("echoes") == {}


@pytest.mark.parametrize("lie", ["swapped", "another dealing", "short", "long", "gone"])
def test_an_aggregator_that_serves_other_shares_accuses_nobody(tmp_path, rng, aggregator, lie):
    holders = published(aggregator, rng, tmp_path)
    own = [aggregator.dealings["test.1.1", site].excerpt("a").to_bytes() for site in SITES]
    if lie == "another dealing":
        kept = dict(aggregator.manifests), dict(aggregator.complete)
        aggregator.deal(rng, "b")
        aggregator.manifests, aggregator.complete = kept
        own[1] = aggregator.dealings["test.1.1", "b"].excerpt("a").to_bytes()
    shown = {
        "swapped": own[1] + own[0] + own[2],
        "another dealing": b"".join(own),
        "short": b"".join(own)[:-1],
        "long": b"".join(own) + b"\x00",
        "gone": b"",
    }
    aggregator.shown["/shares"] = Response(200, {}, shown[lie])
    world = HolderWorld(aggregator, site="a")
    assert not look(holders["a"], aggregator, world)
    assert aggregator.said == {}
    assert holders["a"].promises.of(1) is None
    assert len(notices(world)) == 1
