"""Whatever is sent: 2xx or 4xx, never 5xx, and after a 4xx everything that is kept is as it was.

Two fuzzers, each with a valid signature: schemathesis makes requests out of the OpenAPI document, with real ids in
about every second one, which are then signed by a member that may send such requests; and a byte fuzzer changes valid
manifests, rosters, bundles and parts. Unsigned and with changed signature fields, all requests are refused with 401.
Compared are all rows and all files.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from hypothesis import given
from hypothesis import strategies as st

from he_agg import canonical
from he_agg.documents.holding import Answer, Complaint, Echo
from he_agg.documents.signed import Signed
from he_agg.documents.verdict import OPENED, Verdict
from he_agg.ids import RoundId
from he_agg.protocol.http_signatures import EMPTY_DIGEST
from he_agg.sharing.shares import ANSWER_BYTES, Fault
from service.operator import operations
from tests.faults.fuzzing import MANY, bounded, kept, mutations, others
from tests.support.holding import Held, put_sharing_key, sharing_key, submit_all
from tests.support.peers import deal, make_plan, prepare, read_ended
from tests.support.seeds import seed_of
from tests.support.simulated import Clock, SimulatedFederation, snapshot

PLAN = make_plan("fuzz", values=3000, rounds=10**6)
SPLIT = make_plan("fuzz", split=True, min_sites=3, rounds=10**6)
_numbers = itertools.count()


class OpenRound:
    """An open round in which site a has put one part."""

    def __init__(self, data_dir) -> None:
        self.inside = SimulatedFederation(data_dir, PLAN, clock=Clock(1_800_000_000.5), keep_sums=10**6)
        self.a, self.b, self.coordinator = (self.inside.at(member) for member in ("a", "b", "coordinator"))
        self.first = prepare(PLAN, "fuzz.1.1", "a", 1)
        assert self.a.put(self.first, 0, self.first.parts[0]).status_code == 204


class AwaitedRound:
    """A published round whose holders are awaited: all but b have echoed its record, and a has answered."""

    def __init__(self, data_dir) -> None:
        clock = Clock(1_800_000_000.5)
        self.inside = SimulatedFederation(data_dir, SPLIT, clock=clock, holders="abct")
        for name in "abct":
            assert put_sharing_key(self.inside.at(name)).status_code == 201
        self.first, *_ = submit_all(SPLIT, self.inside.at, "fuzz.1.1")
        self.inside.fold()
        self.a, self.b, self.c, self.t = (Held(self.inside.at(name), "fuzz.1.1") for name in "abct")
        assert {one.echo().status_code for one in (self.a, self.c, self.t)} == {201}
        assert self.a.answer().status_code == 201


@pytest.fixture(scope="module")
def schema(world):
    """The OpenAPI document, which is the same for both worlds, and read once."""
    return schemathesis.openapi.from_dict(world.inside.app.openapi())


@pytest.fixture(scope="module")
def awaited(tmp_path_factory):
    made = AwaitedRound(tmp_path_factory.mktemp("fuzz") / "data")
    yield made
    made.inside.end()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = OpenRound(tmp_path_factory.mktemp("fuzz") / "data")
    yield made
    made.inside.end()


def judge(world, before, answer, *, may_change: bool) -> None:
    assert answer.status_code < 500, f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text}"
    if answer.status_code >= 400 or not may_change:
        assert kept(world.inside) == before, (
            f"changed by {answer.status_code}: {answer.request.method} {answer.request.url}"
        )


REAL: dict[str, list] = {
    "federation": ["fuzz"],
    "round_id": ["fuzz.1.1", "fuzz.1.2", "fuzz.01.1"],
    "index": [0, 1, 2, 10**9, 10**30],
    "version": ["newest", 1, 2, 10**9, 10**30],
    "number": ["newest", 1, 2, 10**9, 10**30],
    "site": ["a", "b", "coordinator"],
    "holder": ["a", "b", "t"],
    "dealer": ["b", "t"],
}
OPERATIONS = [
    ("GET", "/v1/federations/{federation}/state"),
    ("GET", "/v1/rounds/{round_id}/record"),
    ("GET", "/v1/rounds/{round_id}/submissions/{upload}"),
    ("PUT", "/v1/rounds/{round_id}/submissions/{upload}"),
    ("GET", "/v1/rounds/{round_id}/sum"),
    ("PUT", "/v1/rounds/{round_id}/verdicts/{site}"),
    ("GET", "/v1/rounds/{round_id}/verdicts"),
    ("GET", "/v1/federations/{federation}/records/{index}"),
    ("GET", "/v1/federations/{federation}/transcript"),
    ("GET", "/v1/federations/{federation}/rosters/{version}"),
    ("PUT", "/v1/federations/{federation}/rosters/{version}"),
    ("GET", "/v1/federations/{federation}/epochs/{number}"),
    ("PUT", "/v1/federations/{federation}/epochs/{number}"),
    ("PUT", "/v1/federations/{federation}/epochs/{number}/commitments/{site}"),
    ("GET", "/v1/federations/{federation}/epochs/{number}/commitments"),
    ("GET", "/healthz"),
]
HOLDING = [
    ("PUT", "/v1/federations/{federation}/epochs/{number}/sharing-keys/{holder}"),
    ("GET", "/v1/federations/{federation}/epochs/{number}/sharing-keys"),
    ("PUT", "/v1/rounds/{round_id}/submissions/{upload}/dealing"),
    ("GET", "/v1/rounds/{round_id}/holders"),
    ("GET", "/v1/rounds/{round_id}/shares"),
    ("PUT", "/v1/rounds/{round_id}/echoes/{holder}"),
    ("GET", "/v1/rounds/{round_id}/echoes"),
    ("PUT", "/v1/rounds/{round_id}/answers/{holder}"),
    ("GET", "/v1/rounds/{round_id}/answers"),
    ("PUT", "/v1/rounds/{round_id}/complaints/{holder}.{dealer}"),
    ("GET", "/v1/rounds/{round_id}/complaints"),
]
"""What only split keys need. Asked of a federation whose holders are awaited."""
SENDERS = {"rosters/{version}": "coordinator", "epochs/{number}": "coordinator", "commitments": "auditor"}
SIGNATURE = ("content-digest", "he-agg-federation", "signature-input", "signature")


@MANY
@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize(("method", "path"), [*OPERATIONS, *HOLDING])
def test_requests_out_of_the_openapi_document(request, schema, method, path, signed, times):
    world = request.getfixturevalue("awaited" if (method, path) in HOLDING else "world")
    sender = next((name for end, name in SENDERS.items() if path.endswith(end)), "a")
    sender = "auditor" if path.endswith("transcript") else sender
    peer = world.inside.at(sender)
    statuses: set[int] = set()
    operation = schema[path][method]

    @bounded(times * (25 if signed else 8))
    @given(case=operation.as_strategy(), data=st.data())
    def ask(case, data) -> None:
        for name, real in (REAL | {"upload": [world.first.upload]}).items():
            if name in (case.path_parameters or {}) and data.draw(st.booleans()):
                case.path_parameters[name] = data.draw(st.sampled_from(real))
        sent = case.as_transport_kwargs(base_url="http://inside")
        headers = {
            name: value
            for name, value in dict(sent["headers"] or {}).items()
            if name.lower() not in (*SIGNATURE, "content-length", "user-agent")
        }
        parameters = dict(sent.get("params") or {})
        if "wait" in parameters:
            with contextlib.suppress(ValueError, TypeError):
                # Nothing is going to happen, so there is nothing to wait for.
                parameters["wait"] = min(float(parameters["wait"]), 0.001)
        before = kept(world.inside)
        try:
            build = peer.signed if signed else world.inside.client.build_request
            request = build(
                method,
                sent["url"],
                headers=headers,
                params=parameters or None,
                content=sent.get("data") if isinstance(sent.get("data"), bytes | str) else None,
                json=sent.get("json"),
            )
        except (httpx.InvalidURL, UnicodeError, ValueError, TypeError):
            return  # what no client can send
        answer = world.inside.client.send(request)
        statuses.add(answer.status_code)
        judge(world, before, answer, may_change=False)

    ask()
    if path.startswith("/v1"):
        # A member that may ask is always let in, and nobody else ever. (404, 405: no such address.)
        assert 401 not in statuses if signed else statuses <= {401, 404, 405}, statuses


@st.composite
def spoilt(draw, fields: dict[str, str]) -> dict[str, str | None]:
    """Signature fields of which one is missing, twice, or has changed bytes."""
    name = draw(st.sampled_from(sorted(fields)))
    value = draw(mutations(fields[name].encode()) | st.just(b"") | st.none())
    return fields | {name: None if value is None else value.decode("latin-1")}


@MANY
def test_mutated_signatures(world, times):
    path = f"/v1/rounds/fuzz.1.1/submissions/{world.first.upload}"
    fields = world.a.signature("GET", path, EMPTY_DIGEST)
    assert world.inside.client.get(path, headers=fields).status_code == 200

    @bounded(100 * times)
    @given(changed=spoilt(fields))
    def ask(changed) -> None:
        if changed == fields:
            return
        before = kept(world.inside)
        headers = [(name, value.encode("latin-1")) for name, value in changed.items() if value is not None]
        answer = world.inside.client.get(path, headers=headers)
        # Another federation may be named, which is not there; spaces around a value are no part of it.
        same = {name: (value or "").strip() for name, value in changed.items()} == fields
        assert answer.status_code in ({200} if same else {401, 404}), answer.text
        judge(world, before, answer, may_change=False)

    ask()


def test_every_operation_of_the_document_is_asked(world):
    paths = world.inside.app.openapi()["paths"]
    documented = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    # /readyz writes and removes a file: tests/service asks it.
    assert documented - {("GET", "/readyz")} == {*OPERATIONS, *HOLDING}


@MANY
def test_mutated_rosters_and_bundles(tmp_path, times):
    world = OpenRound(tmp_path / "data")
    members = world.inside.members
    roster = members.next_roster(dict(members.roster.body.members)).encode()
    bundle = deal(members, 2, plan_id=PLAN.plan_id).encode()
    refused: set[str] = set()

    @bounded(80 * times)
    @given(which=st.booleans(), data=st.data())
    def ask(which, data) -> None:
        what, original = ("rosters/2", roster) if which else ("epochs/2", bundle)
        body = data.draw(mutations(original))
        if body == original:
            return
        before = kept(world.inside)
        answer = world.coordinator.bring(what, body)
        assert answer.status_code >= 400, "something else than what was signed was taken"
        refused.add(answer.json()["reason"])
        judge(world, before, answer, may_change=False)

    ask()
    assert refused, "nothing was ever changed"
    # What chance hits seldom: canonical documents in which nothing but the signature is another.
    for what, original in (("rosters/2", roster), ("epochs/2", bundle)):
        value = json.loads(original)
        ((name, text),) = value["signatures"].items()
        value["signatures"][name] = text[:-1] + ("0" if text[-1] != "0" else "1")
        answer = world.coordinator.bring(what, canonical.encode(value))
        assert answer.json()["reason"] == "bad-signature", answer.text
    assert world.coordinator.bring("rosters/2", roster).status_code == 201
    world.inside.end()


@MANY
def test_mutated_verdicts(tmp_path, times):
    inside = SimulatedFederation(tmp_path / "data", PLAN, clock=Clock(1_800_000_000.5))
    for seed, site in enumerate("abc"):
        inside.submit(site, seed, "fuzz.1.1")
    inside.fold()
    a, digest = inside.at("a"), inside.row("fuzz.1.1").record_digest or ""
    verdict = Verdict(RoundId("fuzz", 1, 1), digest, "a", OPENED)
    original = Signed.make(verdict, inside.members.identities["a"].signing_key).encode()
    refused: set[str] = set()

    @bounded(80 * times)
    @given(body=mutations(original))
    def ask(body) -> None:
        if body == original:
            return
        before = snapshot(inside.settings.data_dir)
        answer = a.put_verdict("fuzz.1.1", body)
        assert 400 <= answer.status_code < 500, "something else than what was signed was taken"
        refused.add(answer.json()["reason"])
        assert snapshot(inside.settings.data_dir) == before

    ask()
    assert refused, "nothing was ever changed"
    assert a.put_verdict("fuzz.1.1", original).status_code == 201
    inside.end()


@MANY
def test_mutated_documents_of_holders(tmp_path, times):
    """And changed dealings. What a holder may say, and has not yet, is said at last."""
    awaited = AwaitedRound(tmp_path / "data")
    b, rounds = awaited.b, "/v1/rounds/fuzz.1.1"
    said: dict[str, Any] = {
        f"{rounds}/echoes/b": Echo(**b.about()),
        f"{rounds}/answers/b": Answer(**b.about(), shares=bytes(ANSWER_BYTES)),
        f"{rounds}/complaints/b.a": Complaint(**b.about(), dealer="a", fault=Fault.OPENED, plaintext=b"plain"),
    }
    sent = {path: Signed.make(body, b.peer.member.signing_key).encode() for path, body in said.items()}
    submission = f"{awaited.first.path}/dealing"
    sent[submission] = awaited.first.dealing.to_bytes()
    key = "/v1/federations/fuzz/epochs/1/sharing-keys/b"
    sent[key] = sharing_key("fuzz", 1, b.peer.member)
    refused: set[str] = set()

    @bounded(150 * times)
    @given(path=st.sampled_from(sorted(sent)), data=st.data())
    def ask(path, data) -> None:
        body = data.draw(mutations(sent[path]))
        if body == sent[path]:
            return
        before = kept(awaited.inside)
        kind = "octet-stream" if path == submission else "json"
        sender = awaited.a.peer if path == submission else b.peer
        answer = sender.request("PUT", path, {"Content-Type": f"application/{kind}"}, content=body)
        assert 400 <= answer.status_code < 500, "something else than what was signed was taken"
        refused.add(answer.json()["reason"])
        judge(awaited, before, answer, may_change=False)

    ask()
    assert refused, "nothing was ever changed"
    # What chance hits seldom: another way to write the same, and nothing but another signature.
    before = kept(awaited.inside)
    for path in said:
        value = json.loads(sent[path])
        ((name, text),) = value["signatures"].items()
        value["signatures"][name] = text[:-1] + ("0" if text[-1] != "0" else "1")
        for reason, body in (("not-canonical", sent[path] + b" "), ("bad-signature", canonical.encode(value))):
            answer = b.peer.request("PUT", path, {"Content-Type": "application/json"}, content=body)
            assert answer.json()["reason"] == reason, answer.text
            judge(awaited, before, answer, may_change=False)
    assert (b.echo().status_code, b.answer().status_code) == (201, 201)
    awaited.inside.end()


@MANY
def test_mutated_requests_about_an_end(tmp_path, times):
    """What is signed for an attempt that never opened is refused, whatever it is, and the end stays as it is."""
    inside = SimulatedFederation(tmp_path / "data", PLAN, clock=Clock(1_800_000_000.5))
    operations.end(inside.aggregator.store, inside.aggregator.conductor, "fuzz")
    a, end = inside.at("a"), "fuzz.1.2"
    row = inside.row(end)
    assert row is not None
    verdict = Verdict(RoundId.parse(end), row.record_digest or "", "a", OPENED)
    spoken = Signed.make(verdict, inside.members.identities["a"].signing_key).encode()
    prepared = prepare(PLAN, end, "a", 1)
    manifest = prepared.manifest
    unnamed = manifest.replace(prepared.upload.encode(), b"g" * 32)  # a random case once
    assert 400 <= a.end(end, unnamed, first=2).status_code < 500

    @bounded(80 * times)
    @given(which=st.booleans(), data=st.data())
    def ask(which, data) -> None:
        body = data.draw(st.just(spoken if which else manifest) | mutations(spoken if which else manifest))
        before = snapshot(inside.settings.data_dir)
        answer = a.put_verdict(end, body) if which else a.end(end, body, first=2)
        assert 400 <= answer.status_code < 500, answer.text
        assert snapshot(inside.settings.data_dir) == before

    ask()
    assert a.sum_from(end).status_code == 409
    ended = read_ended(a.record(end).content)
    assert (ended.signed.encode(), ended.manifests) == (row.record, [])
    assert a.current()["stage"] == "ended"
    inside.end()


@MANY
def test_mutated_manifests(world, times):
    """All parts of theirs are here but the last, so that none is accepted, whatever it says of parts."""
    mine, peer = prepare(PLAN, "fuzz.1.1", "c", 3), world.inside.at("c")
    assert peer.put(mine, 0, mine.parts[0]).status_code == 204

    @bounded(100 * times)
    @given(body=mutations(mine.manifest))
    def ask(body) -> None:
        before = kept(world.inside)
        answer = peer.put_raw("fuzz.1.1", mine.upload, 2, body)
        assert answer.status_code >= 400, "a manifest of parts that are not here was accepted"
        judge(world, before, answer, may_change=False)

    ask()


@MANY
@pytest.mark.parametrize("first", [0, 1])
def test_mutated_parts(world, first, times):
    """What has the form of a part may stay with its upload, where it counts for nothing.

    Each time it is another upload, for a part that is stored is not changed any more.
    """
    peer, honest = world.inside.at("c"), prepare(PLAN, "fuzz.1.1", "c", 3).parts

    @bounded(80 * times)
    @given(data=st.data())
    def ask(data) -> None:
        body = data.draw(mutations(b"".join(honest[first:])))
        if body == b"".join(honest[first:]):
            return
        mine = prepare(PLAN, "fuzz.1.1", "c", 3, nonce=f"{next(_numbers):032x}")
        there = 1 - first  # it takes the place of the upload before
        assert peer.put_raw("fuzz.1.1", mine.upload, there, honest[there]).status_code == 204
        before = others(kept(world.inside), mine.upload)
        answer = peer.put(mine, first, body)
        assert answer.status_code == 204 or 400 <= answer.status_code < 500, answer.text
        assert others(kept(world.inside), mine.upload) == before
        assert peer.status(mine).json()["state"] == "open"

    ask()


@pytest.mark.parametrize("turn", [0, 1, *(pytest.param(turn, marks=pytest.mark.slow) for turn in range(2, 20))])
def test_signed_parts_that_are_none(tmp_path, turn):
    """The digest is right, and the bytes are not a part: only the parser stands in the way.

    In turns, because every request leaves an attempt behind, and all that is there is compared.
    """
    world = OpenRound(tmp_path / "data")
    part = world.first.parts[1]
    refused: set[str] = set()

    @hypothesis.seed(seed_of("signed parts") + turn)
    @bounded(20)
    @given(data=st.data())
    def ask(data) -> None:
        body = data.draw(mutations(part))
        # A new attempt each time, since a site submits but once.
        world.inside.clock.now += 3602
        current = world.a.current()["round_id"]
        digests = (
            hashlib.sha256(world.first.parts[0]).hexdigest(),
            hashlib.sha256(body).hexdigest(),
        )
        other = prepare(PLAN, current, "b", next(_numbers) + 10, part_digests=digests)
        assert world.b.put(other, 0, world.first.parts[0]).status_code == 204
        before = kept(world.inside)
        answer = world.b.put(other, 1, body)
        if answer.status_code == 200:
            # Residues of other values are a part like any other.
            assert len(body) == len(part)
            assert body[:64] == part[:64]
            return
        refused.add(answer.json()["reason"])
        assert answer.status_code != 409
        if len(body) > len(part):  # it may begin with a part, which then stays with its upload
            assert others(kept(world.inside), other.upload) == others(before, other.upload)
        else:
            judge(world, before, answer, may_change=False)

    ask()
    world.inside.end()
    assert len(refused) > 2, refused
