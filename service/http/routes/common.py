"""Share between endpoints: who may call, the aggregator behind a request, waiting, bodies, and entity tags."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from he_agg.documents.manifest import NONCE_BYTES
from he_agg.documents.roster import Role
from he_agg.errors import Reason
from service.aggregator import Aggregator
from service.failpoints import failpoint
from service.http.auth import Caller, member_of
from service.http.bodies import announced_length, check_body, content_digest, read_body
from service.http.reading import run_reading
from service.limits import Limits
from service.refusal import RefusedError
from service.store.rows import FederationRow
from service.store.transaction import Transaction

__all__ = [
    "BEGINNING",
    "DOCUMENT",
    "FederationPath",
    "HolderCaller",
    "HolderPath",
    "NumberPath",
    "RoundPath",
    "SendingHolder",
    "SendingSite",
    "SiteCaller",
    "UploadPath",
    "Wait",
    "body_of",
    "etag",
    "find_federation",
    "immutable",
    "limits_of",
    "poll",
    "read_document",
    "running",
    "tag_matches",
    "take_body",
    "take_document",
    "taken",
]

Answer = TypeVar("Answer")

DOCUMENT = (
    Reason.LENGTH_REQUIRED,
    Reason.TOO_LARGE,
    Reason.TRUNCATED,
    Reason.BAD_FIELD,
    Reason.NOT_CANONICAL,
    Reason.BAD_SIGNATURE,
    Reason.SECRET_REFUSED,
    Reason.TOO_SLOW,
)
"""Why a signed document may be refused as such, whatever it says."""


BEGINNING = (
    Reason.UNKNOWN_ROUND,
    Reason.UNKNOWN_SUBMISSION,
    Reason.NOT_INVITED,
    Reason.FORBIDDEN,
    Reason.ROUND_CLOSED,
    Reason.SECOND_SUBMISSION,
    Reason.STORAGE_FULL,
    Reason.QUOTA_EXCEEDED,
)
"""Why nothing more may be sent of a submission, or none may begin."""


_AT_ONCE_BYTES = 2**16
"""A body that is digested faster than a thread is found for it."""


# Not dependencies: each costs a request as much as finding its route does.


def running(request: Request) -> Aggregator:
    """Return the aggregator behind a request."""
    aggregator: Aggregator = request.app.state.aggregator
    return aggregator


def limits_of(request: Request) -> Limits:
    """Return what is under way."""
    limits: Limits = request.app.state.limits
    return limits


SiteCaller = Annotated[Caller, Depends(member_of(Role.SITE))]
"""Type of a route's parameter: the site that calls it, without a body."""

SendingSite = Annotated[Caller, Depends(member_of(Role.SITE, body=True))]
"""The same of a request with a body."""

HolderCaller = Annotated[Caller, Depends(member_of(Role.HOLDER))]
"""Type of a route's parameter: the holder that calls it, without a body."""

SendingHolder = Annotated[Caller, Depends(member_of(Role.HOLDER, body=True))]
"""The same of a request with a body."""

FederationPath = Annotated[str, Path(description="Name of the federation.", examples=["stroke"])]

HolderPath = Annotated[str, Path(description="Name of the calling holder.", examples=["trustee"])]

NumberPath = Annotated[int, Path(ge=1, le=10**9, description="Version or number, from 1.", examples=[1])]

UploadPath = Annotated[
    str,
    Path(
        pattern=f"^[0-9a-f]{{{2 * NONCE_BYTES}}}$",
        description="Upload: the nonce of the submission's manifest, in hex.",
        examples=["00" * NONCE_BYTES],
    ),
]

RoundPath = Annotated[str, Path(description="Round id: `federation.number.attempt`.", examples=["stroke.3.1"])]

Wait = Annotated[
    float,
    Query(
        ge=0, allow_inf_nan=False, description="How long to wait for news before answering, 60 at most. Units: seconds."
    ),
]
"""Type of a route's parameter: how long to wait."""


async def poll(
    aggregator: Aggregator, wait: float, look: Callable[[], Answer], enough: Callable[[Answer], bool]
) -> Answer:
    """Look until the answer is worth giving, or the wait is over, or the server stops."""
    loop = asyncio.get_running_loop()
    end = loop.time() + min(wait, aggregator.settings.max_wait_s)
    while True:
        heard = aggregator.worker.bell.listen()  # before looking, so that nothing is missed in between
        answer = await run_reading(aggregator, look)
        left = end - loop.time()
        if enough(answer) or left <= 0 or aggregator.worker.stopping:
            return answer
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(heard.wait(), left)


def etag(digest: str) -> str:
    """Return a strong entity tag: content with the same digest is the same content."""
    return f'"{digest}"'


def tag_matches(request: Request, digest: str) -> bool:
    """Tell whether the caller has this content already (If-None-Match)."""
    tags = [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]
    return etag(digest) in [tag.removeprefix("W/") for tag in tags]


def immutable(request: Request, body: bytes, digest: str) -> Response:
    """Answer with bytes that never change, or with 304 if the caller has them."""
    headers = {"ETag": etag(digest)}
    if tag_matches(request, digest):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type="application/json")


def find_federation(tx: Transaction, caller: Caller, name: str) -> FederationRow:
    """Find the federation that an address names, if it is the caller's."""
    row = tx.federation(name) if name == caller.federation else None
    if row is None:
        raise RefusedError(Reason.UNKNOWN_FEDERATION, "this is not the caller's federation")
    return row


async def read_document(request: Request, at_most: int) -> bytes:
    """Read a body of a length that is announced, and of the digest that was signed.

    Raises:
        RefusedError: another length or digest, or too slow.
    """
    length = announced_length(request, at_most=at_most)
    named = content_digest(request)
    body = bytes(await read_body(request, length, limits_of(request).time_for(length)))
    if length <= _AT_ONCE_BYTES:
        check_body(body, named)
    else:
        await run_in_threadpool(check_body, body, named)
    return body


def taken(what: str) -> dict[int | str, dict[str, Any]]:
    """Return, for OpenAPI, the answer to a document that is here already."""
    return {200: {"description": f"The very same {what} was here before."}}


def body_of(description: str) -> dict[str, Any]:
    """Return, for OpenAPI, a body that is a signed document."""
    content = {"application/json": {"schema": {"type": "object"}}}
    return {"requestBody": {"required": True, "description": description, "content": content}}


def _bumped(tx: Transaction) -> bool:
    return tx.bumped


async def take_document(
    request: Request,
    caller: Caller,
    at_most: int,
    accept: Callable[[Transaction, bytes], bool],
    awaited: Callable[[Transaction], bool] = _bumped,
) -> Response:
    """Read a signed document, accept it in a transaction, and let the worker look; 201 if it is new, 200 if not.

    Args:
        awaited: asked in the transaction after a new document, whether anybody waits for what is there now: if not,
            nobody is woken. By default they do if rounds have changed.
    """
    woken = True

    def take(document: bytes) -> bool:
        nonlocal woken
        new, woken = running(request).documents.take(document, accept, awaited)
        return new

    return await take_body(request, caller, at_most, take, lambda: woken)


async def take_body(
    request: Request,
    caller: Caller,
    at_most: int,
    take: Callable[[bytes], bool],
    awaited: Callable[[], bool] = lambda: True,
) -> Response:
    """Read a body, make it durable, and let the worker look if anybody waits for it; 201 if it is new, 200 if not."""
    async with limits_of(request).body(caller.federation, caller.name):
        body = await read_document(request, at_most)
        new = await run_in_threadpool(take, body)
    failpoint("document.stored")
    if awaited():
        running(request).worker.poke()
    return Response(status_code=201 if new else 200)
