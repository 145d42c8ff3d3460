"""Take and serve what is dealt, and to whom: sharing keys, lists of holders, dealings, and each holder's shares."""

from __future__ import annotations

import hashlib
from typing import Annotated

from fastapi import Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from he_agg.documents.roster import Role
from he_agg.documents.sharing import MAX_SHARING_KEY_BYTES
from he_agg.errors import Reason
from service.aggregator import Aggregator
from service.core.find import require_sum
from service.core.holding import excerpts, find_held, require_holder
from service.core.trust import accept_sharing_key
from service.http.auth import Caller, member_of
from service.http.routes.common import (
    BEGINNING,
    DOCUMENT,
    FederationPath,
    HolderCaller,
    HolderPath,
    NumberPath,
    RoundPath,
    SendingHolder,
    SendingSite,
    UploadPath,
    body_of,
    find_federation,
    immutable,
    running,
    take_body,
    take_document,
    taken,
)
from service.http.signed_route import signed_router
from service.logs import note
from service.problems import answers
from service.refusal import RefusedError
from service.store.transaction import Transaction

__all__ = ["router"]

router = signed_router("sharing")

Dealing = Annotated[Caller, Depends(member_of(Role.SITE, Role.HOLDER, Role.COORDINATOR, Role.AUDITOR))]


@router.put(
    "/v1/federations/{federation}/epochs/{number}/sharing-keys/{holder}",
    summary="Say what shares of this epoch are sealed to for this holder",
    status_code=201,
    response_class=Response,
    responses={
        **taken("sharing key"),
        **answers(Reason.FORBIDDEN, Reason.UNKNOWN_EPOCH, Reason.ALREADY_EXISTS, *DOCUMENT),
    },
    openapi_extra=body_of("The signed sharing key, by the holder."),
)
async def put_sharing_key(
    request: Request,
    federation: FederationPath,
    number: NumberPath,
    holder: HolderPath,
    caller: SendingHolder,
) -> Response:
    """Store a holder's sharing key, once for each epoch. What is due opens when there are enough of them."""
    aggregator = running(request)
    if holder != caller.name:
        raise RefusedError(Reason.FORBIDDEN, f"{caller.name} cannot send the sharing key of another holder")

    def accept(tx: Transaction, document: bytes) -> bool:
        row = find_federation(tx, caller, federation)
        return accept_sharing_key(tx, aggregator.conductor, row, document, number, holder)

    return await take_document(request, caller, MAX_SHARING_KEY_BYTES, accept)


@router.get(
    "/v1/federations/{federation}/epochs/{number}/sharing-keys",
    summary="Which holders have a sharing key in an epoch",
    response_class=Response,
    responses={
        200: {"description": "The signed sharing keys, sorted by holder.", "content": {"application/json": {}}},
        **answers(Reason.UNKNOWN_EPOCH),
    },
)
async def sharing_keys(request: Request, federation: FederationPath, number: NumberPath, caller: Dealing) -> Response:
    """Return the sharing keys that are here now. What a round goes by is its list of holders."""
    aggregator = running(request)

    def look() -> bytes:
        with aggregator.store.read() as tx:
            name = find_federation(tx, caller, federation).name
            if tx.epoch(name, number) is None:
                raise RefusedError(Reason.UNKNOWN_EPOCH, f"federation {name} has no epoch {number}")
            found = tx.sharing_keys(name, number).values()
        return b'{"sharing_keys":[' + b",".join(found) + b'],"v":1}'

    return Response(await run_in_threadpool(look), media_type="application/json")


@router.get(
    "/v1/rounds/{round_id}/holders",
    summary="Whom the members of a round deal to",
    response_class=Response,
    responses={
        200: {"description": "The list, with the signed sharing keys.", "content": {"application/json": {}}},
        304: {"description": "The caller has it already (If-None-Match)."},
        **answers(Reason.UNKNOWN_ROUND, (Reason.PLAN_MISMATCH, 404)),
    },
)
async def holders(request: Request, round_id: RoundPath, caller: Dealing) -> Response:
    """Return the list that was settled when the round opened. The digest of what it says is in every manifest."""
    aggregator = running(request)

    def look() -> bytes:
        with aggregator.store.read() as tx:
            row, _ = find_held(tx, caller.federation, round_id)
            return tx.holder_list(row.id) or b""

    document = await run_in_threadpool(look)
    return immutable(request, document, hashlib.sha256(document).hexdigest())


@router.put(
    "/v1/rounds/{round_id}/submissions/{upload}/dealing",
    summary="Put the dealing of a submission",
    status_code=201,
    response_class=Response,
    responses={
        **taken("dealing"),
        **answers(
            *BEGINNING,
            Reason.PLAN_MISMATCH,
            Reason.BAD_DIGEST,
            Reason.BAD_MAGIC,
            Reason.BAD_VERSION,
            Reason.BAD_FIELD,
            Reason.LENGTH_REQUIRED,
            Reason.TOO_LARGE,
            Reason.TRUNCATED,
            Reason.TRAILING_BYTES,
            Reason.SECRET_REFUSED,
            Reason.TOO_SLOW,
        ),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "The dealing as FORMAT.md says. No Content-Encoding.",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def put_dealing(
    request: Request,
    round_id: RoundPath,
    upload: UploadPath,
    caller: SendingSite,
) -> Response:
    """Store the dealing of a submission, durably. It is not complete without the one that its manifest names."""
    aggregator = running(request)
    dealings = aggregator.dealings
    expected = await run_in_threadpool(dealings.expect, caller.federation, caller.name, round_id, upload)
    note(request.scope, round_id=str(expected.submission.round_id))

    def take(body: bytes) -> bool:
        return dealings.take(expected, body)

    return await take_body(request, caller, expected.wire_bytes, take, lambda: False)


@router.get(
    "/v1/rounds/{round_id}/shares",
    summary="The caller's shares of the members' keys",
    response_class=Response,
    responses={
        200: {
            "description": "The caller's excerpt of each member's dealing as FORMAT.md says, sorted by site, one after "
            "another.",
            "content": {"application/octet-stream": {}},
        },
        **answers(
            Reason.UNKNOWN_ROUND,
            Reason.SUM_NOT_READY,
            Reason.ROUND_FAILED,
            Reason.SUM_GONE,
            (Reason.PLAN_MISMATCH, 404),
        ),
    },
)
async def shares(request: Request, round_id: RoundPath, caller: HolderCaller) -> Response:
    """Return what a holder needs of all dealings behind a sum. They are kept for a while after it is settled."""
    aggregator = running(request)
    body = await run_in_threadpool(_shares, aggregator, caller, round_id)
    return Response(body, media_type="application/octet-stream")


def _shares(aggregator: Aggregator, caller: Caller, round_id: str) -> bytes:
    with aggregator.store.read() as tx:
        row, holders = find_held(tx, caller.federation, round_id)
        require_holder(row, holders, caller.name)
        members = require_sum(row).body.members
        found = tx.dealings(row.id)
    return excerpts(row, holders, found.values(), len(members), caller.name)
