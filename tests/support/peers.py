"""Federations and submissions without an HE library: random or one-hot residues in the form that travels.

Whoever registers a federation here knows its roster and its database; `prepare` looks there for what a site's manifest
has to name, the roster and the record before, so that most tests need not care.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psycopg
from sqlalchemy import URL

from he_agg import Layout, Plan, TensorSpec, canonical
from he_agg.documents.epoch import EpochBundle
from he_agg.documents.federation import FederationDocument
from he_agg.documents.manifest import Manifest
from he_agg.documents.record import NO_RECORD, RoundRecord
from he_agg.documents.roster import Role, Roster
from he_agg.documents.signed import Signed
from he_agg.documents.state import FederationState
from he_agg.documents.verdict import OPENED, Verdict
from he_agg.ids import RoundId
from he_agg.kernels.bitpack import first_not_below, pack, unpack
from he_agg.mac import tag_count
from he_agg.plan.sections import PART_HEADER_BYTES, Part
from he_agg.protocol.http_signatures import RequestHead, digest_field, manifest_field, sign_request
from he_agg.protocol.messages import Receipt
from he_agg.protocol.wire import encode_part
from keys import Identity
from service.aggregator import Aggregator
from service.core.aggregator_key import AggregatorKey
from service.core.conductor import Conductor
from service.domain import events
from service.operator import operations
from service.settings import Settings
from service.store.rows import Keeping
from service.store.sql import Store, open_store
from tests.support.trust import COORDINATOR, Consortium, consortium, identity_of

OCTETS = {"Content-Type": "application/octet-stream"}
"""What bodies of parts are."""

SECRET_TENSOR = "very-secret-tensor-name"
KEY_ID = "5d" * 32
VALID_S = 399 * 86400
"""Rosters of tests are good for as long as may be: some turn the clock."""

Registered = tuple[Consortium, URL]
_known: dict[str, Registered] = {}
"""What `prepare` knows of the federations that were registered last under their names."""


def make_plan(
    name: str = "stroke",
    *,
    values: int = 5000,
    min_sites: int = 2,
    max_sites: int = 5,
    rounds: int = 3,
    deadline_s: int = 3600,
    value_bits: int = 16,
    sample_percent: int = 100,
    split: bool = False,
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
        sample_percent=sample_percent,
        codec="hybrid" if split else "ckks",  # whose parts are small
        keys="split" if split else "shared",
        part_bytes=2**16,
    )


@dataclass(frozen=True)
class Prepared:
    """One submission, ready to be sent. What its manifest says is asked by the thousand, and read once."""

    manifest: bytes
    parts: list[bytes]
    residues: list[Any]

    @cached_property
    def id(self) -> str:
        return hashlib.sha256(self.manifest).hexdigest()

    @cached_property
    def _said(self) -> Manifest:
        return Signed.parse(Manifest, self.manifest).body

    @property
    def upload(self) -> str:
        return self._said.nonce

    @cached_property
    def round_id(self) -> str:
        return str(self._said.round_id)

    def run(self, first: int, data: bytes) -> bytes:
        """Parts from one on as they travel: behind the last one the manifest is."""
        return data + self.manifest if len(data) >= sum(map(len, self.parts[first:])) else data

    @property
    def whole(self) -> bytes:
        """All parts one after another."""
        return b"".join(self.parts)


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
        parts.append(
            encode_part(Part(place.number, pack(values, place.section.modulus_bits).data), place, plan.plan_id)
        )
    fields: dict[str, Any] = {
        "round_id": round_id if isinstance(round_id, RoundId) else RoundId.parse(round_id),
        "epoch": 1,
        "key_id": KEY_ID,
        "plan_id": plan.plan_id,
        "site": site,
        "nonce": hashlib.sha256(f"{round_id} {site} {seed}".encode()).hexdigest()[:32],
        "part_digests": tuple(hashlib.sha256(part).hexdigest() for part in parts),
        "tags": tuple(
            (*[seed % place.section.modulus] * (tag_count(place.section) - 1), place.section.modulus - 1)
            for place in plan.public.places
        ),
    }
    fields |= {"roster": roster_of(plan.public.federation), "previous": previous_of(fields["round_id"])}
    signer = changed.pop("signer", None) or identity_of(site)
    manifest = Signed.make(Manifest(**(fields | changed)), signer.signing_key)
    return Prepared(manifest.encode(), parts, residues)


def looked_up(federation: str) -> Registered | None:
    """What is known of a federation of this name."""
    return _known.get(federation)


def look_up(federation: str, what: Registered | None) -> None:
    """Go by this from now on, for a federation of this name."""
    if what is None:
        _known.pop(federation, None)
    else:
        _known[federation] = what


def roster_of(federation: str) -> str:
    """Digest of the roster of a federation that was registered here."""
    return _known[federation][0].roster.body_digest if federation in _known else "00" * 32


def known(federation: str) -> Consortium:
    """All private keys of a federation that was registered here."""
    return _known[federation][0]


def known_roster(federation: str) -> Roster:
    """The roster of a federation that was registered here."""
    return _known[federation][0].roster.body


def previous_of(round_id: RoundId) -> str:
    """Digest of the record before a round, as the database has it."""
    if round_id.federation not in _known:
        return NO_RECORD
    url = _known[round_id.federation][1]
    query = (
        "SELECT record_digest FROM rounds WHERE federation = ? AND record IS NOT NULL AND chain_index <"
        " COALESCE((SELECT chain_index FROM rounds WHERE id = ?), 1000000000) ORDER BY chain_index DESC LIMIT 1"
    )
    arguments = (round_id.federation, str(round_id))
    if url.get_backend_name() == "postgresql":
        address = url.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(address) as connection:
            found = connection.execute(query.replace("?", "%s"), arguments).fetchone()
    else:
        with contextlib.closing(sqlite3.connect(url.database or "")) as connection:
            found = connection.execute(query, arguments).fetchone()
    return NO_RECORD if found is None else found[0]


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
    values = unpack(data[PART_HEADER_BYTES:], place.residues, place.section.modulus_bits)
    assert first_not_below(values, place.section.modulus) == -1
    return values


def read_sum(plan: Plan, data: bytes) -> list[Any]:
    """The residues of all parts of a sum."""
    ends = list(itertools.accumulate(place.wire_bytes for place in plan.public.places))
    assert len(data) == ends[-1]
    return [read_part(plan, n, data[begin:end]) for n, (begin, end) in enumerate(itertools.pairwise([0, *ends]))]


def read_record(document: bytes) -> RoundRecord:
    """What a signed record says."""
    return Signed.parse(RoundRecord, document).body


@dataclass(frozen=True)
class Ended:
    """What an aggregator says of a round that has ended."""

    signed: Signed[RoundRecord]
    manifests: list[Signed[Manifest]]

    @property
    def record(self) -> RoundRecord:
        return self.signed.body


def read_ended(answer: bytes) -> Ended:
    """The record of a round that has ended, and the manifests behind it; canonical, and nothing else."""
    fields = canonical.Fields(canonical.parse(answer, 2**26), "answer")
    assert fields.integer("v", 1, 1)
    manifests = [Signed.from_json(Manifest, one) for one in fields.array("manifests", 10_000)]
    ended = Ended(Signed.from_json(RoundRecord, fields.object("record")), manifests)
    fields.end()
    return ended


def read_receipt(document: bytes) -> Receipt:
    """What a signed receipt says."""
    return Signed.parse(Receipt, document).body


def digest_header(data: bytes) -> dict[str, str]:
    return {"Content-Digest": f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"}


def enrol(
    store: Store,
    conductor: Conductor,
    plan: Plan,
    sites: Sequence[str],
    *,
    keeping: Keeping | None = None,
    document: FederationDocument | None = None,
    holders: Sequence[str] = (),
) -> Consortium:
    """Register a federation of these sites, with a coordinator and an auditor. Returns all private keys.

    Without a document the federation has no group key, only the name of one.
    """
    name = plan.public.federation
    members = consortium(
        name, sites, conductor.key.signing_key, min_sites=plan.public.min_sites, valid_s=VALID_S, holders=holders
    )
    document = document or FederationDocument(plan.public, 1, KEY_ID)
    operations.create_federation(store, conductor, document, members.roster.encode(), keeping=keeping)
    look_up(name, (members, store._database.url))
    return members


def deal(members: Consortium, epoch: int, **changed: Any) -> Signed[EpochBundle]:
    """A bundle of an epoch's key for all sites of the newest roster. What is sealed in it nobody can open."""
    roster = members.roster.body
    fields: dict[str, Any] = {
        "federation": members.federation,
        "epoch": epoch,
        "plan_id": "00" * 32,
        "key_id": f"{epoch:064x}",
        "roster": members.roster.body_digest,
        "roster_version": roster.version,
        "dealer": COORDINATOR,
        "payload": b"payload",
        "sealed": dict.fromkeys(roster.having(Role.SITE), b"sealed"),
    }
    signer = changed.pop("signer", COORDINATOR)
    return Signed.make(EpochBundle(**(fields | changed)), members.identities[signer].signing_key)


def adopt(members: Consortium) -> None:
    """From now on sites go by this roster."""
    _known[members.federation] = (members, _known[members.federation][1])


def register(
    data_dir: Path,
    plan: Plan,
    sites: Sequence[str],
    *,
    start: bool = True,
    database_url: str | None = None,
    document: FederationDocument | None = None,
    holders: Sequence[str] = (),
) -> dict[str, Identity]:
    """Register a federation and its sites directly in the store. Returns all members' identities."""
    with operator(data_dir, database_url) as (store, conductor):
        members = enrol(store, conductor, plan, sites, document=document, holders=holders)
        if start:
            conductor.apply(plan.public.federation, events.Started())
    return members.identities


@contextlib.contextmanager
def operator(data_dir: Path, database_url: str | None = None):
    """What an operator's command works with: a store of its own, and a conductor."""
    store = open_store(Settings(data_dir=data_dir, database_url=database_url), create=True)
    try:
        yield store, Conductor(store, AggregatorKey.load_or_create(data_dir))
    finally:
        store.close()


def pass_time(data_dir: Path, federation: str) -> None:
    """Let the deadline of a federation's open round come now, however far off it is."""
    with operator(data_dir) as (_, conductor):
        conductor._clock = lambda: time.time() + 3601
        conductor.apply(federation, events.Tick())


def take_parts(aggregator: Aggregator, federation: str, site: str, prepared: Prepared, numbers: range) -> Signed | None:
    """Consecutive parts of a submission, without HTTP. A receipt, if they reach its end."""
    data = prepared.run(numbers.start, b"".join(prepared.parts[number] for number in numbers))
    sent = prepared.round_id, prepared.upload, numbers.start, len(data)
    run, rest, pieces = aggregator.uploads.expect(federation, site, *sent), memoryview(data), []
    for length in run.lengths():
        pieces.append(rest[:length])
        rest = rest[length:]
    taken = aggregator.uploads.take(run, pieces)
    return None if taken is None else taken.receipt


def take_end(aggregator: Aggregator, federation: str, site: str, prepared: Prepared) -> Signed | None:
    """The end of a submission whose parts are all there."""
    n_parts = len(prepared.parts)
    return take_parts(aggregator, federation, site, prepared, range(n_parts, n_parts))


class Peer:
    """A member as HTTP sees it: the requests of the protocol, one method each, over any httpx client."""

    def __init__(
        self, client: httpx.Client, federation: str, member: Identity, clock: Callable[[], float] = time.time
    ) -> None:
        self.client = client
        self.federation = federation
        self.member = member
        self.clock = clock

    def signature(self, method: str, path: str, digest: str, query: str = "") -> dict[str, str]:
        """The fields of a signed request."""
        head = RequestHead(method, path, query, digest, self.federation)
        return sign_request(head, self.member.name, self.member.signing_key, self.clock())

    def signed(self, method: str, path: str, headers: dict[str, str] | None = None, **more: Any) -> httpx.Request:
        """A request, signed over whatever Content-Digest it has, which by default is the right one."""
        request = self.client.build_request(method, path, headers=headers, **more)
        digest = request.headers.get("Content-Digest", digest_field(request.read()))
        raw_path, _, query = request.url.raw_path.decode("ascii").partition("?")
        request.headers.update(self.signature(method, raw_path, digest, query))
        return request

    def request(self, method: str, path: str, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        return self.client.send(self.signed(method, path, headers, **more))

    def state(self, **parameters: Any) -> httpx.Response:
        """The signed state, as it travels."""
        return self.request("GET", f"/v1/federations/{self.federation}/state", params=parameters, timeout=70)

    def current(self, wait: float = 0, after: str | None = None) -> dict[str, Any]:
        """Where the federation stands: as soon as it has ended, or another round than `after` is open, or at last."""
        end, known = time.monotonic() + wait, {}
        while True:
            left = max(0.0, end - time.monotonic())
            answer = self.state(wait=f"{left:.3f}", **known)
            assert answer.status_code == 200, answer.text
            state = Signed.parse(FederationState, answer.content).body
            round_id = None if state.round_id is None else str(state.round_id)
            if left == 0 or state.stage == "ended" or round_id not in (None, after):
                return state.to_json() | {"round_id": round_id} | ({} if state.open is None else state.open.to_json())
            known = {"after": answer.headers["ETag"].strip('"')}

    def put(self, prepared: Prepared, first: int, data: bytes, headers: dict[str, str] | None = None) -> httpx.Response:
        """Parts from one on, one after another, and behind the last one the manifest."""
        return self.put_raw(prepared.round_id, prepared.upload, first, prepared.run(first, data), headers)

    def put_raw(
        self, round_id: str, upload: str, first: int | str, body: bytes, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        """Any body."""
        path = f"/v1/rounds/{round_id}/submissions/{upload}" + (f"?from={first}" if first else "")
        digest = {"Content-Digest": manifest_field(upload)} if headers is None else headers
        return self.request("PUT", path, OCTETS | digest, content=body)

    def end(self, round_id: str, manifest: bytes, upload: str = "0" * 32, first: int = 3) -> httpx.Response:
        """A manifest alone, of submissions that have so many parts; of its own upload, if it names one."""
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            nonce = str(json.loads(manifest)["body"]["nonce"])
            if bytes.fromhex(nonce):  # no request can name another one
                upload = nonce
        return self.put_raw(round_id, upload, first, manifest)

    def status(self, prepared: Prepared) -> httpx.Response:
        return self.request("GET", f"/v1/rounds/{prepared.round_id}/submissions/{prepared.upload}")

    def complete(self, prepared: Prepared) -> httpx.Response:
        """The end of a submission whose parts are all there."""
        return self.put(prepared, len(prepared.parts), b"")

    def record(self, round_id: str, wait: float = 0) -> httpx.Response:
        return self.request("GET", f"/v1/rounds/{round_id}/record", params={"wait": wait}, timeout=70)

    def record_at(self, index: int) -> httpx.Response:
        return self.request("GET", f"/v1/federations/{self.federation}/records/{index}")

    def document(self, what: str) -> httpx.Response:
        """A roster, bundle or transcript: `rosters/newest`, `epochs/1`, `transcript`."""
        return self.request("GET", f"/v1/federations/{self.federation}/{what}")

    def bring(self, what: str, document: bytes) -> httpx.Response:
        path = f"/v1/federations/{self.federation}/{what}"
        return self.request("PUT", path, {"Content-Type": "application/json"}, content=document)

    def sum_from(self, round_id: str, first: int | str = 0) -> httpx.Response:
        return self.request("GET", f"/v1/rounds/{round_id}/sum?from={first}")

    def judge(self, about: str, found: str = OPENED, **changed: Any) -> httpx.Response:
        """A verdict on a round's sum; `changed` members make it another than it should be."""
        site = self.member.name
        record = read_ended(self.record(about).content).signed.digest
        fields: dict[str, Any] = {"round_id": RoundId.parse(about), "record": record, "site": site, "verdict": found}
        signer = changed.pop("signer", self.member.signing_key)
        document = Signed.make(Verdict(**(fields | changed)), signer).encode()
        return self.put_verdict(about, document)

    def put_verdict(self, about: str, document: bytes) -> httpx.Response:
        path = f"/v1/rounds/{about}/verdicts/{self.member.name}"
        return self.request("PUT", path, {"Content-Type": "application/json"}, content=document)

    def submit(self, prepared: Prepared) -> httpx.Response:
        """The whole submission; the receipt."""
        return self.put(prepared, 0, prepared.whole)
