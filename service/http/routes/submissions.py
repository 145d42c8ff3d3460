"""Submissions: announce, put parts until there is a receipt, look."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from he_agg.documents.manifest import MAX_MANIFEST_BYTES
from he_agg.errors import Reason
from he_agg.protocol.http_signatures import manifest_field
from he_agg.protocol.messages import SubmissionStatus
from service.http.bodies import announced_length, check_names_manifest
from service.http.intake import take_run
from service.http.routes.common import (
    Limited,
    RoundPath,
    Running,
    SendingSite,
    SiteCaller,
    SubmissionPath,
    read_document,
)
from service.logs import note
from service.problems import answers

__all__ = ["router"]

router = APIRouter(tags=["submissions"])

_CONTENT = (
    Reason.LENGTH_REQUIRED,
    Reason.TOO_LARGE,
    Reason.TRUNCATED,
    Reason.BAD_DIGEST,
    Reason.BAD_FIELD,
    Reason.PLAN_MISMATCH,
    Reason.SECRET_REFUSED,
    Reason.TOO_SLOW,
)


def _body(media_type: str, description: str, **more: Any) -> dict[str, Any]:
    return {"requestBody": {"required": True, "description": description, "content": {media_type: more}}}


_MANIFEST_DIGEST = {
    "name": "Content-Digest",
    "in": "header",
    "required": True,
    "description": "The digest of the manifest, which is the submission's id and names that of each part.",
    "schema": {"type": "string"},
    "example": manifest_field("00" * 32),
}


@router.post(
    "/v1/rounds/{round_id}/submissions",
    summary="Announce a submission by its manifest",
    status_code=201,
    response_model=SubmissionStatus,
    responses={
        200: {"description": "The same manifest was announced before.", "model": SubmissionStatus},
        **answers(
            Reason.UNKNOWN_ROUND,
            Reason.NOT_INVITED,
            Reason.FORBIDDEN,
            Reason.ROUND_CLOSED,
            Reason.SECOND_SUBMISSION,
            Reason.NOT_CANONICAL,
            Reason.KEY_MISMATCH,
            Reason.BAD_SIGNATURE,
            Reason.ROSTER_MISMATCH,
            Reason.CHAIN_MISMATCH,
            Reason.STORAGE_FULL,
            Reason.QUOTA_EXCEEDED,
            *_CONTENT,
        ),
    },
    openapi_extra=_body(
        "application/json",
        "The signed manifest in canonical JSON; its SHA-256 becomes the submission's id.",
        schema={"type": "object"},
    ),
)
async def announce(
    request: Request,
    response: Response,
    round_id: RoundPath,
    caller: SendingSite,
    aggregator: Running,
    limits: Limited,
) -> SubmissionStatus:
    """Announce a submission: 201 when it is new, 200 when the very same bytes were announced before.

    A different manifest of the same site for the same attempt is refused; the first one stays.
    """
    announced_length(request, at_most=MAX_MANIFEST_BYTES)
    async with limits.body(caller.federation, caller.name):
        body = await read_document(request, limits, MAX_MANIFEST_BYTES)
        announce_ = aggregator.announcements.announce
        status, new = await run_in_threadpool(announce_, caller.federation, caller.name, round_id, body)
    response.status_code = 201 if new else 200
    response.headers["Location"] = f"/v1/submissions/{status.id}"
    return status


@router.put(
    "/v1/submissions/{submission_id}",
    summary="Put consecutive parts; at the submission's end, get the receipt",
    response_class=Response,
    responses={
        200: {"description": "The canonical bytes of the signed receipt.", "content": {"application/json": {}}},
        204: {"description": "These parts are stored, durably; parts after them are not in the body."},
        **answers(
            Reason.UNKNOWN_SUBMISSION,
            Reason.UNKNOWN_PART,
            Reason.INCOMPLETE,
            Reason.ROUND_CLOSED,
            Reason.BAD_MAGIC,
            Reason.BAD_VERSION,
            Reason.BAD_PADDING,
            Reason.RESIDUE_OUT_OF_RANGE,
            Reason.STORAGE_FULL,
            *_CONTENT,
        ),
    },
    openapi_extra={
        **_body(
            "application/octet-stream",
            "Parts as FORMAT.md says, one after another. No Content-Encoding.",
            schema={"type": "string", "format": "binary"},
        ),
        "parameters": [_MANIFEST_DIGEST],
    },
)
async def put(
    request: Request,
    submission_id: SubmissionPath,
    caller: SendingSite,
    aggregator: Running,
    limits: Limited,
    first: Annotated[int, Query(alias="from", description="The first part in the body.")] = 0,
) -> Response:
    """Put these parts. A body that reaches the submission's end completes it; it is empty if all parts are here.

    Each part is stored while the next one comes, and the request may be repeated. After an interruption `GET` says what
    is missing.

    A receipt is a promise: this submission is in the sum of its round, or the record says why it is not. Asked again,
    the same receipt is given again.
    """
    rest = await run_in_threadpool(aggregator.uploads.expect, caller.federation, caller.name, submission_id, first)
    note(request.scope, round_id=str(rest.submission.round_id))
    run = rest.cut(announced_length(request, at_most=rest.wire_bytes))
    check_names_manifest(request, rest.submission.id)
    receipt = await take_run(request, run, aggregator.uploads, limits, caller)
    if receipt is None:
        return Response(status_code=204)
    aggregator.worker.nudge()
    return Response(receipt.encode(), media_type="application/json")


@router.get(
    "/v1/submissions/{submission_id}",
    summary="How far a submission has come",
    responses=answers(Reason.UNKNOWN_SUBMISSION),
)
async def status(
    request: Request, submission_id: SubmissionPath, caller: SiteCaller, aggregator: Running
) -> SubmissionStatus:
    """Tell which parts are missing, to go on with an interrupted upload. A site sees its own only."""
    found = await run_in_threadpool(aggregator.uploads.status, caller.federation, caller.name, submission_id)
    note(request.scope, round_id=found.round_id)
    return found
