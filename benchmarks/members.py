"""Members of a federation for benchmarks of the aggregator: keys, a roster, and manifests that name what it must."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence

from he_agg import Plan
from he_agg.documents.federation import FederationDocument
from he_agg.documents.manifest import Manifest
from he_agg.documents.roster import Member, Receiving, Role, Roster
from he_agg.documents.signed import Signed
from he_agg.ids import RoundId
from he_agg.signing import SigningKey
from service.core.conductor import Conductor
from service.operator import operations
from service.store.sql import Store

__all__ = ["KEY_ID", "enrol", "sign_manifest"]

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
    roster = Signed(Roster(plan.public.federation, 1, now, now + _DAY_S, 1, 2, members))
    document = roster.signed_by("coordinator", coordinator)
    federation = FederationDocument(plan.public, 1, KEY_ID)
    operations.create_federation(store, conductor, federation, document.encode())
    return [(name, keys[name]) for name in sites], roster.body_digest


def sign_manifest(
    plan: Plan, round_id: RoundId, member: tuple[str, SigningKey], digests: Sequence[str], roster: str, previous: str
) -> Signed[Manifest]:
    """What a site announces. The tags prove nothing: no sum is opened here."""
    name, key = member
    tags = tuple((0,) for _ in plan.public.sections)
    nonce = secrets.token_hex(16)
    manifest = Manifest(round_id, 1, KEY_ID, plan.plan_id, name, nonce, tuple(digests), tags, roster, previous)
    return Signed.make(manifest, key)
