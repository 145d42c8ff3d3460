"""One PUT with a checksum of our own choice: no client sends a wrong one, and a store has to refuse it.

Signed by AWS Signature Version 4, over the address that the client makes for the object.
Source: https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

from __future__ import annotations

import hashlib
import hmac
import os
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import obstore
from obstore.store import S3Store

__all__ = ["status_of_put"]

_ALGORITHM = "AWS4-HMAC-SHA256"
_TIMEOUT_S = 30


def status_of_put(client: S3Store, path: str, data: bytes, checksum: str) -> int:
    """Put an object with this `x-amz-checksum-sha256`. Returns the status of the answer.

    A secret key that is not in the environment, that of a role, is known to the client alone. The checksum is then
    outside of what is signed, and stores that allow no such header answer 403.
    """
    signed = obstore.sign(client, "PUT", path, timedelta(seconds=60))
    secret = os.environ.get("AWS_SECRET_ACCESS_KEY")
    url, headers = signed, {"x-amz-checksum-sha256": checksum}
    if secret:
        url, headers = signed.partition("?")[0], _sign(signed, headers, data, secret)
    request = urllib.request.Request(url, data, headers, method="PUT")  # noqa: S310 - the client's own address
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def _sign(presigned: str, headers: dict[str, str], data: bytes, secret: str) -> dict[str, str]:
    """Add what signs these headers to them. Key, region and token are those of an address that the client signed."""
    url = urlsplit(presigned)
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    scope = query["X-Amz-Credential"].partition("/")[2]
    signed = {
        **headers,
        "host": url.netloc,
        "x-amz-content-sha256": hashlib.sha256(data).hexdigest(),
        "x-amz-date": datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"),
    }
    if token := query.get("X-Amz-Security-Token"):
        signed["x-amz-security-token"] = token
    names = ";".join(sorted(signed))
    lines = [f"{name}:{signed[name]}" for name in sorted(signed)]
    canonical = "\n".join(["PUT", url.path, "", *lines, "", names, signed["x-amz-content-sha256"]])
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{secret}".encode()
    for step in scope.split("/"):
        key = hmac.digest(key, step.encode(), "sha256")
    text = "\n".join([_ALGORITHM, signed["x-amz-date"], scope, digest])
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    credential = f"Credential={query['X-Amz-Credential']}"
    signed["Authorization"] = f"{_ALGORITHM} {credential}, SignedHeaders={names}, Signature={signature}"
    return signed
