"""Signed requests: one strict profile of RFC 9421, without negotiation.

Covered are method, path, query, the body's digest and the federation, so a request that somebody else repeats does
what it did, at the same place, or nothing. Where a body holds parts of a submission, the field names its upload: the
digests are in the manifest, which is signed for itself. Not covered are scheme and authority: proxies rewrite them, and
the federation header says where a request belongs. The path is the aggregator's own, from ``/v1`` on: a proxy may add a
prefix in front of it.

Source: RFC 9421 (HTTP Message Signatures), sections 2 and 3; RFC 9530 (Digest Fields).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from he_agg.errors import Reason, WireError
from he_agg.signing import SigningKey, verify

__all__ = [
    "EMPTY_DIGEST",
    "FEDERATION_HEADER",
    "WINDOW_S",
    "Claim",
    "RequestHead",
    "digest_field",
    "known_digest_field",
    "manifest_field",
    "parse_claim",
    "sign_request",
    "signature_base",
    "verify_request",
]

WINDOW_S = 300
"""How far the time of a signature may be from the verifier's clock. Units: seconds."""

FEDERATION_HEADER = "He-Agg-Federation"
COMPONENTS = ("@method", "@path", "@query", "content-digest", "he-agg-federation")

_LABEL = "he-agg"
_LIST = "(" + " ".join(f'"{name}"' for name in COMPONENTS) + ")"
_INPUT = re.compile(
    re.escape(f"{_LABEL}={_LIST}")
    + r';created=([1-9][0-9]{0,11});nonce="([A-Za-z0-9_-]{22})";keyid="([a-z0-9][a-z0-9-]{0,62})";alg="ed25519"\Z'
)
_SIGNATURE = re.compile(re.escape(_LABEL) + r"=:([A-Za-z0-9+/]{86}==):\Z")


def digest_field(data: bytes) -> str:
    """Return a Content-Digest field for a body. Source: RFC 9530."""
    return known_digest_field(hashlib.sha256(data).hexdigest())


def known_digest_field(sha256: str) -> str:
    """Return the Content-Digest field for a body whose SHA-256 is known, in hex."""
    return _field("sha-256", sha256)


def manifest_field(upload: str) -> str:
    """Return a Content-Digest field for parts in one body: it names the manifest by its nonce.

    Nobody can hash such a body before it is sent: it is made meanwhile, and may begin with any part.
    """
    return _field("he-agg-manifest", upload)


def _field(algorithm: str, digest: str) -> str:
    return f"{algorithm}=:{base64.b64encode(bytes.fromhex(digest)).decode()}:"


EMPTY_DIGEST = digest_field(b"")
"""The field for no body. It is required, so that nobody can add one."""


@dataclass(frozen=True)
class RequestHead:
    """What a signature covers.

    Attributes:
        method: in capitals.
        path: from ``/v1`` on, as it travels (percent-encoded).
        query: without the question mark, as it travels.
        content_digest: the field of that name.
        federation: the field `He-Agg-Federation`.
    """

    method: str
    path: str
    query: str
    content_digest: str
    federation: str

    def base(self, params: str) -> bytes:
        """Return the bytes that are signed."""
        values = (self.method, self.path, f"?{self.query}", self.content_digest, self.federation)
        return signature_base(zip(COMPONENTS, values, strict=True), params)


@dataclass(frozen=True)
class Claim:
    """Who says to have signed a request, and when.

    Attributes:
        created: Units: seconds since 1970, UTC.
        nonce: 22 characters.
        params: the signature's parameters as they travelled.
        signature: 64 bytes.
    """

    name: str
    created: int
    nonce: str
    params: str
    signature: bytes


def signature_base(components: Iterable[tuple[str, str]], params: str) -> bytes:
    """Put the signature base together. Source: RFC 9421, section 2.5."""
    lines = [f'"{name}": {value}' for name, value in components]
    return "\n".join([*lines, f'"@signature-params": {params}']).encode("latin-1", "replace")


def sign_request(head: RequestHead, name: str, key: SigningKey, now: float) -> dict[str, str]:
    """Make the header fields of a signed request.

    Args:
        now: Units: seconds since 1970, UTC.

    Returns:
        Content-Digest, He-Agg-Federation, Signature-Input and Signature.
    """
    nonce = secrets.token_urlsafe(16)
    params = f'{_LIST};created={int(now)};nonce="{nonce}";keyid="{name}";alg="ed25519"'
    signature = base64.b64encode(key.sign(head.base(params))).decode()
    return {
        "Content-Digest": head.content_digest,
        FEDERATION_HEADER: head.federation,
        "Signature-Input": f"{_LABEL}={params}",
        "Signature": f"{_LABEL}=:{signature}:",
    }


def parse_claim(signature_input: str, signature: str) -> Claim:
    """Read the two fields, strictly: our label, our components, our order, nothing else."""
    stated, signed = _INPUT.match(signature_input), _SIGNATURE.match(signature)
    if stated is None or signed is None:
        raise WireError(
            Reason.BAD_SIGNATURE, "expected Signature-Input and Signature in the form of PROTOCOL.md, got another"
        )
    try:
        raw = base64.b64decode(signed[1], validate=True)
    except binascii.Error as error:
        raise WireError(Reason.BAD_SIGNATURE, "expected a signature in Base64, got something else") from error
    params = signature_input.removeprefix(f"{_LABEL}=")
    return Claim(name=stated[3], created=int(stated[1]), nonce=stated[2], params=params, signature=raw)


def verify_request(head: RequestHead, claim: Claim, public_key: bytes) -> bool:
    """Tell whether the key has signed this head. The caller checks whether it came in time.

    A head with anything but printable ASCII has no signature base, so nobody has signed it.
    """
    values = (head.method, head.path, head.query, head.content_digest, head.federation)
    if not all(value.isascii() and value.isprintable() for value in values):
        return False
    return verify(public_key, claim.signature, head.base(claim.params))
