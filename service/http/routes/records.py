"""Serve what has become of rounds, signed: records, the manifests behind a sum, and the transcript of all of it."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import Depends, Path, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from he_agg.documents.roster import Role
from he_agg.errors import Reason
from service.aggregator import Aggregator
from service.core.event_loop import leave_event_loop
from service.core.find import find_round
from service.core.transcript import transcript
from service.domain.events import Phase
from service.http.auth import Caller, member_of
from service.http.reading import run_reading
from service.http.routes.common import FederationPath, RoundPath, Wait, find_federation, immutable, poll, running
from service.http.signed_route import signed_router
from service.problems import answers
from service.refusal import RefusedError
from service.store.rows import RoundRow

__all__ = ["router"]

router = signed_router("records")

Reading = Annotated[Caller, Depends(member_of(Role.SITE, Role.HOLDER, Role.COORDINATOR, Role.AUDITOR, Role.OPERATOR))]
Checking = Annotated[Caller, Depends(member_of(Role.SITE, Role.HOLDER, Role.COORDINATOR, Role.AUDITOR))]
Auditing = Annotated[Caller, Depends(member_of(Role.AUDITOR, Role.OPERATOR))]
_AT_ONCE_DIGESTS = 256
"""Manifests with no more digests of parts in all are read where a row is."""

IndexPath = Annotated[int, Path(ge=1, le=10**9, description="Position in the chain, from 1.", examples=[1])]


@router.get(
    "/v1/rounds/{round_id}/record",
    summary="The record of a round that has ended",
    response_class=Response,
    responses={
        200: {"description": "The canonical bytes of the signed record.", "content": {"application/json": {}}},
        204: {"description": "The round has not ended within the wait, or waits for a part of this site."},
        304: {"description": "The caller has it already (If-None-Match)."},
        **answers(Reason.UNKNOWN_ROUND),
    },
)
async def record(request: Request, round_id: RoundPath, caller: Reading, wait: Wait = 0) -> Response:
    """Return the closed set behind a sum and its parts' digests, or why there is no sum. It never changes."""
    aggregator = running(request)

    def look() -> tuple[RoundRow, bool]:
        with aggregator.conductor.reading(caller.federation) as tx:
            row = find_round(tx, caller.federation, round_id)
            asked = row.phase in (Phase.CLOSED, Phase.FOLDING) and tx.damaged(row.id)
            return row, any(part.site == caller.name for part in asked or ())

    # A site that has to send a part again hears it at once: its submission's status names the part.
    row, _ = await poll(aggregator, wait, look, lambda seen: seen[0].record is not None or seen[1])
    if row.record is None or row.record_digest is None:
        return Response(status_code=204)
    return immutable(request, row.record, row.record_digest)


@router.get(
    "/v1/rounds/{round_id}/manifests",
    summary="The signed manifests behind a sum",
    response_class=Response,
    responses={
        200: {"description": "The manifests of all members, sorted by site.", "content": {"application/json": {}}},
        **answers(Reason.UNKNOWN_ROUND, Reason.SUM_NOT_READY, Reason.ROUND_FAILED),
    },
)
async def manifests(request: Request, round_id: RoundPath, caller: Checking) -> Response:
    """Return all manifests: digests and tags, with which anybody can check who is in a sum. They are kept."""
    aggregator = running(request)
    found = await run_reading(aggregator, partial(_manifests, aggregator, caller, round_id))
    return Response(found, media_type="application/json")


def _manifests(aggregator: Aggregator, caller: Caller, round_id: str) -> bytes:
    with aggregator.store.read() as tx:
        row = find_round(tx, caller.federation, round_id)
        if row.phase in (Phase.FAILED, Phase.ENDED):
            raise RefusedError(
                Reason.ROUND_FAILED, f"round {row.id} has {row.phase}, without members", round_id=str(row.id)
            )
        if row.phase not in (Phase.PUBLISHED, Phase.REJECTED):
            raise RefusedError(
                Reason.SUM_NOT_READY, f"round {row.id} is {row.phase}; wait for its record", round_id=str(row.id)
            )
        record = row.signed
        if record is None or len(record.body.members) * len(record.body.sum_digests) > _AT_ONCE_DIGESTS:
            leave_event_loop()
        found = tx.manifests(row.id)
    # Each is canonical JSON as it came, and so is this: to read and write them all again for every one of their sites
    # would cost the square of how many there are.
    return b'{"manifests":[' + b",".join(found) + b'],"v":1}'


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
