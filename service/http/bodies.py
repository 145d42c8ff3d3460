"""Request bodies: refused from the head alone where that is possible, never longer in memory than announced.

A refused body is not read by anybody. Its bytes are already on the wire, though, and closing on a peer that still
sends resets the connection and may take the answer with it; so `Linger` sends the whole answer first and then throws
away what still comes, for a few seconds.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import re
from collections.abc import Sequence

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from he_agg.errors import Reason
from he_agg.protocol.http_signatures import manifest_field
from he_agg.protocol.wire import refuse_secrets
from service.limits import BODY, Body
from service.refusal import RefusedError
from service.store.parts.files import new_buffer

__all__ = [
    "BodyReader",
    "Linger",
    "announced_length",
    "check_body",
    "check_names_manifest",
    "content_digest",
    "read_body",
    "refuse_body",
]

_SHA256 = re.compile(r"\s*sha-256\s*=\s*:([A-Za-z0-9+/]{43}=):\s*\Z")
_NOTHING = hashlib.sha256(b"").hexdigest()
_MEMBER = re.compile(r"\s*sha-256\s*=")


def announced_length(request: Request, *, at_most: int | None = None) -> int:
    """Return how long the body is going to be, if it may be that long and is not encoded.

    Raises:
        RefusedError: no length, too long, or a coding that hides the real length.
    """
    if "content-encoding" in request.headers:
        raise RefusedError(
            Reason.BAD_REQUEST,
            "expected a body without Content-Encoding, got one with",
            "send the bytes as they are: residues do not compress",
        )
    text = request.headers.get("content-length")
    if text is None or not text.isascii() or not text.isdigit() or "transfer-encoding" in request.headers:
        raise RefusedError(Reason.LENGTH_REQUIRED, "expected a Content-Length, got none")
    length = int(text[:20])
    if at_most is not None and length > at_most:
        raise RefusedError(Reason.TOO_LARGE, f"expected a body of at most {at_most} bytes, got {length} announced")
    return length


def content_digest(request: Request) -> str:
    """Return the SHA-256 that the request's Content-Digest (RFC 9530) names, in hex.

    Raises:
        RefusedError: none, or not in that form.
    """
    field = ",".join(request.headers.getlist("content-digest"))
    members = [member for member in field.split(",") if _MEMBER.match(member)]
    match = _SHA256.match(members[0]) if len(members) == 1 else None
    if match is not None:
        with contextlib.suppress(binascii.Error):
            digest = base64.b64decode(match[1], validate=True)
            # base64 has spare bits at its end: one digest, one spelling.
            if base64.b64encode(digest).decode() == match[1]:
                return digest.hex()
    raise RefusedError(
        Reason.BAD_DIGEST,
        "expected the header 'Content-Digest: sha-256=:<base64 of 32 bytes>:', got none or another form",
    )


def check_names_manifest(request: Request, upload: str) -> None:
    """Check that the Content-Digest of a body of parts names the upload whose manifest holds their digests.

    Raises:
        RefusedError: it does not.
    """
    expected = manifest_field(upload)
    if request.headers.getlist("content-digest") != [expected]:
        raise RefusedError(Reason.BAD_DIGEST, f"expected the header 'Content-Digest: {expected}', got none or another")


def refuse_body(request: Request) -> None:
    """See, from the head alone, that a request which needs no body has none and says so.

    Raises:
        RefusedError: it has one, or names the digest of one.
    """
    if "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0":
        raise RefusedError(Reason.BAD_REQUEST, "expected a request without a body, got one with")
    if content_digest(request) != _NOTHING:
        raise RefusedError(Reason.BAD_DIGEST, "expected the Content-Digest of an empty body, got that of another one")


class BodyReader:
    """A body of an announced length, taken in one or more pieces. What is not asked for yet stays with the sender.

    Whether it is the one that was signed is for `check_body` to say, or for whoever knows better.
    """

    def __init__(self, request: Request) -> None:
        self._stream = request.stream()
        self._body: Body | None = request.scope.get(BODY)
        self._rest = memoryview(b"")

    async def read(
        self, lengths: Sequence[int], within_s: float | None = None, *, last: bool = True
    ) -> list[memoryview]:
        """Read the next pieces, each into memory of its own that begins at a page.

        Args:
            lengths: of the pieces. Units: bytes.
            within_s: how long that may take in all. Units: seconds.
            last: whether the body ends with them.

        Raises:
            RefusedError: another length than announced, or too slow.
            ClientDisconnect: the peer went away before the end.
        """
        pieces, length, read = [new_buffer(length) for length in lengths], sum(lengths), 0
        before = 0 if self._body is None else self._body.taken
        try:
            async with asyncio.timeout(within_s):
                for piece in pieces:
                    filled = 0
                    while filled < len(piece) and (count := await self._next(piece[filled:])):
                        filled += count
                        read += count
                if last and read == length and await self._next(memoryview(bytearray(1))):
                    raise RefusedError(Reason.TOO_LARGE, f"expected {length} bytes as announced, got more")
        except TimeoutError:
            raise RefusedError(
                Reason.TOO_SLOW,
                f"expected {length} bytes within {within_s:.0f} s, got "
                f"{read if self._body is None else self._body.taken - before}",
                "send the same request again; parts that are here stay",
            ) from None
        if read != length:
            raise RefusedError(Reason.TRUNCATED, f"expected {length} bytes as announced, got {read}")
        return pieces

    async def _next(self, room: memoryview) -> int:
        """Read what comes next; nothing where the body ends."""
        if not self._rest and self._body is not None and (count := await self._body.fill(room)):
            return count
        while not self._rest:
            chunk = await anext(self._stream, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        count = min(len(room), len(self._rest))
        room[:count], self._rest = self._rest[:count], self._rest[count:]
        return count


async def read_body(request: Request, length: int, within_s: float | None = None) -> memoryview:
    """Read a whole body. See `BodyReader`."""
    return (await BodyReader(request).read([length], within_s))[0]


def check_body(body: bytes | bytearray, named: str) -> None:
    """Check that a body matches the request's Content-Digest. A long one not in the event loop.

    Raises:
        RefusedError: it is not.
        WireError: it is not, and looks like a key.
    """
    digest = hashlib.sha256(body).hexdigest()
    if digest != named:
        refuse_secrets(memoryview(body))
        raise RefusedError(
            Reason.BAD_DIGEST,
            f"expected bytes with SHA-256 {named[:12]} as the Content-Digest says, got {digest[:12]}",
            "the bytes changed on the way or on the sender's disk: send them again",
        )


class Linger:
    """ASGI layer that keeps a connection open for a while after a request was answered before its body was read.

    Args:
        seconds: how long. Units: seconds.
    """

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle an ASGI call."""
        headers = {name for name, value in scope.get("headers", []) if value != b"0"}
        if scope["type"] != "http" or not headers & {b"content-length", b"transfer-encoding"}:
            await self._app(scope, receive, send)
            return
        unread = True

        async def watched_receive() -> Message:
            nonlocal unread
            message = await receive()
            unread = unread and message["type"] == "http.request" and message.get("more_body", False)
            return message

        async def watched_send(message: Message) -> None:
            if not unread:
                await send(message)
            elif message["type"] == "http.response.start":
                await send({**message, "headers": [*message.get("headers", []), (b"connection", b"close")]})
            elif message["type"] == "http.response.body" and not message.get("more_body", False):
                # Content-Length ends the answer for the peer; for the server it ends with the empty piece.
                await send({**message, "more_body": True})
                # A peer that waits for "100 Continue" sends nothing more.
                if b"expect" not in headers:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(self._seconds):
                            while unread:
                                await watched_receive()
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            else:
                await send(message)

        await self._app(scope, watched_receive, watched_send)
