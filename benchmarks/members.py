"""Members of a federation for benchmarks of the aggregator: keys, a roster, submissions, and timed requests."""

from __future__ import annotations

import http.client
import secrets
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from he_agg import Plan
from he_agg.documents.federation import FederationDocument
from he_agg.documents.manifest import Manifest
from he_agg.documents.roster import Member, Receiving, Role, Roster, majority
from he_agg.documents.signed import Signed
from he_agg.ids import RoundId
from he_agg.kernels.bitpack import pack
from he_agg.mac import tag_count
from he_agg.plan.sections import Part
from he_agg.protocol.http_signatures import EMPTY_DIGEST, RequestHead, manifest_field, sign_request
from he_agg.protocol.wire import encode_part
from he_agg.signing import SigningKey
from service.core.conductor import Conductor
from service.operator import operations
from service.store.sql import Store

__all__ = ["KEY_ID", "Client", "enrol", "sign_manifest", "submission"]

KEY_ID = "5d" * 32
_DAY_S = 86400


def enrol(
    store: Store, conductor: Conductor, plan: Plan, sites: Sequence[str]
) -> tuple[list[tuple[str, SigningKey]], str]:
    """Register a federation of these sites. Returns each site's name and key, and the roster's digest."""
    keys = {name: SigningKey.generate() for name in (*sites, "coordinator")}
    nobody = Receiving("x25519", "00" * 32)  # nothing is sealed here
    members = {name: Member(name, keys[name].public_key.hex(), frozenset({Role.SITE}), nobody) for name in sites}
    coordinator = keys["coordinator"]
    members["coordinator"] = Member("coordinator", coordinator.public_key.hex(), frozenset({Role.COORDINATOR}))
    members["aggregator"] = conductor.key.member
    now = int(time.time())
    least = majority(len(sites))
    few = max(2, min(least, len(sites)))
    roster = Signed(Roster(plan.public.federation, 1, now, now + _DAY_S, 1, few, members, small_groups=few < least))
    document = roster.signed_by("coordinator", coordinator)
    federation = FederationDocument(plan.public, 1, KEY_ID)
    operations.create_federation(store, conductor, federation, document.encode())
    return [(name, keys[name]) for name in sites], roster.body_digest


def sign_manifest(
    plan: Plan, round_id: RoundId, member: tuple[str, SigningKey], digests: Sequence[str], roster: str, previous: str
) -> Signed[Manifest]:
    """What a site submits. The tags prove nothing: no sum is opened here."""
    name, key = member
    tags = tuple((0,) * tag_count(place.section) for place in plan.public.places)
    nonce = secrets.token_hex(16)
    manifest = Manifest(round_id, 1, KEY_ID, plan.plan_id, name, nonce, tuple(digests), tags, roster, previous)
    return Signed.make(manifest, key)


class Client:
    """One site's connection. Times every request, its signature included; without a member nothing is signed."""

    def __init__(
        self, address: str, federation: str, member: tuple[str, SigningKey] | None, times: dict[str, list[float]]
    ) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=300)
        self._federation = federation
        self._member = member
        self._times = times

    def ask(self, what: str, method: str, path: str, body: bytes | None = None, **headers: str) -> bytes:
        """One request; whatever is not a success ends the run."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            named.setdefault("Content-Type", "application/octet-stream")
        began = time.perf_counter()
        if self._member is not None:
            where, _, query = path.partition("?")
            head = RequestHead(method, where, query, named.get("Content-Digest", EMPTY_DIGEST), self._federation)
            named |= sign_request(head, *self._member, time.time())
        self._connection.request(method, path, body=body, headers=named)
        answer = self._connection.getresponse()
        content = answer.read()
        self._times[what].append(time.perf_counter() - began)
        if answer.status not in (200, 201, 204):
            raise RuntimeError(f"{what}: {answer.status} {content[:500]!r}")
        return content

    def put(self, manifest: Signed[Manifest], body: bytes) -> None:
        """Send parts of a submission from the first one on, and behind the last one its manifest."""
        path = f"/v1/rounds/{manifest.body.round_id}/submissions/{manifest.body.nonce}"
        self.ask("put", "PUT", path, body, Content_Digest=manifest_field(manifest.body.nonce))

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


def submission(plan: Plan, site: int) -> tuple[list[bytes], list[Any]]:
    """Random residues of one site: parts as they travel, and the residues."""
    random, parts, residues = np.random.default_rng(site), [], []
    for place in plan.public.places:
        values = random.integers(0, place.section.modulus, place.residues, dtype=np.uint64)
        residues.append(values)
        parts.append(
            encode_part(Part(place.number, pack(values, place.section.modulus_bits).data), place, plan.plan_id)
        )
    return parts, residues
