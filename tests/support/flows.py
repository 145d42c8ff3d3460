"""A world for flows without a network: a clock that only sleeping moves, and an aggregator in memory to lie with.

The aggregator here follows the protocol in the plainest way; `World.meddle` sees every request first and may answer
in its place, fail, or change the answer. Every request is signed and the signature verified, as in reality. Real
servers are met in test_end_to_end.py.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client_sdk._disk.chain import Chain
from client_sdk._disk.ledger import Ledger
from client_sdk._disk.rosters import Rosters
from client_sdk._disk.security_log import SecurityLog
from client_sdk._disk.spool import Spool
from client_sdk._effects import Compute, Now, Report, Request, Response, Sink, Sleep, StreamBody
from client_sdk._net.signing import Signer
from client_sdk._net.transport import drive
from client_sdk._protocol.exchange import Retries
from client_sdk._protocol.poll import OpenRound
from client_sdk._protocol.retry import RetryPolicy
from client_sdk._protocol.session import MemberSession, Session
from client_sdk.federated import Update
from he_agg import Mean, Plan, canonical, dequantize, quantize
from he_agg.codecs import codec_for
from he_agg.documents.draw import draw
from he_agg.documents.manifest import Manifest
from he_agg.documents.record import NO_RECORD, PUBLISHED, RoundRecord
from he_agg.documents.roster import Member, Role, Roster
from he_agg.documents.signed import Signed
from he_agg.documents.state import FederationState, OpenAttempt
from he_agg.documents.verdict import Verdict
from he_agg.errors import Reason, TransportError
from he_agg.ids import RoundId
from he_agg.mac import RoundMac
from he_agg.protocol.http_signatures import RequestHead, digest_field, manifest_field, parse_claim, verify_request
from he_agg.protocol.messages import Receipt, SubmissionStatus
from he_agg.protocol.wire import encode_part, parse_part
from he_agg.signing import SigningKey
from keys import GroupKey
from keys.keystores import Keystores
from tests.support.federation import fold_all, key_of, plan_of
from tests.support.trust import AGGREGATOR, consortium, identity_of

N_VALUES = 4200
"""Three ciphertexts, one to a part of the shortest length: 2 x 2048 values, and the rest."""

ROUND = RoundId("test", 1, 1)
OPEN = OpenRound(ROUND, closes_at=3600.0)


SITES = ("a", "b", "c")
AGGREGATOR_KEY = SigningKey.generate()
CONSORTIUM = consortium("test", SITES, AGGREGATOR_KEY)
NOW = CONSORTIUM.roster.body.issued_at + 60
"""What a site's clock says, always."""


class KilledError(BaseException):
    """The process ends here. No flow may catch it."""


def small_plan(**options) -> Plan:
    """A plan whose submissions have three parts."""
    return plan_of(N_VALUES, part_bytes=2**16, weight_cap=10, **options)


def update_of(hot: int = 0, weight: Any = 1, **options) -> Update:
    """A one-hot update: a 2 in a sum would mean counted twice."""
    w = np.zeros(N_VALUES)
    w[hot] = 1.0
    return Update({"w": w}, weight, **options)


def problem(status: int, reason: str, detail: str = "no", hint: str = "", **headers: str) -> Response:
    """A problem document."""
    body = {"type": f"urn:he-agg:problem:{reason}", "title": "t", "status": status, "detail": detail, "reason": reason}
    if hint:
        body["hint"] = hint
    head = {"content-type": "application/problem+json"} | {k.replace("_", "-"): v for k, v in headers.items()}
    return Response(status, head, json.dumps(body).encode())


def json_of(message: Any, status: int = 200) -> Response:
    return Response(status, {"content-type": "application/json"}, json.dumps(dataclasses.asdict(message)).encode())


class FakeAggregator:
    """A federation with one round at a time. Publishes as soon as all invited sites are complete.

    It signs what an aggregator signs, keeps the chain of records, and hands out what it has; `close`, `others_submit`
    and the attributes let a test make it lie.
    """

    round_id: RoundId
    caller = "a"
    """Whose request this is."""

    def __init__(self, plan: Plan, sites: tuple[str, ...] = SITES, roster: Signed[Roster] = CONSORTIUM.roster) -> None:
        self.plan, self.key, self.sites = plan, key_of(plan), sites
        self.rosters: list[Signed[Roster]] = [roster]
        self.chain: list[Signed[RoundRecord]] = []
        self.past: dict[str, FakeAggregator] = {}
        self.open(ROUND)

    def open(self, round_id: RoundId) -> None:
        """Open a round; what the one before has stays to be read."""
        if hasattr(self, "round_id"):
            self.past[str(self.round_id)] = copy.copy(self)
            self.past[str(self.round_id)].past = {}
            self.past.pop(str(round_id), None)
        self.round_id = round_id
        self.roster = self.rosters[-1].body_digest
        self.previous, self.before = self.head, len(self.chain)
        self.manifests: dict[str, Signed[Manifest]] = {}
        self.parts: dict[str, dict[int, bytes]] = {}  # by submission
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.complete: dict[str, str] = {}
        self.record: Signed[RoundRecord] | None = None
        self.sum: list[bytes] = []
        self.verdicts: dict[str, Signed[Verdict]] = {}
        self.lies: dict[str, Any] = {}
        self.stage = "running"
        self.disputed: RoundId | None = None
        self.drawn: frozenset[str] | None = None
        self.attempt: OpenAttempt | None = OpenAttempt(
            round_id.number, round_id.attempt, NOW, NOW + 3600, tuple(sorted(self.sites))
        )

    @property
    def invited(self) -> list[str]:
        """All sites of the roster under which the round opened, or those that were drawn."""
        (roster,) = [signed.body for signed in self.rosters if signed.body_digest == self.roster]
        return list(roster.having(Role.SITE)) if self.drawn is None else sorted(self.drawn)

    def draw(self) -> None:
        """Invite two of the sites to this attempt, as a plan with `sample_percent` has it before the first sum."""
        assert self.attempt is not None
        self.drawn = draw({"a", "b", "c"}, 2, self.round_id, self.roster, NO_RECORD)
        self.attempt = dataclasses.replace(self.attempt, invited=tuple(sorted(self.drawn)))

    @property
    def head(self) -> str:
        """Digest of the newest record."""
        return self.chain[-1].digest if self.chain else NO_RECORD

    @property
    def opened(self) -> OpenRound:
        """The round as a site that asks now sees it."""
        return dataclasses.replace(OPEN, id=self.round_id, records=self.before, epoch=self.key.epoch)

    @property
    def state(self) -> FederationState:
        """Where it stands; `lies` are members that are not as they should be."""
        honest = FederationState(
            federation="test",
            stage=self.stage,
            plan_id=self.plan.plan_id,
            epoch=self.key.epoch,
            key_id=self.key.key_id,
            roster=self.rosters[-1].body_digest,
            roster_version=len(self.rosters),
            index=len(self.chain),
            head=self.head,
            open=self.attempt if self.stage == "running" and self.record is None else None,
            disputed=self.disputed,
        )
        return dataclasses.replace(honest, **self.lies)

    def others_submit(self, sites: str = "bc", **changed: Any) -> None:
        """The other sites hand in: site number i (from 1) sets value i and weighs 1.

        Args:
            sites: who.
            changed: members of their manifests that are not as they should be; the signature fits all the same.
        """
        for site in sites:
            update = update_of("abc".index(site))
            fields: dict[str, Any] = {"previous": self.previous, "roster": self.roster, "key": self.key} | changed
            signed, wire = submission(self.plan, site, update, self.round_id, **fields)
            self.replace(site, signed, wire)

    def replace(self, site: str, signed: Signed[Manifest], wire: list[bytes]) -> None:
        """Count something else for a site."""
        self.manifests[site] = signed
        self.parts[signed.digest] = dict(enumerate(wire))
        self.complete[site] = signed.digest

    def close(self, signer: tuple[str, SigningKey] = (AGGREGATOR, AGGREGATOR_KEY), **changed: Any) -> None:
        """Publish what is complete; arguments make the record a lie, or have it signed by somebody else."""
        places, plan_id = self.plan.public.places, self.plan.plan_id
        sums = fold_all(
            self.plan.public,
            [[parse_part(self.parts[i][p.number], p, plan_id) for p in places] for i in self.complete.values()],
        )
        self.sum = [encode_part(part, places[part.number], plan_id) for part in sums]
        honest = RoundRecord(
            round_id=self.round_id,
            index=len(self.chain) + 1,
            previous=self.previous,
            closed_at=1,
            roster=self.roster,
            epoch=self.key.epoch,
            key_id=self.key.key_id,
            plan_id=plan_id,
            outcome="published",
            members=dict(self.complete),
            excluded={site: "late" for site in self.invited if site not in self.complete},
            sum_digests=digests_of(self.sum),
        )
        self.write(dataclasses.replace(honest, **changed), signer)

    def fail(self, **changed: Any) -> None:
        """The round fails."""
        excluded = dict.fromkeys(self.invited, "too-few-sites")
        failed: dict[str, Any] = {"outcome": "failed", "members": {}, "excluded": excluded, "sum_digests": ()}
        self.close(**failed | changed)

    def end(self, signer: tuple[str, SigningKey] = (AGGREGATOR, AGGREGATOR_KEY), **changed: Any) -> None:
        """The federation ends instead of this round."""
        number = self.round_id.number
        ended: dict[str, Any] = {
            "outcome": "ended",
            "members": {},
            "excluded": {},
            "sum_digests": (),
            "reason": "rounds" if number > self.plan.public.rounds else "operator",
        }
        self.close(signer, **ended | changed)
        self.stage = "ended"

    def write(self, record: RoundRecord, signer: tuple[str, SigningKey] = (AGGREGATOR, AGGREGATOR_KEY)) -> None:
        """Write this round's record."""
        self.record = Signed.make(record, signer[1], signer[0])
        self.chain.append(self.record)

    def rewrite(self, **changed: Any) -> None:
        """Put another record, signed as it should be, in the place of this round's."""
        assert self.record is not None
        self.chain.remove(self.record)
        self.write(dataclasses.replace(self.record.body, **changed))

    def republish(self, parts: list[bytes]) -> None:
        """Serve other parts as the sum; the record names them."""
        self.sum = parts
        self.rewrite(sum_digests=digests_of(parts))

    def __call__(self, request: Request, body: bytes) -> Response:
        path = request.path.split("?")[0]
        if path == "/v1/federations/test/state":
            return signed_state(self.state)
        if match := re.fullmatch(r"/v1/federations/test/records/(\d+)", path):
            return _numbered(self.chain, int(match[1]), "unknown-round")
        if match := re.fullmatch(r"/v1/federations/test/rosters/(\d+|newest)", path):
            number = len(self.rosters) if match[1] == "newest" else int(match[1])
            return _numbered(self.rosters, number, "roster-mismatch")
        if (match := re.match(r"/v1/rounds/([a-z0-9.-]+)/", path)) and match[1] in self.past:
            return self.past[match[1]](request, body)
        if match := re.fullmatch(rf"/v1/rounds/{re.escape(str(self.round_id))}/submissions/([0-9a-f]{{32}})", path):
            if request.method == "PUT":
                return self._put(match[1], int(request.path.partition("?from=")[2] or 0), body)
            return self._status(match[1])
        if path == f"/v1/rounds/{self.round_id}/record":
            if self.record is None and len(self.complete) == len(self.sites):
                self.close()
            return self.ended() if self.record else Response(204)
        if match := re.fullmatch(rf"/v1/rounds/{re.escape(str(self.round_id))}/verdicts/([a-z]+)", path):
            self.verdicts.setdefault(match[1], Signed.parse(Verdict, body))
            return Response(201)
        if path == f"/v1/rounds/{self.round_id}/sum":
            return Response(200, {}, b"".join(self.sum[int(request.path.partition("?from=")[2]) :]))
        return problem(404, "unknown-round")

    def ended(self) -> Response:
        """The answer about a round that has ended."""
        published = self.record.body.outcome == PUBLISHED
        members = [site for site in sorted(self.record.body.members) if published and site in self.manifests]
        return answer_of(self.record.encode(), [self.manifests[site].encode() for site in members])

    def _status(self, upload: str) -> Response:
        if upload not in self.uploads:
            return problem(404, "unknown-submission")
        n_parts = len(self.plan.public.places)
        missing = [n for n in range(n_parts) if n not in self.uploads[upload]]
        complete = any(m.body.nonce == upload and m.digest in self.complete.values() for m in self.manifests.values())
        state = "complete" if complete else "open"
        return json_of(SubmissionStatus(upload, str(self.round_id), state, n_parts, missing))

    def _put(self, upload: str, first: int, body: bytes) -> Response:
        accepted = self.manifests.get(self.caller)
        if self.record is not None and (accepted is None or accepted.body.nonce != upload):
            return problem(409, "round-closed")
        if accepted is not None and accepted.body.nonce != upload:
            return self._second(accepted)
        parts = self.uploads.setdefault(upload, {})
        for place in self.plan.public.places[first:]:
            if not body:
                return Response(204)
            part, body = body[: place.wire_bytes], body[place.wire_bytes :]
            if parts.setdefault(place.number, part) != part:
                return problem(400, "bad-digest")
        if not body:
            return Response(204)
        return self._complete(upload, Signed.parse(Manifest, body.rstrip(b" ")))

    def _second(self, accepted: Signed[Manifest]) -> Response:
        refusal = problem(409, "second-submission")
        body = json.loads(refusal.body) | {"manifest": json.loads(accepted.encode())}
        return dataclasses.replace(refusal, body=json.dumps(body).encode())

    def _complete(self, upload: str, signed: Signed[Manifest]) -> Response:
        site, parts = signed.body.site, self.uploads[upload]
        signed.check_signed(self.rosters[-1].body.keys_of(Role.SITE))
        assert signed.body.nonce == upload
        accepted = self.manifests.get(site)
        if accepted is not None and accepted != signed:
            return self._second(accepted)
        if accepted is None and signed.body.previous != self.previous:
            return problem(409, "chain-mismatch")
        if accepted is None and signed.body.roster not in (self.roster, self.rosters[-1].body_digest):
            return problem(422, "roster-mismatch")
        if len(parts) != len(signed.body.part_digests):
            return problem(409, "incomplete")
        others = [n for n, part in parts.items() if hashlib.sha256(part).hexdigest() != signed.body.part_digests[n]]
        if others:
            for number in others:
                del parts[number]
            return problem(400, "bad-digest")
        self.manifests[site], self.complete[site] = signed, signed.digest
        self.parts[signed.digest] = parts
        return Response(200, {}, receipt_of(Receipt(signed.digest, str(self.round_id), site, 1)))


def answer_of(record: bytes, manifests: Sequence[bytes]) -> Response:
    """An answer about a round that has ended, put together of whatever bytes."""
    return Response(200, {}, b'{"manifests":[%b],"record":%b,"v":1}' % (b",".join(manifests), record))


def halves_of(answer: Response) -> tuple[bytes, list[Any]]:
    """The record in an answer about a round that has ended, as it travels; and the manifests, read as JSON."""
    value = json.loads(answer.body)
    return canonical.encode(value["record"]), value["manifests"]


def signed_state(state: FederationState, name: str = AGGREGATOR, key: SigningKey = AGGREGATOR_KEY) -> Response:
    """An answer with a state."""
    return Response(200, {"content-type": "application/json"}, Signed.make(state, key, name).encode())


def _numbered(documents: list, number: int, reason: str) -> Response:
    if not 1 <= number <= len(documents):
        return problem(404, reason)
    return Response(200, {}, documents[number - 1].encode())


def receipt_of(receipt: Receipt, name: str = AGGREGATOR, key: SigningKey = AGGREGATOR_KEY) -> bytes:
    """A signed receipt."""
    return Signed.make(receipt, key, name).encode()


def roster_after(signed: Signed[Roster], members: dict[str, Member] | None = None, **changed: int) -> Signed[Roster]:
    """The next version, signed by the coordinator."""
    return dataclasses.replace(CONSORTIUM, roster=signed).next_roster(members or dict(signed.body.members), **changed)


def digests_of(parts: list[bytes]) -> tuple[str, ...]:
    return tuple(hashlib.sha256(part).hexdigest() for part in parts)


def submission(
    plan: Plan,
    site: str,
    update: Update,
    round_id: RoundId = ROUND,
    previous: str = NO_RECORD,
    roster: str = CONSORTIUM.roster.body_digest,
    nonce: str = "00" * 16,
    key: GroupKey | None = None,
    **changed: Any,
) -> tuple[Signed[Manifest], list[bytes]]:
    """What an honest site would send: signed manifest and parts. Then `changed` members are replaced."""
    values, key = quantize(plan, update.tensors, update.weight).values, key or key_of(plan)
    return encrypted(plan, site, values, key, round_id, previous, roster, nonce, key, **changed)


def encrypted(
    plan: Plan,
    site: str,
    values: NDArray[np.int32],
    encrypt_with: GroupKey,
    round_id: RoundId = ROUND,
    previous: str = NO_RECORD,
    roster: str = CONSORTIUM.roster.body_digest,
    nonce: str = "00" * 16,
    key: GroupKey | None = None,
    **changed: Any,
) -> tuple[Signed[Manifest], list[bytes]]:
    """A submission of any integers, encrypted with any key; its tags are right, of the epoch's own key."""
    key, places = key or key_of(plan), plan.public.places
    mac = RoundMac(key.mac_key, plan.public, key.epoch, round_id)
    total = mac.new_total()
    wire = {}
    for part in codec_for(plan.public).encrypt(values, encrypt_with, round_id, watch=partial(mac.watch, total)):
        wire[part.number] = encode_part(part, places[part.number], plan.plan_id)
    parts = [wire[place.number] for place in places]
    tags = mac.tags(total, site, nonce)
    digests = digests_of(parts)
    honest = Manifest(round_id, key.epoch, key.key_id, plan.plan_id, site, nonce, digests, tags, roster, previous)
    return Signed.make(dataclasses.replace(honest, **changed), identity_of(site).signing_key), parts


Meddle = Callable[[Request, bytes], "Response | Exception | None"]


class World:
    """Carries out effects: files for real, requests in memory, time by the sleeps."""

    def __init__(
        self, aggregator: Callable[[Request, bytes], Response], meddle: Meddle | None = None, site: str = "a"
    ) -> None:
        self.aggregator = aggregator
        self.signer = Signer(site, identity_of(site).signing_key, "test")
        self.headers: list[dict[str, str]] = []
        self.meddle = meddle or (lambda request, body: None)
        self.time = 0.0
        self.piece_bytes = 1000
        self.sent: list[tuple[str, bytes]] = []
        self.events: list[Any] = []
        self.sleeps: list[float] = []
        self.effects = 0
        self.before: Callable[[int], None] = lambda number: None

    def run(self, flow):
        return drive(flow, self.perform)

    def perform(self, effect):
        self.before(self.effects)
        self.effects += 1
        match effect:
            case Request():
                return self._answer(effect)
            case Compute(work):
                return work()
            case Sleep(seconds):
                self.sleeps.append(seconds)
                self.time += seconds
            case Now():
                return self.time
            case Report(event):
                self.events.append(event)
        return None

    def _answer(self, request: Request) -> Response:
        sent = request.body
        # Each piece may be in the memory of the one before.
        body = b"".join(map(bytes, sent.pieces())) if isinstance(sent, StreamBody) else sent or b""
        assert sent is None or len(body) == len(sent)
        signed_at, headers = self.signer.sign(request)
        self.headers.append(headers)
        self.sent.append((f"{request.method} {request.path}", body))
        if request.progress is not None:
            self.events.append(request.progress(len(body)))
        if not self._verify(request, headers, body):
            return dataclasses.replace(problem(400, "bad-digest"), signed_at=signed_at)
        if "wait=30" in request.path:
            self.time += 30.0
        answer = self.meddle(request, body)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(self.aggregator, FakeAggregator):
            self.aggregator.caller = self.signer.name
        answer = answer if answer is not None else self.aggregator(request, body)
        if request.into is not None and answer.status in request.expect:
            self._hand_over(request.into, answer.body)
            answer = dataclasses.replace(answer, body=b"")
        return dataclasses.replace(answer, signed_at=signed_at)

    def _hand_over(self, into: Sink, body: bytes) -> None:
        while body:
            room = into.room()
            count = min(len(room), len(body), self.piece_bytes)
            room[:count], body = body[:count], body[count:]
            event = into.took(count)
            if event is not None:
                self.events.append(event)

    def _verify(self, request: Request, headers: dict[str, str], body: bytes) -> bool:
        """What a real aggregator does before anything else; whether the body is the one that was signed."""
        path, _, query = request.path.partition("?")
        head = RequestHead(request.method, path, query, headers["Content-Digest"], headers["He-Agg-Federation"])
        claim = parse_claim(headers["Signature-Input"], headers["Signature"])
        assert verify_request(head, claim, CONSORTIUM.roster.body.members[claim.name].public_key)
        assert (claim.name, head.federation) == (self.signer.name, "test")
        if request.method == "PUT" and re.fullmatch(r"/v1/rounds/[^/]+/submissions/[0-9a-f]{32}", path):
            return head.content_digest == manifest_field(path.rpartition("/")[2])
        return head.content_digest == digest_field(body)

    def paths(self, method: str) -> list[str]:
        """Paths of the requests of one method, in order."""
        return [line.split()[1] for line, _ in self.sent if line.startswith(method + " ")]


def session_for(tmp_path: Path, plan: Plan, site: str = "a", **policy: float) -> Session:
    """A site with its files below `tmp_path`; its jitter is always half of the ceiling."""
    spool, pin, identity = Spool(tmp_path / "spool", site), tmp_path / f"{site}.roster.json", identity_of(site)
    if not pin.exists():
        pin.write_bytes(CONSORTIUM.roster.encode())
    return Session(
        identity=identity,
        keys=keystores_of(tmp_path, key_of(plan), site),
        rosters=Rosters(pin, "test", identity),
        chain=Chain(spool.chain_path("test")),
        ledger=Ledger(spool.ledger_path("test")),
        log=SecurityLog(tmp_path / f"{site}.security.log", time.time),
        spool=spool,
        clock=lambda: NOW,
        retries=Retries(RetryPolicy(**policy), lambda: 0.5),
    )


def keystores_of(tmp_path: Path, key: GroupKey, site: str = "a") -> Keystores:
    """A site's keystore, on disk."""
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / f"{site}.keystore"
    if not path.exists():
        key.save(path)
    return Keystores(path)


def spooled(tmp_path: Path, site: str = "a") -> list[str]:
    """Names of what is in a site's spool, beside what it always keeps."""
    kept = {"test.chain", "test.dealt", "test.ledger", "test.rosters", "test.verdicts"}
    return sorted(path.name for path in (tmp_path / "spool" / site).iterdir() if path.name not in kept)


def security_log(session: MemberSession) -> list[dict]:
    """The lines of a site's security log."""
    return [json.loads(line) for line in session.log.path.read_text().splitlines()]


def damage_file(path: Path, damage: str) -> None:
    """What a disk does to a file: it is changed, shorter or missing."""
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        other = bytes([(content[-1] + 1) % 256])  # never what was there, which is random
        path.write_bytes(content[:-1] + other * (damage == "changed"))


def unreachable() -> TransportError:
    return TransportError(Reason.UNREACHABLE, "http://test: GET /: connection refused")


def assert_mean_of(mean: Mean, plan: Plan, updates: list[Update]) -> None:
    """See that a mean is, bit for bit, the plaintext fixed-point mean of these updates."""
    sums = np.zeros(plan.public.values, dtype=np.int64)
    for update in updates:
        sums += quantize(plan, update.tensors, update.weight, on_overflow=update.on_overflow).values
    expected = dequantize(plan, sums, len(updates))
    assert (mean.n_sites, mean.total_weight) == (expected.n_sites, expected.total_weight)
    assert np.array_equal(mean.sums, expected.sums)
    for name, tensor in expected.tensors.items():
        assert mean.tensors[name].dtype == tensor.dtype
        assert np.array_equal(mean.tensors[name], tensor)
