"""Attacks of whoever sits between a site and the aggregator, and could change requests. TLS is off on purpose."""

from __future__ import annotations

import contextlib
import re

import pytest

from he_agg import HeAggError, Reason
from he_agg.plan.sections import PART_HEADER_BYTES
from tests.attacks.malicious import Exchange, Lies
from tests.support.real import SITES

A, B, C = SITES
_SUBMISSION = re.compile(r"/v1/rounds/[^/]+/submissions/[0-9a-f]{32}\Z")


def carries_parts(exchange: Exchange) -> bool:
    return exchange.method == "PUT" and _SUBMISSION.match(exchange.path) is not None


def method(exchange: Exchange) -> bool:
    if not carries_parts(exchange):
        return False
    exchange.method = "POST"
    return True


def path(exchange: Exchange) -> bool:
    if not carries_parts(exchange):
        return False
    exchange.path = exchange.path[:-32] + "0" * 32
    return True


def query(exchange: Exchange) -> bool:
    if not exchange.path.endswith("/state"):
        return False
    exchange.query = "wait=1"
    return True


def first_part(exchange: Exchange) -> bool:
    if not carries_parts(exchange):
        return False
    exchange.query = "from=1"
    return True


def body(exchange: Exchange) -> bool:
    if not carries_parts(exchange) or exchange.body.startswith(b"{"):  # the manifest alone, once more
        return False
    at = PART_HEADER_BYTES  # one bit of a residue, and not a space behind the manifest
    exchange.body = exchange.body[:at] + bytes([exchange.body[at] ^ 1]) + exchange.body[at + 1 :]
    return True


def digest(exchange: Exchange) -> bool:
    if not carries_parts(exchange):
        return False
    name = next(name for name in exchange.headers if name.lower() == "content-digest")
    exchange.headers[name] = "sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"
    return True


def federation(exchange: Exchange) -> bool:
    name = next(name for name in exchange.headers if name.lower() == "he-agg-federation")
    exchange.headers[name] = "another"
    return True


def signature(exchange: Exchange) -> bool:
    for name in [name for name in exchange.headers if name.lower() in ("signature", "signature-input")]:
        del exchange.headers[name]
    return True


REFUSED = {
    method: {Reason.BAD_SIGNATURE, Reason.BAD_REQUEST},
    path: {Reason.BAD_SIGNATURE},
    query: {Reason.BAD_SIGNATURE},
    first_part: {Reason.BAD_SIGNATURE},
    body: {Reason.BAD_DIGEST},
    digest: {Reason.BAD_SIGNATURE},
    federation: {Reason.UNKNOWN_FEDERATION, Reason.UNAUTHENTICATED, Reason.BAD_SIGNATURE},
    signature: {Reason.UNAUTHENTICATED},
}


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
def test_altered_request_is_refused(world, change):
    """The aggregator refuses it, and neither counts nor loses anything: the honest repetition goes through."""
    reasons = REFUSED[change]
    refusals: list[str] = []
    altered: list[Exchange] = []

    def alter(exchange: Exchange) -> None:
        if change(exchange):
            altered.append(exchange)

    def watch(exchange: Exchange, status: int, answer: bytes) -> tuple[int, bytes]:
        # 204 is no acceptance: parts count for nothing until a manifest names them, and then they are looked at.
        if any(exchange is one for one in altered) and status != 204:
            refusals.append(f"{status} {answer.decode(errors='replace')}")
        return status, answer

    world.liar.lies = Lies(request=alter, answer=watch)
    with contextlib.suppress(HeAggError):  # a site repeats some requests, and then may get through
        world.submit(A)
    assert refusals, "the attack never happened"
    expected = (*map(str, reasons), "405 ")  # not every method exists everywhere
    assert all(line[0] == "4" and any(reason in line for reason in expected) for line in refusals), refusals
    world.liar.lies = Lies()
    world.assert_honest(A, world.submit(*SITES))


def test_repeated_request_changes_nothing(world):
    """A replay within the window is an honest request said twice: every request may be repeated."""
    seen: list[tuple[Exchange, int]] = []
    round_id = ""

    def twice(exchange: Exchange, status: int, answer: bytes) -> tuple[int, bytes]:
        address = exchange.path + (f"?{exchange.query}" if exchange.query else "")
        if exchange.method != "GET":
            again = world.liar._client.request(
                exchange.method, address, headers=exchange.headers, content=exchange.body
            )
            seen.append((exchange, again.status_code))
        return status, answer

    world.liar.lies = Lies(answer=twice)
    round_id = world.submit(*SITES)
    assert {status for _, status in seen} <= {200, 204}
    assert len(seen) == len(SITES)  # one request a submission
    world.assert_honest(A, round_id)
