"""Who sends a request. The only module that knows how that is proved; signed requests will replace the tokens here.

A token is 32 random bytes, shown once. The store keeps its SHA-256, so that a copy of the store opens no door. No slow
hash is needed: nobody guesses 256 bits. Nothing of a request's body is read before this has succeeded.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool

from he_agg.errors import Reason
from service.aggregator import Aggregator
from service.limits import Limits
from service.logs import note
from service.refusal import RefusedError
from service.tokens import token_hash

__all__ = ["DOCUMENTED", "Caller", "SiteCaller", "authenticate"]

_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}\Z")

DOCUMENTED = HTTPBearer(
    auto_error=False, scheme_name="site token", description="Issued by the operator: `he-agg site add FEDERATION SITE`."
)
"""For the OpenAPI page only; `authenticate` does the work."""


@dataclass(frozen=True)
class Caller:
    """A site that has proved who it is."""

    federation: str
    site: str


async def authenticate(request: Request) -> AsyncIterator[Caller]:
    """Find out which site sends this request, from its head alone, and count it while it lasts.

    Raises:
        RefusedError: no token, or one that is nobody's; or too many requests are under way.
    """
    limits: Limits = request.app.state.limits
    with limits.request():
        caller = await _authenticate(request)
        with limits.site(caller.federation, caller.site):
            yield caller


async def _authenticate(request: Request) -> Caller:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not _TOKEN.match(token):
        raise RefusedError(
            Reason.UNAUTHENTICATED,
            "expected the header 'Authorization: Bearer <token of 43 characters>', got none or another",
            "the operator issues tokens: `he-agg site token FEDERATION SITE`",
        )
    aggregator: Aggregator = request.app.state.aggregator
    site = await run_in_threadpool(aggregator.site_of_token, token_hash(token))
    if site is None:
        raise RefusedError(
            Reason.UNAUTHENTICATED,
            "this token is not, or no longer, the token of a site here",
            "a new token replaces the old one: ask the operator for `he-agg site token FEDERATION SITE`",
        )
    note(request.scope, site=site.name, federation=site.federation)
    return Caller(site.federation, site.name)


SiteCaller = Annotated[Caller, Depends(authenticate)]
"""Type of a route's parameter: the site that calls it."""
