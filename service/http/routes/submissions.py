"""Submissions: put parts until there is a receipt, look."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Annotated, Any

from fastapi import Query, Request, Response
from starlette.concurrency import run_in_threadpool

from he_agg import canonical
from he_agg.documents.manifest import NONCE_BYTES
from he_agg.errors import Reason
from he_agg.protocol.http_signatures import manifest_field
from he_agg.protocol.messages import SubmissionStatus
from service.http.bodies import announced_length, check_names_manifest
from service.http.intake import take_run
from service.http.reading import run_reading
from service.http.routes.common import BEGINNING, RoundPath, SendingSite, SiteCaller, UploadPath, limits_of, running
from service.http.signed_route import signed_router
from service.logs import note
from service.problems import answers

__all__ = ["router"]

router = signed_router("submissions")

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
    "description": "Names the upload, in the place of a digest: those of the parts are in the manifest.",
    "schema": {"type": "string"},
    "example": manifest_field("00" * NONCE_BYTES),
}


@router.put(
    "/v1/rounds/{round_id}/submissions/{upload}",
    summary="Put consecutive parts, and behind the last one the manifest; get the receipt",
    response_class=Response,
    responses={
        200: {"description": "The canonical bytes of the signed receipt.", "content": {"application/json": {}}},
        204: {"description": "These parts are stored, durably; parts after them are not in the body."},
        **answers(
            *BEGINNING,
            Reason.UNKNOWN_PART,
            Reason.INCOMPLETE,
            Reason.NOT_CANONICAL,
            Reason.KEY_MISMATCH,
            Reason.BAD_SIGNATURE,
            Reason.ROSTER_MISMATCH,
            Reason.CHAIN_MISMATCH,
            Reason.BAD_MAGIC,
            Reason.BAD_VERSION,
            Reason.BAD_PADDING,
            Reason.RESIDUE_OUT_OF_RANGE,
            *_CONTENT,
        ),
    },
    openapi_extra={
        **_body(
            "application/octet-stream",
            "Parts as FORMAT.md says, one after another, and behind the submission's last one the signed manifest in "
            "canonical JSON. No Content-Encoding.",
            schema={"type": "string", "format": "binary"},
        ),
        "parameters": [_MANIFEST_DIGEST],
    },
)
async def put(
    request: Request,
    round_id: RoundPath,
    upload: UploadPath,
    caller: SendingSite,
    first: Annotated[int, Query(alias="from", description="The first part in the body.")] = 0,
) -> Response:
    """Put these parts. A body that reaches the submission's end has its manifest there, which completes it.

    Each part is stored while the next one comes, and the request may be repeated. After an interruption `GET` says what
    is missing. If all parts are here, the manifest comes alone.

    A receipt is a promise: this submission is in the sum of its round, or the record says why it is not. Asked again,
    the same receipt is given again.
    """
    aggregator, limits = running(request), limits_of(request)
    length, uploads = announced_length(request), aggregator.uploads
    check_names_manifest(request, upload)
    expect = partial(uploads.expect, caller.federation, caller.name, round_id, upload, first, length)
    run = await run_reading(aggregator, expect)
    note(request.scope, round_id=str(run.submission.round_id))
    taken = await take_run(request, run, uploads, limits, caller)
    if taken is None:
        return Response(status_code=204)
    if taken.closed:
        aggregator.worker.nudge()
    return Response(taken.receipt.encode(), media_type="application/json")


@router.get(
    "/v1/rounds/{round_id}/submissions/{upload}",
    summary="How far a submission has come",
    response_model=SubmissionStatus,
    responses=answers(Reason.UNKNOWN_ROUND, Reason.UNKNOWN_SUBMISSION),
)
async def status(request: Request, round_id: RoundPath, upload: UploadPath, caller: SiteCaller) -> Response:
    """Tell which parts are missing, to go on with an interrupted upload. A site sees its own only."""
    aggregator = running(request)
    found = await run_in_threadpool(aggregator.uploads.status, caller.federation, caller.name, round_id, upload)
    note(request.scope, round_id=found.round_id)
    return Response(canonical.encode(dataclasses.asdict(found)), media_type="application/json")
