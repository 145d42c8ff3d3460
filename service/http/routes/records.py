"""Serve what has become of rounds, signed: records with the manifests behind them, and the transcript of all of it."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from he_agg.documents.roster import Role
from he_agg.errors import Reason
from service.core.find import find_round
from service.core.transcript import transcript
from service.domain.events import Phase
from service.http.auth import Caller, member_of
from service.http.routes.common import (
    FederationPath,
    RoundPath,
    Wait,
    find_federation,
    immutable,
    poll,
    running,
    tag_matches,
)
from service.http.signed_route import signed_router
from service.problems import answers
from service.refusal import RefusedError
from service.store.rows import RoundRow

__all__ = ["router"]

router = signed_router("records")

Reading = Annotated[Caller, Depends(member_of(Role.SITE, Role.HOLDER, Role.COORDINATOR, Role.AUDITOR, Role.OPERATOR))]
Checking = Annotated[Caller, Depends(member_of(Role.SITE, Role.HOLDER, Role.COORDINATOR, Role.AUDITOR))]
Auditing = Annotated[Caller, Depends(member_of(Role.AUDITOR, Role.OPERATOR))]
IndexPath = Annotated[int, Path(ge=1, le=10**9, description="Position in the chain, from 1.", examples=[1])]


@router.get(
    "/v1/rounds/{round_id}/record",
    summary="The record of a round that has ended, and the manifests behind it",
    response_class=Response,
    responses={
        200: {
            "description": 'Canonical JSON, `{"manifests":[...],"record":{...},"v":1}`: the signed record, and the '
            "signed manifests of its members, sorted by site; none where the round has no sum.",
            "content": {"application/json": {}},
        },
        204: {"description": "The round has not ended within the wait, or waits for a part of this site."},
        304: {"description": "The caller has it already (If-None-Match)."},
        **answers(Reason.UNKNOWN_ROUND),
    },
)
async def record(request: Request, round_id: RoundPath, caller: Checking, wait: Wait = 0) -> Response:
    """Return the closed set behind a sum with all that its members have signed, or why there is none: always the same.

    Digests and tags in the manifests let anybody check who is in a sum. They are kept for as long as the record.
    """
    aggregator = running(request)

    def look() -> tuple[str | None, bytes, bool]:
        with aggregator.conductor.reading(caller.federation) as tx:
            row = find_round(tx, caller.federation, round_id)
            if row.record is not None and row.record_digest is not None:
                # The record names the manifests by their digests, so its own stands for all of it.
                if tag_matches(request, row.record_digest):
                    return row.record_digest, b"", True
                body = aggregator.round_answers.of(tx, row, row.record, row.record_digest)
                return row.record_digest, body, True
            # A site that has to send a part again hears it at once: its submission's status names the part.
            asked = row.phase in (Phase.CLOSED, Phase.FOLDING) and tx.damaged(row.id)
            return None, b"", any(part.site == caller.name for part in asked or ())

    digest, body, _ = await poll(aggregator, wait, look, lambda seen: seen[2])
    return Response(status_code=204) if digest is None else immutable(request, body, digest)


@router.get(
    "/v1/federations/{federation}/records/{index}",
    summary="The record at a position of the chain",
    response_class=Response,
    responses={
        200: {"description": "The canonical bytes of the signed record.", "content": {"application/json": {}}},
        304: {"description": "The caller has it already (If-None-Match)."},
        **answers(Reason.UNKNOWN_ROUND),
    },
)
async def record_at(request: Request, federation: FederationPath, index: IndexPath, caller: Reading) -> Response:
    """Follow the chain to a record that was missed, of a failed attempt for instance."""
    aggregator = running(request)

    def look() -> RoundRow | None:
        with aggregator.store.read() as tx:
            return tx.record_at(find_federation(tx, caller, federation).name, index)

    row = await run_in_threadpool(look)
    if row is None or row.record is None or row.record_digest is None:
        raise RefusedError(Reason.UNKNOWN_ROUND, f"federation {federation} has no record {index}")
    return immutable(request, row.record, row.record_digest)


@router.get(
    "/v1/federations/{federation}/transcript",
    summary="Everything signed, for audit",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "One canonical JSON document a line: the federation, every roster by version, then for each "
            "record its members' manifests and the record itself.",
            "content": {"application/jsonl": {}},
        },
        **answers(),
    },
)
async def whole_transcript(request: Request, federation: FederationPath, caller: Auditing) -> StreamingResponse:
    """Complete as of the moment that it was asked for. `he-agg audit` checks it."""
    aggregator = running(request)

    def look() -> None:
        with aggregator.store.read() as tx:
            find_federation(tx, caller, federation)

    await run_in_threadpool(look)
    return StreamingResponse(transcript(aggregator.store, federation), media_type="application/jsonl")
