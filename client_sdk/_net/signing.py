"""Signs what a site asks, each time it is sent: the time in a signature must be the time of the sending."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from client_sdk._effects import Request
from he_agg.protocol.http_signatures import EMPTY_DIGEST, RequestHead, digest_field, sign_request
from he_agg.signing import SigningKey

__all__ = ["Signer"]


@dataclass(frozen=True)
class Signer:
    """Who signs a site's requests.

    Attributes:
        clock: Units: seconds since 1970, UTC.
    """

    name: str
    key: SigningKey = field(repr=False)
    federation: str
    clock: Callable[[], float] = time.time

    def sign(self, request: Request) -> tuple[float, dict[str, str]]:
        """Make the header of one sending of a request.

        Returns:
            When it was signed, and all header fields.
        """
        path, _, query = request.path.partition("?")
        head = RequestHead(request.method, path, query, _content_digest(request), self.federation)
        signed_at = self.clock()
        headers = dict(request.headers) | sign_request(head, self.name, self.key, signed_at)
        if request.body is not None:  # an empty one has a length, too
            headers["Content-Length"] = str(len(request.body))
        return signed_at, headers


def _content_digest(request: Request) -> str:
    if request.content_digest is not None:
        return request.content_digest
    return digest_field(request.body) if isinstance(request.body, bytes) and request.body else EMPTY_DIGEST
