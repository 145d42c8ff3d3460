"""Encrypting and delivering, without a network: resuming, recognising, refusing."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import shutil

import numpy as np
import pytest

from client_sdk._disk.files import read_file
from client_sdk._disk.spool import SpoolEntry
from client_sdk._effects import Request, Response
from client_sdk._protocol import encrypt as _encrypt
from client_sdk._protocol import submit as _submit
from client_sdk._protocol import verbs as _flows
from client_sdk.progress import PhaseFinished, PhaseProgress, PhaseStarted
from he_agg import canonical
from he_agg.documents.record import NO_RECORD
from he_agg.documents.signed import Signed
from he_agg.errors import ConfigError, InputError, ProtocolError, Reason, TransportError, WireError
from he_agg.mac import RoundMac, tag_count
from he_agg.protocol.messages import Receipt, SubmissionStatus
from he_agg.protocol.wire import parse_part
from he_agg.signing import SigningKey
from keys import Identity
from tests.support.flows import (
    AGGREGATOR_KEY,
    CONSORTIUM,
    N_VALUES,
    OPEN,
    ROUND,
    FakeAggregator,
    KilledError,
    World,
    assert_mean_of,
    damage_file,
    json_of,
    keystores_of,
    problem,
    receipt_of,
    security_log,
    session_for,
    small_plan,
    unreachable,
    update_of,
)
from tests.support.trust import AGGREGATOR, identity_of

PLAN = small_plan()
PARTS = len(PLAN.public.places)


@pytest.fixture
def aggregator():
    return FakeAggregator(PLAN)


@pytest.fixture
def part_by_part(monkeypatch):
    """One part to a request, as if parts were long."""
    monkeypatch.setattr(_submit, "_RUN_BYTES", 1)


def test_whole_submission(tmp_path, aggregator):
    session, world = session_for(tmp_path, PLAN), World(aggregator)
    receipt = world.run(_flows.submit(session, OPEN, update_of()))
    assert aggregator.complete == {"a": receipt.id}
    assert PARTS == 3
    assert [line.split()[0] for line, _ in world.sent] == ["PUT"]
    manifest = world.sent[0][1][PLAN.public.wire_bytes :].rstrip(b" ")
    assert hashlib.sha256(manifest).hexdigest() == receipt.id
    assert session.is_stored(ROUND)  # until the mean was fetched


@pytest.mark.usefixtures("part_by_part")
def test_every_request_names_the_upload(tmp_path, aggregator):
    world = World(aggregator)
    session = session_for(tmp_path, PLAN)
    world.run(_flows.submit(session, OPEN, update_of()))
    upload = session.stored(session.spool.entry(ROUND)).manifest.nonce
    sent = zip(world.headers, world.sent, strict=True)
    digests = [headers["Content-Digest"] for headers, (line, _) in sent if line.startswith("PUT")]
    assert digests == [f"he-agg-manifest=:{base64.b64encode(bytes.fromhex(upload)).decode()}:"] * PARTS


@pytest.mark.usefixtures("part_by_part")
def test_progress_counts_every_byte(tmp_path, aggregator):
    world = World(aggregator)
    world.run(_flows.submit(session_for(tmp_path, PLAN), OPEN, update_of()))
    total = PLAN.public.wire_bytes
    phases = [(type(e).__name__, e.phase) for e in world.events]
    assert phases[0] == ("PhaseStarted", "encrypt")
    assert [e for e in world.events if isinstance(e, PhaseStarted)] == [
        PhaseStarted(str(ROUND), "encrypt", total),
        PhaseStarted(str(ROUND), "upload", total),
    ]
    for phase in ("encrypt", "upload"):
        done = [e.done_bytes for e in world.events if isinstance(e, PhaseProgress) and e.phase == phase]
        assert done == sorted(done)
        assert done[-1] == total
    finished = [e for e in world.events if isinstance(e, PhaseFinished)]
    assert [e.phase for e in finished] == ["encrypt", "upload"]
    assert finished[1].sent_bytes == sum(len(body) for _, body in world.sent)


@pytest.mark.usefixtures("part_by_part")
@pytest.mark.parametrize("handled", [False, True])
@pytest.mark.parametrize("failing", range(PARTS))
def test_each_request_is_repeated_with_the_same_bytes(tmp_path, aggregator, failing, handled):
    """Lost before it arrived, or after it was handled: a site is told which, and sends no part twice for it."""
    count = -1

    def meddle(request: Request, body: bytes):
        nonlocal count
        count += 1
        if count != failing:
            return None
        if handled:
            aggregator(request, body)
        return unreachable()

    world = World(aggregator, meddle)
    world.run(_flows.submit(session_for(tmp_path, PLAN), OPEN, update_of()))
    sent = [one for one in world.sent if not one[0].startswith("GET")]
    end = failing == PARTS - 1 and handled  # the manifest alone, instead of the last part once more
    assert len(sent) == PARTS + (not handled or end)
    bodies = {(line, body.rstrip(b" ")) for line, body in sent}
    assert len(bodies) == PARTS + end == len({line for line, _ in sent})
    assert set(aggregator.complete) == {"a"}


@pytest.mark.usefixtures("part_by_part")
def test_killed_at_every_step_and_run_again(tmp_path):
    """The spool as SIGKILL leaves it before each effect; the second process finishes, never with a second manifest."""
    probe = World(FakeAggregator(PLAN))
    probe.run(_flows.submit(session_for(tmp_path / "probe", PLAN), OPEN, update_of()))
    for step in range(1, probe.effects):
        root = tmp_path / str(step)
        aggregator = FakeAggregator(PLAN)
        world = World(aggregator)

        def freeze(number, step=step, root=root):
            if number == step:
                half_written = shutil.ignore_patterns(".*")  # which may get their names while they are copied
                shutil.copytree(root / "before" / "spool", root / "after" / "spool", ignore=half_written)
                raise KilledError

        world.before = freeze
        session = session_for(root / "before", PLAN)
        with pytest.raises(KilledError):
            world.run(_flows.submit(session, OPEN, update_of()))
        # The clean-up of an orderly interruption went to the other copy.
        again = World(aggregator)
        receipt = again.run(_flows.submit(session_for(root / "after", PLAN), OPEN, update_of()))
        assert aggregator.complete == {"a": receipt.id}
        assert len(aggregator.parts) == len(aggregator.uploads) == 1
        sent_twice = set(world.paths("PUT")) & set(again.paths("PUT"))
        # A part is sent again only when its answer was never seen.
        assert len(sent_twice) <= 1


def test_orderly_interruption_during_encryption_leaves_nothing(tmp_path, aggregator):
    session, world = session_for(tmp_path, PLAN), World(aggregator)

    def interrupt(number):
        if any(isinstance(e, PhaseProgress) for e in world.events):
            raise KeyboardInterrupt

    world.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        world.run(_flows.submit(session, OPEN, update_of()))
    assert list((tmp_path / "spool" / "a").iterdir()) == []


@pytest.mark.usefixtures("part_by_part")
def test_resumed_submission_sends_only_what_is_missing(tmp_path, aggregator):
    def meddle(request: Request, body: bytes):
        return unreachable() if request.path.endswith("?from=1") else None

    session = session_for(tmp_path, PLAN, patience_s=1.0)
    first = World(aggregator, meddle)
    with pytest.raises(TransportError, match="gave up"):
        first.run(_flows.submit(session, OPEN, update_of()))
    second = World(aggregator)
    second.run(_flows.submit(session, OPEN, update_of()))
    assert [path.partition("?")[2] for path in second.paths("PUT")] == ["from=1", "from=2"]
    bodies = dict(first.sent)
    assert all(bodies.get(line, body) == body for line, body in second.sent)
    assert second.events[-1].sent_bytes < PLAN.public.wire_bytes


def test_stochastic_rounding_recognises_its_own_update(tmp_path, aggregator):
    """Other integers each time, the same update: it must be resumed, not refused."""
    w = np.full(N_VALUES, 0.1234567)
    update = dataclasses.replace(update_of(rounding="stochastic"), tensors={"w": w})
    session = session_for(tmp_path, PLAN)
    first = World(aggregator).run(_flows.submit(session, OPEN, update))
    assert World(aggregator).run(_flows.submit(session, OPEN, update)).id == first.id


@pytest.mark.parametrize("other", [update_of(1), update_of(0, weight=2)])
def test_second_different_update_is_refused(tmp_path, aggregator, other):
    session = session_for(tmp_path, PLAN)
    World(aggregator).run(_flows.submit(session, OPEN, update_of()))
    world = World(aggregator)
    with pytest.raises(InputError, match="expected the update that is stored") as caught:
        world.run(_flows.submit(session, OPEN, other))
    assert (caught.value.reason, caught.value.hint) == (
        Reason.SECOND_SUBMISSION,
        "round.resume() finishes the stored one",
    )
    assert world.sent == []


def test_lost_spool_is_explained(tmp_path, aggregator):
    """The aggregator has another submission of this site, and shows its manifest, which this site's key has signed."""
    World(aggregator).run(_flows.submit(session_for(tmp_path / "lost", PLAN), OPEN, update_of()))
    session = session_for(tmp_path / "new", PLAN)
    world = World(aggregator)
    with pytest.raises(ProtocolError, match="the spool was lost; nothing was added") as caught:
        world.run(_flows.submit(session, OPEN, update_of()))
    assert caught.value.reason == Reason.SECOND_SUBMISSION
    assert "round.fetch()" in caught.value.hint
    assert len(world.sent) == 1
    assert len(aggregator.complete) == 1
    # What it had first stays as a mark: nothing is encrypted again, and the mean can be had.
    kept = session.spool.entry(ROUND)
    assert session.stored(kept).submission_id == aggregator.complete["a"]
    assert not kept.part_path(0).exists()
    with pytest.raises(InputError, match="got another one"):
        World(aggregator).run(_flows.submit(session, OPEN, update_of()))
    aggregator.others_submit()
    assert World(aggregator).run(_flows.resume(session, OPEN)).n_sites == 3


def test_lost_spool_whose_submission_is_not_complete(tmp_path, aggregator):
    """It counts for nothing: this machine begins again, and then the other one has come too late."""
    no_parts = World(aggregator, lambda request, body: unreachable() if request.method == "PUT" else None)
    lost = session_for(tmp_path / "lost", PLAN, patience_s=1.0)
    with pytest.raises(TransportError):
        no_parts.run(_flows.submit(lost, OPEN, update_of()))
    receipt = World(aggregator).run(_flows.submit(session_for(tmp_path / "new", PLAN), OPEN, update_of()))
    assert aggregator.complete == {"a": receipt.id}
    with pytest.raises(ProtocolError, match="the spool was lost") as caught:
        World(aggregator).run(_flows.resume(lost, OPEN))
    assert caught.value.reason == Reason.SECOND_SUBMISSION
    assert lost.stored(lost.spool.entry(ROUND)).submission_id == receipt.id


@pytest.mark.parametrize(
    ("update", "reason", "text"),
    [
        (update_of(weight=0), Reason.WEIGHT_OUT_OF_RANGE, "expected 1 to 10"),
        (update_of(weight=-1), Reason.WEIGHT_OUT_OF_RANGE, "expected 1 to 10"),
        (update_of(weight=11), Reason.WEIGHT_OUT_OF_RANGE, "expected 1 to 10"),
        (update_of(weight=1.5), Reason.WEIGHT_OUT_OF_RANGE, "integer"),
        (update_of(rounding="up"), Reason.BAD_ARGUMENT, "rounding"),
        (update_of(on_overflow="wrap"), Reason.BAD_ARGUMENT, "on_overflow"),
    ],
)
def test_bad_arguments_reach_neither_disk_nor_network(tmp_path, aggregator, update, reason, text):
    refuse_before_anything(tmp_path, aggregator, update, reason, text)


@pytest.mark.parametrize(
    ("change", "reason", "text"),
    [
        (lambda w: {"w": put(w, 7, np.nan)}, Reason.NON_FINITE, "tensor 'w', flat index 7"),
        (lambda w: {"w": put(w, 8, -np.inf)}, Reason.NON_FINITE, "tensor 'w', flat index 8"),
        (lambda w: {"w": put(w, 9, 1.5)}, Reason.BEYOND_CLIP, "tensor 'w', flat index 9"),
        (lambda w: {}, Reason.MISSING_TENSOR, "tensor 'w'"),
        (lambda w: {"w": w, "v": w}, Reason.EXTRA_TENSOR, "first 'v'"),
        (lambda w: {"w": w[1:]}, Reason.WRONG_SHAPE, r"expected shape \(4200,\), got \(4199,\)"),
        (lambda w: {"w": w.astype(np.float32)}, Reason.WRONG_DTYPE, "expected dtype float64, got float32"),
    ],
)
def test_bad_tensors_reach_neither_disk_nor_network(tmp_path, aggregator, change, reason, text):
    tensors = change(np.zeros(N_VALUES))
    refuse_before_anything(tmp_path, aggregator, dataclasses.replace(update_of(), tensors=tensors), reason, text)


def put(w, index, value):
    w[index] = value
    return w


def refuse_before_anything(tmp_path, aggregator, update, reason, text):
    world = World(aggregator)
    with pytest.raises(InputError, match=text) as caught:
        world.run(_flows.aggregate(session_for(tmp_path, PLAN), OPEN, update))
    assert caught.value.reason == reason
    assert world.sent == []
    assert list((tmp_path / "spool" / "a").iterdir()) == []


def test_clipping_when_asked(tmp_path, aggregator):
    aggregator.others_submit()
    w = np.zeros(N_VALUES)
    w[0] = 17.0
    update = dataclasses.replace(update_of(on_overflow="clip"), tensors={"w": w})
    mean = World(aggregator).run(_flows.aggregate(session_for(tmp_path, PLAN), OPEN, update))
    assert_mean_of(mean, PLAN, [update_of(0), update_of(1), update_of(2)])


@pytest.mark.usefixtures("part_by_part")
def test_aggregator_that_lost_parts_gets_them_again(tmp_path, aggregator):
    """Bit rot or a restored backup: the end is answered with `incomplete`, and only what was lost is sent again."""
    lost = []

    def meddle(request: Request, body: bytes):
        if request.path.endswith("?from=2") and not lost:
            own = request.path.split("/")[5].partition("?")[0]
            lost.append(aggregator.uploads[own].pop(1))

    world = World(aggregator, meddle)
    world.run(_flows.submit(session_for(tmp_path, PLAN), OPEN, update_of()))
    numbers = [path.partition("?from=")[2] for path in world.paths("PUT")]
    assert numbers == ["", "1", "2", "1", "3"]  # and the manifest alone


@pytest.mark.usefixtures("part_by_part")
def test_aggregator_that_forgot_the_submission_is_told_again(tmp_path, aggregator):
    forgotten = []

    def meddle(request: Request, body: bytes):
        if request.path.endswith("?from=2") and not forgotten:
            forgotten.append(aggregator.uploads.copy())
            aggregator.uploads.clear()

    world = World(aggregator, meddle)
    receipt = world.run(_flows.submit(session_for(tmp_path, PLAN), OPEN, update_of()))
    assert aggregator.complete == {"a": receipt.id}
    assert list(aggregator.uploads) == list(forgotten[0])
    assert len(world.paths("PUT")) == 6


def test_aggregator_that_always_loses_parts_is_given_up(tmp_path, aggregator):
    def meddle(request: Request, body: bytes):
        return problem(409, "incomplete") if request.method == "PUT" else None

    session = session_for(tmp_path, PLAN)
    with pytest.raises(ProtocolError, match="lost parts of this submission 5 times"):
        World(aggregator, meddle).run(_flows.submit(session, OPEN, update_of()))
    assert session.is_stored(ROUND)


@pytest.fixture
def nothing_held(monkeypatch):
    """All parts are read from the spool, as those are that do not fit into memory."""
    monkeypatch.setattr(_encrypt, "HELD_BYTES", 0)


@pytest.mark.usefixtures("part_by_part", "nothing_held")
@pytest.mark.parametrize("damage", ["changed", "shorter", "missing"])
def test_part_that_the_disk_damaged_is_told_from_a_bad_network(tmp_path, aggregator, damage):
    """The aggregator refuses what is damaged, whoever did it; then the site looks at its own disk first."""
    session = session_for(tmp_path, PLAN)

    def rot(request: Request, body: bytes):
        if request.method == "PUT" and not request.path.endswith("?from=1"):
            damage_file(session.spool.entry(ROUND).part_path(1), damage)

    world = World(aggregator, rot)
    with pytest.raises(WireError, match="part-00001 is damaged") as caught:
        world.run(_flows.submit(session, OPEN, update_of()))
    assert caught.value.reason == Reason.BAD_DIGEST
    assert len(world.paths("PUT")) == (3 if damage == "changed" else 1)  # never a second time
    assert [sorted(parts) for parts in aggregator.uploads.values()] == [[0, 2] if damage == "changed" else [0]]
    assert world.sleeps == []


@pytest.mark.usefixtures("part_by_part", "nothing_held")
def test_damaged_part_is_told_also_when_nobody_answers(tmp_path, aggregator):
    """A proxy that hangs up on what it does not like must not hide the disk behind the network."""
    session = session_for(tmp_path, PLAN, patience_s=1.0)

    def rot(request: Request, body: bytes):
        path = session.spool.entry(ROUND).part_path(1)
        damage_file(path, "changed")
        return unreachable() if request.path.endswith("?from=1") else None

    with pytest.raises(WireError, match="part-00001 is damaged"):
        World(aggregator, rot).run(_flows.submit(session, OPEN, update_of()))


@pytest.mark.parametrize("held", [True, False])
def test_parts_are_read_once_to_be_sent_or_not_at_all(tmp_path, aggregator, monkeypatch, held):
    """A second look is for what was refused only."""
    read = []
    monkeypatch.setattr(SpoolEntry, "check_part", lambda *_: pytest.fail("read twice"))
    monkeypatch.setattr(_submit, "read_file", lambda path, length: read.append(path) or read_file(path, length))
    if not held:
        monkeypatch.setattr(_encrypt, "HELD_BYTES", 0)
    session = session_for(tmp_path, PLAN)
    World(aggregator).run(_flows.submit(session, OPEN, update_of()))
    assert set(aggregator.complete) == {"a"}
    entry = session.spool.entry(ROUND)
    parts = [entry.part_path(number) for number in range(PARTS)]
    assert read == ([] if held else parts)
    assert [list(sent.values()) for sent in aggregator.uploads.values()] == [[path.read_bytes() for path in parts]]


@pytest.mark.usefixtures("part_by_part")
def test_what_a_proxy_spoilt_is_sent_again_from_the_disk(tmp_path, aggregator):
    """Memory is given back when a part has left."""
    session, spoilt = session_for(tmp_path, PLAN), []

    def spoil(request: Request, body: bytes):
        if request.path.endswith("?from=1") and not spoilt:
            spoilt.append(request.path)
            return problem(400, "bad-digest")
        return None

    receipt = World(aggregator, spoil).run(_flows.submit(session, OPEN, update_of()))
    assert (aggregator.complete, len(spoilt)) == ({"a": receipt.id}, 1)


def test_spool_of_another_key_is_refused(tmp_path, aggregator):
    World(aggregator).run(_flows.submit(session_for(tmp_path, PLAN), OPEN, update_of()))
    other = dataclasses.replace(session_for(tmp_path, PLAN).key, epoch=2)
    session = dataclasses.replace(session_for(tmp_path, PLAN), keys=keystores_of(tmp_path / "other", other))
    world = World(aggregator)
    with pytest.raises(WireError, match="epoch: expected 2, got 1"):
        world.run(_flows.resume(session, dataclasses.replace(OPEN, epoch=2)))
    assert world.sent == []


def test_no_room_is_found_out_before_encrypting(tmp_path, aggregator, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(ConfigError, match=f"expected {2 * PLAN.public.wire_bytes} free bytes"):
        World(aggregator).run(_flows.submit(session_for(tmp_path, PLAN), OPEN, update_of()))


def status_like(**changed):
    def lie(answer: Response) -> Response:
        return json_of(dataclasses.replace(SubmissionStatus(**json.loads(answer.body)), **changed))

    return lie


@pytest.mark.parametrize(
    "lie",
    [
        status_like(upload="00" * 16),
        status_like(round_id="test.1.2"),
        status_like(parts=PARTS + 1),
        status_like(missing=[PARTS]),
        status_like(missing=[-1]),
        status_like(missing=[0] * 50),
        lambda answer: Response(200, {}, b"<html>"),
        lambda answer: Response(200, {}, b""),
        lambda answer: Response(200, {}, b"[]"),
        lambda answer: Response(200, {}, b'{"id": 3}'),
        lambda answer: Response(200, {}, b"\xff\xfe"),
        lambda answer: Response(200, {}, answer.body[:-3]),
    ],
)
def test_answer_that_is_none_of_the_protocols(tmp_path, aggregator, lie):
    def meddle(request: Request, body: bytes):
        if request.method == "GET":
            return lie(aggregator(request, body))
        aggregator.uploads[request.path.rpartition("/")[2]] = {}
        return unreachable()

    session = session_for(tmp_path, PLAN)
    with pytest.raises(ProtocolError) as caught:
        World(aggregator, meddle).run(_flows.submit(session, OPEN, update_of()))
    assert caught.value.reason == Reason.BAD_ANSWER
    assert session.is_stored(ROUND)


def receipt_like(name=AGGREGATOR, key=AGGREGATOR_KEY, **changed):
    def lie(honest: bytes) -> bytes:
        body = Signed.parse(Receipt, honest).body
        return receipt_of(dataclasses.replace(body, **changed), name, key)

    return lie


@pytest.mark.parametrize(
    ("lie", "reason", "what"),
    [
        (receipt_like(), None, ""),
        (receipt_like(id="00" * 32), Reason.BAD_ANSWER, "receipt, submission"),
        (receipt_like(round_id="test.9.9"), Reason.BAD_ANSWER, "receipt, round"),
        (receipt_like(site="b"), Reason.BAD_ANSWER, "receipt, site"),
        (receipt_like(key=SigningKey.generate()), Reason.BAD_SIGNATURE, "receipt, signature"),
        (receipt_like("b", identity_of("b").signing_key), Reason.BAD_SIGNATURE, "receipt, signature"),
        (lambda honest: honest.replace(b'"receipt"', b'"manifest"'), Reason.BAD_FIELD, "receipt"),
        (lambda honest: canonical.encode(json.loads(honest) | {"signatures": {}}), Reason.BAD_SIGNATURE, "signature"),
        (lambda honest: honest[:-1], Reason.BAD_FIELD, "receipt"),
        (lambda honest: b"", Reason.BAD_FIELD, "receipt"),
    ],
)
def test_receipt_of_something_else(tmp_path, aggregator, lie, reason, what):
    def meddle(request: Request, body: bytes):
        return Response(200, {}, lie(aggregator(request, body).body)) if request.method == "PUT" else None

    session = session_for(tmp_path, PLAN)
    flow = _flows.submit(session, OPEN, update_of())
    kept = session.spool.entry(ROUND).path / "receipt.json"
    if reason is None:  # the honest path, by the same code
        receipt = World(aggregator, meddle).run(flow)
        assert Signed.parse(Receipt, kept.read_bytes()).body == receipt
        assert security_log(session) == []
        return
    with pytest.raises(ProtocolError, match=what) as caught:
        World(aggregator, meddle).run(flow)
    assert caught.value.reason == reason
    assert not kept.exists()
    (line,) = security_log(session)
    assert (line["event"], line["round"], line["site"]) == ("receipt-rejected", "test.1.1", "a")
    assert session.is_stored(ROUND)


def test_receipt_is_asked_for_again_and_is_the_same(tmp_path, aggregator):
    session = session_for(tmp_path, PLAN)
    first = World(aggregator).run(_flows.submit(session, OPEN, update_of()))
    kept = (session.spool.entry(ROUND).path / "receipt.json").read_bytes()
    assert World(aggregator).run(_flows.submit(session, OPEN, update_of())) == first
    assert (session.spool.entry(ROUND).path / "receipt.json").read_bytes() == kept


def test_manifest_says_what_the_round_needs_to_be_verified(tmp_path, aggregator):
    session = session_for(tmp_path, PLAN)
    World(aggregator).run(_flows.submit(session, OPEN, update_of()))
    signed = aggregator.manifests["a"]
    signed.check_signed({"a": session.identity.signing_key.public_key})
    manifest = signed.body
    manifest.check(PLAN.public, ROUND, 1, session.key.key_id, "a")
    assert (manifest.roster, manifest.previous) == (CONSORTIUM.roster.body_digest, NO_RECORD)
    assert [len(tags) for tags in manifest.tags] == [tag_count(place.section) for place in PLAN.public.places]
    check = RoundMac(session.key.mac_key, PLAN.public, 1, ROUND).check([("a", manifest.nonce, manifest.tags)])
    for number, place in enumerate(PLAN.public.places):
        data = aggregator.parts[signed.digest][number]
        assert check.holds(number, parse_part(data, place, PLAN.plan_id).packed)
    assert check.whole


def test_stored_submission_of_another_identity_is_refused(tmp_path, aggregator):
    """The identity was made anew: what the old one signed is not sent."""
    session = session_for(tmp_path, PLAN)
    World(aggregator).run(_flows.submit(session, OPEN, update_of()))
    stranger = dataclasses.replace(session, identity=Identity.create("a"))
    world = World(aggregator)
    with pytest.raises(WireError, match="expected the signature of a"):
        world.run(_flows.resume(stranger, OPEN))
    assert world.sent == []
    assert World(aggregator).run(_flows.submit(session, OPEN, update_of())).site == "a"


def test_tags_are_computed_as_parts_are_made(tmp_path, aggregator, monkeypatch):
    """When the codec hands a part over nothing of it is left to look at; and no part is looked at twice."""
    log = []
    session = session_for(tmp_path, PLAN)
    look, encrypt = RoundMac.watch, session.codec.encrypt

    def parts(*arguments, watch, **options):
        for made in encrypt(*arguments, watch=watch, **options | {"threads": 1}):
            log.append(("made", made.number))
            yield made

    monkeypatch.setattr(RoundMac, "watch", lambda self, t, n: (log.append(("looked at", n)), look(self, t, n))[1])
    monkeypatch.setattr(RoundMac, "part", None)
    monkeypatch.setattr(type(session.codec), "encrypt", lambda self, *a, **k: parts(*a, **k))
    World(aggregator).run(_flows.submit(session, OPEN, update_of()))
    assert sorted(log) == sorted((what, n) for n in range(PARTS) for what in ("made", "looked at"))
    assert all(log.index(("looked at", n)) < log.index(("made", n)) for n in range(PARTS))


@pytest.mark.parametrize(
    ("answer", "reason", "hint"),
    [
        (problem(409, "round-closed", "closed"), Reason.ROUND_CLOSED, "round.fetch()"),
        (problem(403, "not-invited", "not you"), Reason.NOT_INVITED, "ask the operator"),
        (problem(401, "unauthenticated", "who?"), Reason.UNAUTHENTICATED, "proxy"),
        (problem(401, "bad-signature", "who?"), Reason.BAD_SIGNATURE, "compare fingerprints"),
        (problem(401, "roster-expired", "too old"), Reason.ROSTER_EXPIRED, "he-agg roster next"),
        (problem(403, "forbidden", "no"), Reason.FORBIDDEN, "ask the coordinator"),
        (problem(413, "too-large", "too long", "the limit is 1 MB"), Reason.TOO_LARGE, "the limit is 1 MB"),
    ],
)
def test_refusals_are_told_with_a_hint(tmp_path, aggregator, answer, reason, hint):
    def meddle(request: Request, body: bytes):
        return answer if request.method == "PUT" else None

    with pytest.raises(ProtocolError) as caught:
        World(aggregator, meddle).run(_flows.submit(session_for(tmp_path, PLAN), OPEN, update_of()))
    assert caught.value.reason == reason
    assert hint in caught.value.hint


def test_uploads_stop_being_tried_after_the_deadline(tmp_path, aggregator):
    session = session_for(tmp_path, PLAN, patience_s=50.0)
    world = World(aggregator, lambda request, body: unreachable())
    world.time = OPEN.closes_at + 30.0
    with pytest.raises(TransportError):
        world.run(_flows.submit(session, OPEN, update_of()))
    assert world.time == OPEN.closes_at + 50.0


def test_nothing_readable_lies_in_the_spool(tmp_path, aggregator):
    World(aggregator).run(_flows.submit(session_for(tmp_path, PLAN), OPEN, update_of(weight=7)))
    files = [path.read_bytes() for path in (tmp_path / "spool").rglob("*") if path.is_file()]
    assert len(files) == PARTS + 3  # submission, receipt, ledger
    plain = np.asarray(update_of().tensors["w"])
    assert not any(plain[:8].tobytes() in content for content in files)
