"""Federations and submissions without an HE library: random or one-hot residues in the form that travels."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from he_agg.bitpack import pack, unpack
from he_agg.federation import FederationDocument
from he_agg.ids import RoundId
from he_agg.layout import Layout, TensorSpec
from he_agg.manifest import Manifest
from he_agg.plan import Plan
from he_agg.sections import PART_HEADER_BYTES, Part
from he_agg.wire import encode_part
from service import operations
from service.settings import Settings
from service.store.sql import open_store
from service.tokens import new_token

SECRET_TENSOR = "very-secret-tensor-name"
KEY_ID = "5d" * 32


def make_plan(
    name: str = "stroke",
    *,
    values: int = 5000,
    min_sites: int = 2,
    max_sites: int = 5,
    rounds: int = 3,
    deadline_s: int = 3600,
    value_bits: int = 16,
) -> Plan:
    """A plan with parts as short as can be: 5000 values make 3 parts of 41 kB."""
    layout = Layout((TensorSpec(SECRET_TENSOR, (values,), "float32", 1.0),), 1000)
    return Plan.create(
        name,
        layout,
        max_sites=max_sites,
        min_sites=min_sites,
        value_bits=value_bits,
        rounds=rounds,
        deadline_s=deadline_s,
        codec="ckks",  # its parts are small
        part_bytes=2**16,
    )


@dataclass
class Prepared:
    """One submission, ready to be sent."""

    manifest: bytes
    parts: list[bytes]
    residues: list[Any]

    @property
    def id(self) -> str:
        return hashlib.sha256(self.manifest).hexdigest()


def prepare(plan: Plan, round_id: str | RoundId, site: str, seed: int, *, one_hot: int | None = None, **changed: Any):
    """A submission of residues that follow from the seed, or of zeros with a single 1 at `one_hot`."""
    random = np.random.default_rng(seed)
    parts, residues, position = [], [], 0
    for place in plan.public.places:
        if one_hot is None:
            values = random.integers(0, place.section.modulus, place.residues, dtype=np.uint64)
        else:
            values = np.zeros(place.residues, dtype=np.uint64)
            if position <= one_hot < position + place.residues:
                values[one_hot - position] = 1
        position += place.residues
        residues.append(values)
        parts.append(encode_part(Part(place.number, pack(values, place.section.modulus_bits)), place, plan.plan_id))
    fields: dict[str, Any] = {
        "round_id": round_id if isinstance(round_id, RoundId) else RoundId.parse(round_id),
        "epoch": 1,
        "key_id": KEY_ID,
        "plan_id": plan.plan_id,
        "site": site,
        "nonce": random.bytes(16).hex(),
        "part_digests": tuple(hashlib.sha256(part).hexdigest() for part in parts),
    }
    return Prepared(Manifest(**(fields | changed)).encode(), parts, residues)


def expected_sum(plan: Plan, prepared: list[Prepared]) -> list[Any]:
    """The sum, by big integers, so independently of the kernels."""
    sums = []
    for place in plan.public.places:
        total = sum(p.residues[place.number].astype(object) for p in prepared) % place.section.modulus
        sums.append(total.astype(np.uint64))
    return sums


def read_part(plan: Plan, number: int, data: bytes) -> Any:
    """The residues of a part."""
    place = plan.public.places[number]
    values, bad = unpack(data[PART_HEADER_BYTES:], place.residues, place.section.modulus_bits, place.section.modulus)
    assert bad == -1
    return values


def digest_header(data: bytes) -> dict[str, str]:
    return {"Content-Digest": f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"}


def register(data_dir: Path, plan: Plan, sites: list[str], *, start: bool = True) -> dict[str, str]:
    """Register a federation and its sites directly in the store. Returns each site's token."""
    store = open_store(Settings(data_dir=data_dir), create=True)
    try:
        operations.create_federation(store, FederationDocument(plan.public, 1, KEY_ID))
        tokens = {}
        for site in sites:
            tokens[site] = new_token()
            operations.add_site(store, plan.public.federation, site, tokens[site])
        if start:
            operations.start(store, plan.public.federation)
        return tokens
    finally:
        store.close()


class Peer:
    """A site as HTTP sees it: the requests of the protocol, one method each, over any httpx client."""

    def __init__(self, client: httpx.Client, federation: str, token: str) -> None:
        self.client = client
        self.federation = federation
        self.headers = {"Authorization": f"Bearer {token}"}

    def request(self, method: str, path: str, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        return self.client.request(method, path, headers=self.headers | (headers or {}), **more)

    def current(self, **parameters: Any) -> httpx.Response:
        path = f"/v1/federations/{self.federation}/rounds/current"
        return self.request("GET", path, params=parameters, timeout=70)

    def announce(self, round_id: str, manifest: bytes) -> httpx.Response:
        headers = {"Content-Type": "application/json"}
        return self.request("POST", f"/v1/rounds/{round_id}/submissions", headers, content=manifest)

    def put(self, submission_id: str, number: int, data: bytes, headers: dict[str, str] | None = None):
        path = f"/v1/submissions/{submission_id}/parts/{number}"
        return self.request("PUT", path, headers if headers is not None else digest_header(data), content=data)

    def status(self, submission_id: str) -> httpx.Response:
        return self.request("GET", f"/v1/submissions/{submission_id}")

    def complete(self, submission_id: str) -> httpx.Response:
        return self.request("POST", f"/v1/submissions/{submission_id}/complete")

    def record(self, round_id: str, wait: float = 0) -> httpx.Response:
        return self.request("GET", f"/v1/rounds/{round_id}/record", params={"wait": wait}, timeout=70)

    def sum_part(self, round_id: str, index: int, section: int = 0, headers: dict[str, str] | None = None):
        return self.request("GET", f"/v1/rounds/{round_id}/sum/{section}/parts/{index}", headers)

    def submit(self, round_id: str, prepared: Prepared) -> httpx.Response:
        """The whole submission; the receipt."""
        answer = self.announce(round_id, prepared.manifest)
        assert answer.status_code in (200, 201), answer.text
        for number, part in enumerate(prepared.parts):
            answer = self.put(prepared.id, number, part)
            assert answer.status_code in (201, 204), answer.text
        return self.complete(prepared.id)
