"""An attempt's ciphertext is made once, whatever an aggregator refuses: without a network, and with a liar in memory.

The same game against a real aggregator behind a liar is in tests/attacks/test_refusals.py.
"""

from __future__ import annotations

import dataclasses
import json

import pytest
from click.testing import CliRunner

from client_sdk._effects import Request, Response
from client_sdk._protocol import verbs as _flows
from client_sdk._protocol.poll import open_round
from client_sdk.cli.evidence import evidence_export
from he_agg.audit.evidence import encode_evidence, parse_evidence
from he_agg.documents.manifest import Manifest
from he_agg.documents.signed import Signed
from he_agg.errors import HeAggError, ProtocolError, Reason, WireError
from he_agg.ids import RoundId
from he_agg.protocol.messages import Receipt
from tests.support.flows import (
    CONSORTIUM,
    OPEN,
    FakeAggregator,
    World,
    assert_mean_of,
    problem,
    roster_after,
    security_log,
    session_for,
    small_plan,
    submission,
    update_of,
)
from tests.support.trust import AGGREGATOR, identity_of

PLAN = small_plan()
ROUND = OPEN.id


@pytest.fixture
def aggregator() -> FakeAggregator:
    return FakeAggregator(PLAN)


def announced(world: World) -> list[Signed[Manifest]]:
    """The manifests that it sent: behind the last part."""
    ends = [
        body[sum(place.wire_bytes for place in PLAN.public.places[int(line.partition("?from=")[2] or 0) :]) :]
        for line, body in world.sent
        if line.startswith("PUT")
    ]
    return [Signed.parse(Manifest, end.rstrip(b" ")) for end in ends if end]


def encryptions(*worlds: World) -> set[tuple[str, tuple[str, ...]]]:
    """What an aggregator has collected: each encryption has its nonce and its parts."""
    return {(m.body.nonce, m.body.part_digests) for world in worlds for m in announced(world)}


def refusing(*reasons: str, **members):
    """An aggregator that refuses every manifest, by one reason after another, and takes whatever comes."""
    left = list(reasons)

    def meddle(request: Request, body: bytes):
        if request.method != "PUT":
            return None
        refusal = problem(409, left.pop(0) if len(left) > 1 else left[0])
        return dataclasses.replace(refusal, body=json.dumps(json.loads(refusal.body) | members).encode())

    return meddle


@pytest.mark.parametrize("reason", ["roster-mismatch", "chain-mismatch", "second-submission", "round-closed"])
def test_refusal_that_nobody_has_signed_removes_nothing(tmp_path, aggregator, reason):
    session, worlds = session_for(tmp_path, PLAN), []
    entry = session.spool.entry(ROUND)
    for _ in range(3):
        worlds.append(World(aggregator, refusing(reason)))
        with pytest.raises(ProtocolError) as caught:
            worlds[-1].run(_flows.submit(session, OPEN, update_of()))
        assert caught.value.hint
        assert session.is_stored(ROUND)
    honest = World(aggregator)
    receipt = honest.run(_flows.submit(session, OPEN, update_of()))
    assert aggregator.complete == {"a": receipt.id}
    assert len(encryptions(*worlds, honest)) == 1
    # The same with a receipt in hand: nor does that go.
    with pytest.raises(HeAggError):
        World(aggregator, refusing(reason)).run(_flows.submit(session, OPEN, update_of()))
    assert session.is_stored(ROUND)
    assert Signed.parse(Receipt, entry.receipt() or b"").body == receipt
    aggregator.others_submit()
    assert_mean_of(World(aggregator).run(_flows.resume(session, OPEN)), PLAN, [update_of(i) for i in range(3)])
    assert not session.is_stored(ROUND)  # now there is a record


def test_one_liar_with_all_the_reasons_there_are(tmp_path, aggregator):
    """The adversary's game: each refusal once made the site encrypt again."""
    session, worlds = session_for(tmp_path, PLAN), []
    for reasons in (["chain-mismatch"], ["roster-mismatch"], ["second-submission"], ["round-closed"], ["round-failed"]):
        worlds.append(World(aggregator, refusing(*reasons)))
        with pytest.raises(ProtocolError):
            worlds[-1].run(_flows.submit(session, OPEN, update_of()))
    worlds.append(World(aggregator))
    worlds[-1].run(_flows.submit(session, OPEN, update_of()))
    assert len(encryptions(*worlds)) == 1
    assert len({manifest.digest for world in worlds for manifest in announced(world)}) == 1


def test_newer_roster_has_another_manifest_of_the_same_parts(tmp_path, aggregator):
    """Two rosters came between encrypting and announcing: the site follows them and signs again, that is all."""
    session = session_for(tmp_path, PLAN)
    away = World(aggregator, refusing("round-closed"))
    with pytest.raises(ProtocolError):
        away.run(_flows.submit(session, OPEN, update_of()))
    second = roster_after(CONSORTIUM.roster)
    aggregator.rosters += [second, roster_after(second)]
    aggregator.roster = aggregator.rosters[-1].body_digest
    world = World(aggregator)
    receipt = world.run(_flows.submit(session, OPEN, update_of()))
    before, after = announced(world)
    assert (before.body.roster, after.body.roster) == (CONSORTIUM.roster.body_digest, aggregator.roster)
    assert dataclasses.replace(after.body, roster=before.body.roster) == before.body
    assert len(encryptions(away, world)) == 1
    assert aggregator.complete == {"a": receipt.id} == {"a": after.digest}
    assert session.stored(session.spool.entry(ROUND)).submission_id == receipt.id
    aggregator.others_submit()
    assert_mean_of(World(aggregator).run(_flows.resume(session, OPEN)), PLAN, [update_of(i) for i in range(3)])


def test_first_manifest_of_the_same_parts_is_taken_up(tmp_path, aggregator):
    """It was taken although it had been refused: what counts is the one that the aggregator has."""
    session = session_for(tmp_path, PLAN)
    aggregator.rosters.append(roster_after(CONSORTIUM.roster))

    def meddle(request: Request, body: bytes):
        if request.method == "PUT" and not aggregator.manifests:
            aggregator(request, body)
            return problem(409, "roster-mismatch")
        return None

    world = World(aggregator, meddle)
    receipt = world.run(_flows.submit(session, OPEN, update_of()))
    first, renewed, again = announced(world)
    assert first.digest == again.digest == receipt.id != renewed.digest
    assert len(encryptions(world)) == 1
    assert session.stored(session.spool.entry(ROUND)).submission_id == receipt.id


def other(site: str = "a", round_id: RoundId = ROUND) -> Signed[Manifest]:
    return submission(PLAN, site, update_of(3), round_id)[0]


@pytest.mark.parametrize(
    "shown",
    [
        None,
        {},
        "own",
        other("b"),
        other(round_id=RoundId("test", 1, 2)),
        dataclasses.replace(other(), signatures={"a": bytes(64)}),
    ],
)
def test_first_manifest_that_this_site_has_not_signed(tmp_path, aggregator, shown):
    session = session_for(tmp_path, PLAN)

    def meddle(request: Request, body: bytes):
        if request.method != "PUT":
            return None
        first = json.loads(
            body[PLAN.public.wire_bytes :]
            if shown == "own"
            else shown.encode()
            if isinstance(shown, Signed)
            else json.dumps(shown)
        )
        return refusing("second-submission", manifest=first)(request, body)

    with pytest.raises(ProtocolError, match="refusal, first manifest") as caught:
        World(aggregator, meddle).run(_flows.submit(session, OPEN, update_of()))
    assert caught.value.reason != Reason.SECOND_SUBMISSION
    (line,) = security_log(session)
    assert (line["event"], line["round"]) == ("refusal-rejected", str(ROUND))
    assert World(aggregator).run(_flows.submit(session, OPEN, update_of())).site == "a"


def test_failed_round_is_believed_by_its_record_only(tmp_path, aggregator):
    session = session_for(tmp_path, PLAN)

    def meddle(request: Request, body: bytes) -> Response | None:
        return problem(409, "round-failed") if request.path.split("?")[0].endswith("/record") else None

    with pytest.raises(ProtocolError):
        World(aggregator, meddle).run(_flows.aggregate(session, OPEN, update_of()))
    assert session.is_stored(ROUND)
    aggregator.fail()
    with pytest.raises(ProtocolError, match="too few sites"):
        World(aggregator).run(_flows.aggregate(session, OPEN, update_of()))
    assert not session.is_stored(ROUND)


def test_record_that_breaks_a_receipt_is_an_alarm(tmp_path, aggregator):
    """Said once, by an error of its own; both documents stay, and can be read by anybody who has the roster."""
    session = session_for(tmp_path, PLAN)
    receipt = World(aggregator).run(_flows.submit(session, OPEN, update_of()))
    aggregator.others_submit()
    members = {site: own for site, own in aggregator.complete.items() if site != "a"}
    aggregator.complete.pop("a")
    aggregator.close(members=members, excluded={"a": "absent"})
    with pytest.raises(ProtocolError, match="out of the sum: absent") as caught:
        World(aggregator).run(_flows.resume(session, OPEN))
    assert (caught.value.reason, session.is_stored(ROUND)) == (Reason.RECEIPT_BROKEN, True)
    assert "he-agg evidence export" in caught.value.hint
    # People have been told; the others' mean can be had.
    assert World(aggregator).run(_flows.fetch(session, ROUND)).n_sites == 2
    (line,) = security_log(session)
    assert (line["event"], line["round"]) == ("receipt-broken", str(ROUND))
    (data,) = session.spool.evidence("test")
    (broken,) = parse_evidence(data)
    assert "out of the sum" in broken.check()
    assert (broken.receipt.body, broken.record, broken.rosters) == (receipt, aggregator.record, (CONSORTIUM.roster,))
    assert encode_evidence([broken]) == data
    for changed in (
        dataclasses.replace(broken, record=Signed.make(broken.record.body, identity_of("b").signing_key, AGGREGATOR)),
        dataclasses.replace(broken, receipt=dataclasses.replace(broken.receipt, signatures={})),
        dataclasses.replace(broken, rosters=()),
    ):
        with pytest.raises(WireError):
            changed.check()


@pytest.mark.parametrize(
    ("why", "broken"),
    [
        ("absent", True),
        ("incomplete", True),
        (None, True),
        ("round-failed", False),  # too few sites, or another site's part was damaged
        ("part-corrupt", False),  # its own part was, and was not sent again
        ("roster-changed", False),  # a member was removed in between
        ("epoch-changed", False),
        ("federation-ended", False),
    ],
)
def test_failed_round_that_calls_a_promised_submission_missing(tmp_path, aggregator, why, broken):
    session = session_for(tmp_path, PLAN)
    World(aggregator).run(_flows.submit(session, OPEN, update_of()))
    aggregator.fail(excluded=({} if why is None else {"a": why}) | {"b": "absent", "c": "absent"})
    # A record that does not even name an invited site stays refused, after the alarm too.
    after = Reason.BAD_ANSWER if why is None else Reason.ROUND_FAILED
    expected = [Reason.RECEIPT_BROKEN, after] if broken else [after]
    for reason in expected:
        with pytest.raises(ProtocolError) as caught:
            World(aggregator).run(_flows.resume(session, OPEN))
        assert caught.value.reason == reason
    assert len(session.spool.evidence("test")) == broken
    assert session.is_stored(ROUND) == (why is None)


def test_broken_receipt_is_noticed_while_catching_up(tmp_path, aggregator):
    session = session_for(tmp_path, PLAN)
    World(aggregator).run(_flows.submit(session, OPEN, update_of()))
    aggregator.others_submit()
    aggregator.complete.pop("a")
    aggregator.close(excluded={"a": "incomplete"})
    aggregator.open(RoundId("test", 2, 1))
    with pytest.raises(ProtocolError) as caught:
        World(aggregator).run(open_round(session))
    assert caught.value.reason == Reason.RECEIPT_BROKEN
    opened = World(aggregator).run(open_round(session))
    assert opened is not None
    assert World(aggregator).run(_flows.submit(session, opened, update_of(1))).round_id == "test.2.1"


def test_evidence_is_exported_for_others(tmp_path, aggregator):
    session = session_for(tmp_path, PLAN)
    World(aggregator).run(_flows.submit(session, OPEN, update_of()))
    aggregator.fail(excluded={"a": "absent", "b": "absent", "c": "absent"})
    with pytest.raises(ProtocolError, match="calls .* absent"):  # noqa: RUF043
        World(aggregator).run(_flows.resume(session, OPEN))
    session.identity.save(tmp_path / "identity")
    session.key.save(tmp_path / "keystore")
    (tmp_path / "trusted.json").write_bytes(CONSORTIUM.roster.encode())
    lines = ['url = "http://127.0.0.1:1"', 'identity = "identity"', 'keystore = "keystore"', 'roster = "trusted.json"']
    (tmp_path / "site.toml").write_text("\n".join([*lines, 'spool = "spool"']))
    out = tmp_path / "evidence.json"
    result = CliRunner().invoke(
        evidence_export, ["--config", str(tmp_path / "site.toml"), "--out", str(out)], catch_exceptions=False
    )
    assert (result.exit_code, "1 broken receipts" in result.output) == (0, True)
    (broken,) = parse_evidence(out.read_bytes())
    assert broken.rosters == (CONSORTIUM.roster,)
    assert "absent" in broken.check()
