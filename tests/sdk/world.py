"""A world for flows without a network: a clock that only sleeping moves, and an aggregator in memory to lie with.

The aggregator here follows the protocol in the plainest way; `World.meddle` sees every request first and may answer
in its place, fail, or change the answer. Real servers are met in test_end_to_end.py.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from client_sdk._effects import Compute, FileBody, Now, Report, Request, Response, Sleep
from client_sdk._encrypt import Update
from client_sdk._exchange import Retries
from client_sdk._poll import OpenRound
from client_sdk._retry import RetryPolicy
from client_sdk._session import Session
from client_sdk._transport import drive
from client_sdk.spool import Spool
from he_agg.codecs import codec_for
from he_agg.errors import Reason, TransportError
from he_agg.fixedpoint import Mean, dequantize, quantize
from he_agg.ids import RoundId
from he_agg.manifest import Manifest
from he_agg.messages import CurrentRound, Receipt, SubmissionStatus
from he_agg.plan import Plan
from he_agg.record import RoundRecord
from he_agg.wire import encode_part, parse_part
from tests.support.federation import fold_all, key_of, plan_of

N_VALUES = 4200
"""Three ciphertexts, one to a part of the shortest length: 2 x 2048 values, and the rest."""

ROUND = RoundId("test", 1, 1)
OPEN = OpenRound(ROUND, submitted=False, closes_at=3600.0)


class KilledError(BaseException):
    """The process ends here. No flow may catch it."""


def small_plan(**options) -> Plan:
    """A plan whose submissions have three parts."""
    return plan_of(N_VALUES, part_bytes=2**16, weight_cap=10, **options)


def update_of(hot: int = 0, weight: int = 1, **options) -> Update:
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


def json_of(message: object, status: int = 200) -> Response:
    return Response(status, {"content-type": "application/json"}, json.dumps(dataclasses.asdict(message)).encode())


class FakeAggregator:
    """One round of one federation. Publishes as soon as all invited sites are complete."""

    def __init__(self, plan: Plan, sites: tuple[str, ...] = ("a", "b", "c"), site: str = "a") -> None:
        self.plan, self.key, self.sites, self.site = plan, key_of(plan), sites, site
        self.manifests: dict[str, Manifest] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.complete: dict[str, str] = {}
        self.current = CurrentRound(
            "test", "open", 1, self.key.key_id, plan.plan_id, str(ROUND), 1, 1, 0, 0, 3600, True
        )
        self.record: RoundRecord | None = None
        self.sum: list[bytes] = []

    def others_submit(self, sites: str = "bc") -> None:
        """The other sites hand in: site number i (from 1) sets value i and weighs 1."""
        for site in sites:
            update = update_of("abc".index(site))
            values = quantize(self.plan, update.tensors, update.weight).values
            parts = list(codec_for(self.plan.public).encrypt(values, self.key, ROUND))
            wire = [encode_part(p, self.plan.public.places[p.number], self.plan.plan_id) for p in parts]
            digests = tuple(hashlib.sha256(w).hexdigest() for w in wire)
            manifest = Manifest(ROUND, 1, self.key.key_id, self.plan.plan_id, site, "00" * 16, digests)
            self.manifests[site] = manifest
            self.parts[manifest.submission_id] = dict(enumerate(wire))
            self.complete[site] = manifest.submission_id

    def close(self, **changed: object) -> None:
        """Publish what is complete; keyword arguments make the record a lie."""
        places, plan_id = self.plan.public.places, self.plan.plan_id
        sums = fold_all(
            self.plan.public,
            [[parse_part(self.parts[i][p.number], p, plan_id) for p in places] for i in self.complete.values()],
        )
        self.sum = [encode_part(part, places[part.number], plan_id) for part in sums]
        digests = tuple(hashlib.sha256(part).hexdigest() for part in self.sum)
        excluded = {site: "late" for site in self.sites if site not in self.complete}
        honest = RoundRecord(ROUND, 1, self.key.key_id, plan_id, "published", dict(self.complete), excluded, digests)
        self.record = dataclasses.replace(honest, **changed)

    def __call__(self, request: Request, body: bytes) -> Response:
        path = request.path.split("?")[0]
        if path == "/v1/federations/test/rounds/current":
            return json_of(self.current)
        if path == f"/v1/rounds/{ROUND}/submissions":
            return self._announce(Manifest.parse(body))
        if match := re.fullmatch(r"/v1/submissions/([0-9a-f]{64})/parts/(\d+)", path):
            return self._put(match[1], int(match[2]), body)
        if match := re.fullmatch(r"/v1/submissions/([0-9a-f]{64})/complete", path):
            return self._complete(match[1])
        if match := re.fullmatch(r"/v1/submissions/([0-9a-f]{64})", path):
            (manifest,) = [m for m in self.manifests.values() if m.submission_id == match[1]]
            return self._status(manifest, 200)
        if path == f"/v1/rounds/{ROUND}/record":
            if self.record is None and len(self.complete) == len(self.sites):
                self.close()
            return Response(200, {}, self.record.encode()) if self.record else Response(204)
        if match := re.fullmatch(rf"/v1/rounds/{ROUND}/sum/0/parts/(\d+)", path):
            return Response(200, {}, self.sum[int(match[1])])
        return problem(404, "unknown-round")

    def _announce(self, manifest: Manifest) -> Response:
        known = self.manifests.get(manifest.site)
        if known is not None and known != manifest:
            return problem(409, "second-submission")
        if known is None and self.record is not None:
            return problem(409, "round-closed")
        self.manifests[manifest.site] = manifest
        self.parts.setdefault(manifest.submission_id, {})
        return self._status(manifest, 200 if known else 201)

    def _status(self, manifest: Manifest, status: int) -> Response:
        own = manifest.submission_id
        missing = [n for n in range(len(manifest.part_digests)) if n not in self.parts[own]]
        state = "complete" if own in self.complete.values() else "open"
        return json_of(SubmissionStatus(own, str(ROUND), state, len(manifest.part_digests), missing), status)

    def _put(self, own: str, number: int, body: bytes) -> Response:
        if own not in self.parts:
            return problem(404, "unknown-submission")
        (manifest,) = [m for m in self.manifests.values() if m.submission_id == own]
        if hashlib.sha256(body).hexdigest() != manifest.part_digests[number]:
            return problem(400, "bad-digest")
        self.parts[own][number] = body
        return Response(201)

    def _complete(self, own: str) -> Response:
        if own not in self.parts:
            return problem(404, "unknown-submission")
        (site,) = [s for s, m in self.manifests.items() if m.submission_id == own]
        if len(self.parts[own]) != len(self.manifests[site].part_digests):
            return problem(409, "incomplete")
        self.complete[site] = own
        return json_of(Receipt(own, str(ROUND), site, 1))


Meddle = Callable[[Request, bytes], "Response | Exception | None"]


class World:
    """Carries out effects: files for real, requests in memory, time by the sleeps."""

    def __init__(self, aggregator: Callable[[Request, bytes], Response], meddle: Meddle | None = None) -> None:
        self.aggregator = aggregator
        self.meddle = meddle or (lambda request, body: None)
        self.time = 0.0
        self.sent: list[tuple[str, bytes]] = []
        self.events: list[object] = []
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
        body = request.body
        if isinstance(body, FileBody):
            body = body.path.read_bytes()
            assert len(body) == request.body.length
        body = body or b""
        self.sent.append((f"{request.method} {request.path}", body))
        if "wait=30" in request.path:
            self.time += 30.0
        answer = self.meddle(request, body)
        if isinstance(answer, Exception):
            raise answer
        return answer if answer is not None else self.aggregator(request, body)

    def paths(self, method: str) -> list[str]:
        """Paths of the requests of one method, in order."""
        return [line.split()[1] for line, _ in self.sent if line.startswith(method + " ")]


def session_for(tmp_path: Path, plan: Plan, site: str = "a", **policy: float) -> Session:
    """A site with its spool below `tmp_path`; its jitter is always half of the ceiling."""
    return Session(site, key_of(plan), Spool(tmp_path / "spool", site), Retries(RetryPolicy(**policy), lambda: 0.5))


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
