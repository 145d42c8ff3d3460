"""An aggregator that lies: it speaks the protocol, has the aggregator's own signing key, and alters what it likes.

It stands in front of a real aggregator and passes requests on, so everything that an attack does not touch is the real
thing. It remembers the parts that sites send, as a malicious aggregator would, and can make any sum of them.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from he_agg import canonical
from he_agg.documents.manifest import Manifest
from he_agg.documents.record import RoundRecord
from he_agg.documents.signed import Signed
from he_agg.documents.state import FederationState
from he_agg.kernels import bitpack
from he_agg.plan.plan import PublicPlan
from he_agg.plan.sections import PART_HEADER_BYTES, Part
from he_agg.protocol.wire import encode_part
from he_agg.signing import SigningKey
from tests.support.server import NO_TLS
from tests.support.trust import AGGREGATOR

__all__ = ["Exchange", "MaliciousAggregator"]

_HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length", "host", "date", "server"}
_SUBMISSION = re.compile(r"/v1/rounds/[^/]+/submissions/([0-9a-f]{32})\Z")
_SUM = re.compile(r"/v1/rounds/([^/]+)/sum\Z")


@dataclass
class Exchange:
    """One request on its way to the real aggregator, to be altered in place."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Lies:
    """What to tell instead of the truth. None: the truth.

    Attributes:
        unsent: so many bytes of each sum are promised beyond its parts, and never sent.
    """

    request: Callable[[Exchange], None] | None = None
    answer: Callable[[Exchange, int, bytes], tuple[int, bytes]] | None = None
    record: Callable[[RoundRecord], RoundRecord] | None = None
    state: Callable[[FederationState], FederationState] | None = None
    signed_record: Callable[[Signed[RoundRecord]], Signed[RoundRecord]] | None = None
    manifests: Callable[[list[Signed]], list[Signed]] | None = None
    sums: dict[str, list[bytes]] = field(default_factory=dict)
    unsent: int = 0


class MaliciousAggregator:
    """Use as a context manager. Set `lies` to begin an attack, and to `Lies()` to be honest again.

    Attributes:
        url: what sites are told.
        lies: what is altered.
        parts: parts as they travelled, by submission id and number.
        submissions: (round id, submission id) by site, in the order of their manifests.
    """

    def __init__(self, real_url: str, key: SigningKey, plan: PublicPlan) -> None:
        self.lies = Lies()
        self.parts: dict[str, dict[int, bytes]] = {}
        self._uploads: dict[str, dict[int, bytes]] = {}
        self.submissions: dict[str, list[tuple[str, str]]] = {}
        self._key, self._plan = key, plan
        self._client = httpx.Client(base_url=real_url, timeout=120, trust_env=False, verify=NO_TLS)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> MaliciousAggregator:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._client.close()

    def submission(self, round_id: str, site: str) -> str:
        """Id of what a site submitted to a round."""
        return dict(self.submissions[site])[round_id]

    def sum_of(self, submissions: Iterable[str], *, sources: dict[int, int] | None = None) -> list[bytes]:
        """The sum of these submissions, part by part, as it would travel.

        Args:
            submissions: ids; one that is named twice is added twice.
            sources: take part `sources[n]` where part `n` belongs, of the first submission only.
        """
        submissions = list(submissions)
        total = []
        for place in self._plan.places:
            q, bits = place.section.modulus, place.section.modulus_bits
            acc = bitpack.new_sum(place.residues, bits)
            for position, submission in enumerate(submissions):
                number = (sources or {}).get(place.number, place.number) if position == 0 else place.number
                packed = self.parts[submission][number][PART_HEADER_BYTES:]
                assert bitpack.fold(acc, packed, bits, q) == -1
            total.append(encode_part(Part(place.number, bitpack.pack(acc, bits).data), place, self._plan.plan_id))
        return total

    def serve_sum(self, round_id: str, parts: list[bytes], **changes: Any) -> None:
        """Publish these parts as the sum of a round, with a signed record that names their digests."""
        digests = tuple(hashlib.sha256(part).hexdigest() for part in parts)
        self.lies = Lies(
            record=lambda record: replace(record, sum_digests=digests, **changes),
            sums={round_id: parts},
        )

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                path, _, query = self.path.partition("?")
                headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP_BY_HOP}
                exchange = Exchange(self.command, path, query, headers, self.rfile.read(length))
                status, fields, body = outer._answer(exchange)
                self.send_response_only(status)
                for name, value in fields.items():
                    self.send_header(name, value)
                unsent = outer.lies.unsent if _SUM.match(path) else 0
                if status not in (204, 304):
                    self.send_header("Content-Length", str(len(body) + unsent))
                self.end_headers()
                if status not in (204, 304):
                    self.wfile.write(body)
                self.close_connection |= unsent > 0

            do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 - the library's names

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    def _answer(self, exchange: Exchange) -> tuple[int, dict[str, str], bytes]:
        path = exchange.path
        self._remember(exchange)
        if self.lies.request is not None:
            self.lies.request(exchange)
        served = self._own_sum(exchange)
        if served is not None:
            return 200, {"Content-Type": "application/octet-stream"}, served
        address = exchange.path + (f"?{exchange.query}" if exchange.query else "")
        real = self._client.request(exchange.method, address, headers=exchange.headers, content=exchange.body)
        status, body = real.status_code, real.content
        if status == 200 and path.endswith("/record"):
            body = self._ended(body)
        elif status == 200 and "/records/" in path:
            body = self._record(body)
        elif status == 200 and path.endswith("/state") and self.lies.state is not None:
            changed = self.lies.state(Signed.parse(FederationState, body).body)
            body = Signed.make(changed, self._key, AGGREGATOR).encode()
        if self.lies.answer is not None:
            status, body = self.lies.answer(exchange, status, body)
        # Digests and entity tags of what the real one said would give the lie away without any cryptography.
        dropped = _HOP_BY_HOP | {"etag", "content-digest", "repr-digest"}
        fields = {k: v for k, v in real.headers.items() if k.lower() not in dropped}
        if status != real.status_code:
            fields["content-type"] = "application/problem+json"
        return status, fields, body

    def _remember(self, exchange: Exchange) -> None:
        match = _SUBMISSION.match(exchange.path)
        if match is not None and exchange.method == "PUT":
            rest, parts = exchange.body, self._uploads.setdefault(match[1], {})
            for place in self._plan.places[int(exchange.query.removeprefix("from=") or 0) :]:
                if rest:
                    parts[place.number] = rest[: place.wire_bytes]
                rest = rest[place.wire_bytes :]
            if rest:
                signed = Signed.parse(Manifest, rest.rstrip(b" "))
                self.parts[signed.digest] = parts
                entry = (str(signed.body.round_id), signed.digest)
                entries = self.submissions.setdefault(signed.body.site, [])
                if entry not in entries:
                    entries.append(entry)

    def _own_sum(self, exchange: Exchange) -> bytes | None:
        match = _SUM.match(exchange.path)
        if match is None or match[1] not in self.lies.sums:
            return None
        first = int(exchange.query.removeprefix("from=") or 0)
        return b"".join(self.lies.sums[match[1]][first:])

    def _record(self, body: bytes) -> bytes:
        signed = Signed.parse(RoundRecord, body)
        if self.lies.record is not None:
            changed = self.lies.record(signed.body)
            if changed != signed.body:
                signed = Signed.make(changed, self._key, AGGREGATOR)
        if self.lies.signed_record is not None:
            signed = self.lies.signed_record(signed)
        return signed.encode()

    def _ended(self, body: bytes) -> bytes:
        """Lie about the record, the manifests or both in the one answer that has them."""
        value = canonical.parse(body, 2**26)
        manifests = [Signed.from_json(Manifest, item) for item in value["manifests"]]
        record = self._record(canonical.encode(value["record"]))
        if self.lies.manifests is not None:
            manifests = self.lies.manifests(manifests)
        told = [json.loads(document.encode()) for document in manifests]
        return canonical.encode({"v": 1, "manifests": told, "record": json.loads(record)})
