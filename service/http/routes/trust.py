"""Rosters, epochs and commitments: what members sign, and the aggregator stores and hands on."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

from fastapi import Depends, Path, Request, Response
from starlette.concurrency import run_in_threadpool

from he_agg import canonical
from he_agg.documents.epoch import MAX_BUNDLE_BYTES, MAX_COMMITMENT_BYTES
from he_agg.documents.roster import MAX_ROSTER_BYTES, Role
from he_agg.errors import Reason
from service.audit_events.event import acting
from service.core.trust import accept_bundle, accept_commitment, accept_roster
from service.http.auth import Caller, member_of
from service.http.routes.common import (
    DOCUMENT,
    FederationPath,
    NumberPath,
    SendingSite,
    body_of,
    find_federation,
    immutable,
    running,
    take_document,
    taken,
)
from service.http.signed_route import signed_router
from service.problems import answers
from service.refusal import RefusedError
from service.store.transaction import Transaction

__all__ = ["router"]

router = signed_router("trust")

Coordinating = Annotated[Caller, Depends(member_of(Role.COORDINATOR, body=True))]
Trusting = Annotated[Caller, Depends(member_of(Role.SITE, Role.HOLDER, Role.COORDINATOR, Role.AUDITOR))]
Opening = Annotated[Caller, Depends(member_of(Role.SITE, Role.COORDINATOR))]
Counting = Annotated[Caller, Depends(member_of(Role.COORDINATOR, Role.AUDITOR))]
NumberOrNewest = Annotated[
    str, Path(pattern=r"^(newest|[1-9][0-9]{0,8})$", description="Version or number, or `newest`.", examples=["newest"])
]


def _given(description: str) -> dict[int | str, dict[str, Any]]:
    return {
        200: {"description": description, "content": {"application/json": {}}},
        304: {"description": "The caller has it already (If-None-Match)."},
    }


@router.get(
    "/v1/federations/{federation}/rosters/{version}",
    summary="A version of the roster",
    response_class=Response,
    responses={**_given("The canonical bytes of the signed roster."), **answers(Reason.UNKNOWN_ROSTER)},
)
async def roster(request: Request, federation: FederationPath, version: NumberOrNewest, caller: Trusting) -> Response:
    """Return a roster. Who trusts one version follows the next ones by their signatures alone."""
    aggregator = running(request)

    def look() -> bytes:
        with aggregator.store.read() as tx:
            name = find_federation(tx, caller, federation).name
            row = tx.newest_roster(name) if version == "newest" else tx.roster(name, int(version))
            if row is None:
                raise RefusedError(Reason.UNKNOWN_ROSTER, f"there is no version {version} of the roster here")
            return tx.roster_document(name, row.version)

    document = await run_in_threadpool(look)
    return immutable(request, document, hashlib.sha256(document).hexdigest())


@router.put(
    "/v1/federations/{federation}/rosters/{version}",
    summary="Bring in the next version of the roster",
    status_code=201,
    response_class=Response,
    responses={
        **taken("roster"),
        **answers((Reason.ROSTER_MISMATCH, 409), Reason.ROSTER_MISMATCH, Reason.NO_HEADROOM, *DOCUMENT),
    },
    openapi_extra=body_of("The signed roster."),
)
async def put_roster(
    request: Request,
    federation: FederationPath,
    version: NumberPath,
    caller: Coordinating,
) -> Response:
    """Bring in a roster, signed by enough coordinators of the newest version and its own. It holds at once."""
    aggregator = running(request)

    def accept(tx: Transaction, document: bytes) -> bool:
        row = find_federation(tx, caller, federation)
        with acting(caller.name, "request"):
            return accept_roster(tx, aggregator.conductor, row, document, version)

    return await take_document(request, caller, MAX_ROSTER_BYTES, accept)


@router.get(
    "/v1/federations/{federation}/epochs/{number}",
    summary="The bundle of an epoch",
    response_class=Response,
    responses={**_given("The canonical bytes of the signed bundle."), **answers(Reason.UNKNOWN_EPOCH)},
)
async def epoch(request: Request, federation: FederationPath, number: NumberOrNewest, caller: Opening) -> Response:
    """Return the group key, sealed to every site. The aggregator cannot open it."""
    aggregator = running(request)

    def look() -> bytes:
        with aggregator.store.read() as tx:
            name = find_federation(tx, caller, federation).name
            which = tx.newest_epoch(name).number if number == "newest" else int(number)
            bundle = tx.bundle(name, which)
            if bundle is None:
                raise RefusedError(Reason.UNKNOWN_EPOCH, f"there is no bundle for epoch {number} here")
            return bundle

    document = await run_in_threadpool(look)
    return immutable(request, document, hashlib.sha256(document).hexdigest())


@router.put(
    "/v1/federations/{federation}/epochs/{number}",
    summary="Begin the next epoch",
    status_code=201,
    response_class=Response,
    responses={
        **taken("bundle"),
        **answers(
            Reason.FORBIDDEN,
            Reason.ALREADY_EXISTS,
            Reason.PLAN_MISMATCH,
            Reason.KEY_MISMATCH,
            Reason.ROSTER_MISMATCH,
            *DOCUMENT,
        ),
    },
    openapi_extra=body_of("The signed bundle, by the coordinator that dealt it."),
)
async def put_epoch(
    request: Request,
    federation: FederationPath,
    number: NumberPath,
    caller: Coordinating,
) -> Response:
    """Bring in the next epoch's bundle. An open round fails, and its next attempt is under the new epoch.

    Where the federation began without a bundle, that of the current epoch may come here, too.
    """
    aggregator = running(request)

    def accept(tx: Transaction, document: bytes) -> bool:
        row = find_federation(tx, caller, federation)
        with acting(caller.name, "request"):
            return accept_bundle(tx, aggregator.conductor, row, document, number, caller.name)

    return await take_document(request, caller, MAX_BUNDLE_BYTES, accept)


@router.put(
    "/v1/federations/{federation}/epochs/{number}/commitments/{site}",
    summary="Say that this site holds the epoch's key",
    status_code=201,
    response_class=Response,
    responses={
        **taken("commitment"),
        **answers(Reason.FORBIDDEN, Reason.UNKNOWN_EPOCH, Reason.ALREADY_EXISTS, Reason.KEY_MISMATCH, *DOCUMENT),
    },
    openapi_extra=body_of("The signed commitment, by the site."),
)
async def put_commitment(
    request: Request,
    federation: FederationPath,
    number: NumberPath,
    site: Annotated[str, Path(description="Name of the calling site.", examples=["hospital-a"])],
    caller: SendingSite,
) -> Response:
    """Store a site's signed word on its key, once for each epoch. Equal key ids mean equal keys."""
    aggregator = running(request)
    if site != caller.name:
        raise RefusedError(Reason.FORBIDDEN, f"{caller.name} cannot commit for another site")

    def accept(tx: Transaction, document: bytes) -> bool:
        row = find_federation(tx, caller, federation)
        return accept_commitment(tx, aggregator.conductor, row, document, number, site)

    return await take_document(request, caller, MAX_COMMITMENT_BYTES, accept)


@router.get(
    "/v1/federations/{federation}/epochs/{number}/commitments",
    summary="Which sites hold the epoch's key",
    response_class=Response,
    responses={
        200: {"description": "The signed commitments, sorted by site.", "content": {"application/json": {}}},
        **answers(Reason.UNKNOWN_EPOCH),
    },
)
async def commitments(request: Request, federation: FederationPath, number: NumberPath, caller: Counting) -> Response:
    """Return the commitments, for coordinators and auditors."""
    aggregator = running(request)

    def look() -> bytes:
        with aggregator.store.read() as tx:
            name = find_federation(tx, caller, federation).name
            if tx.epoch(name, number) is None:
                raise RefusedError(Reason.UNKNOWN_EPOCH, f"federation {name} has no epoch {number}")
            found = tx.commitments(name, number)
        documents = [canonical.parse(one, MAX_COMMITMENT_BYTES) for one in found]
        return canonical.encode({"v": 1, "commitments": documents})

    return Response(await run_in_threadpool(look), media_type="application/json")
