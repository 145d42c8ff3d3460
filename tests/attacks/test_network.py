"""Attacks of whoever sits between a site and the aggregator, and could change requests. TLS is off on purpose."""

from __future__ import annotations

import contextlib
import re

import pytest

from client_sdk import HeAggError, Reason
from client_sdk._protocol import submit as _submit
from tests.attacks.conftest import SITES
from tests.attacks.malicious import Exchange, Lies

A, B, C = SITES
REST = _submit._rest  # as it is outside of these tests
_PUT = re.compile(r"(/v1/submissions/[0-9a-f]{64}/parts/)(\d+)\Z")
_WHOLE = re.compile(r"/v1/submissions/[0-9a-f]{64}\Z")


def method(exchange: Exchange) -> bool:
    if not exchange.path.endswith("/complete"):
        return False
    exchange.method = "PUT"
    return True


def path(exchange: Exchange) -> bool:
    match = _PUT.match(exchange.path)
    if match is None or match[2] != "1":
        return False
    exchange.path = f"{match[1]}2"
    return True


def query(exchange: Exchange) -> bool:
    if not exchange.path.endswith("/rounds/current"):
        return False
    exchange.query = "wait=1"
    return True


def carries_parts(exchange: Exchange) -> bool:
    whole = exchange.method == "PUT" and _WHOLE.match(exchange.path) is not None
    return whole or _PUT.match(exchange.path) is not None


def body(exchange: Exchange) -> bool:
    if not carries_parts(exchange):
        return False
    exchange.body = exchange.body[:-1] + bytes([exchange.body[-1] ^ 1])
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
    body: {Reason.BAD_DIGEST},
    digest: {Reason.BAD_SIGNATURE},
    federation: {Reason.UNKNOWN_FEDERATION, Reason.UNAUTHENTICATED, Reason.BAD_SIGNATURE},
    signature: {Reason.UNAUTHENTICATED},
}


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
def test_altered_request_is_refused(world, change):
    """The aggregator refuses it, and neither counts nor loses anything: the honest repetition goes through."""
    refuse(world, change, REFUSED[change])


@pytest.mark.parametrize("change", [body, digest], ids=lambda change: change.__name__)
def test_altered_whole_submission_is_refused(world, monkeypatch, change):
    """The same of a submission that goes in one request."""
    monkeypatch.setattr(_submit, "_rest", REST)
    refuse(world, change, REFUSED[change])


def refuse(world, change, reasons: set[Reason]) -> None:
    refusals: list[str] = []
    altered: list[Exchange] = []

    def alter(exchange: Exchange) -> None:
        if change(exchange):
            altered.append(exchange)

    def watch(exchange: Exchange, status: int, answer: bytes) -> tuple[int, bytes]:
        if any(exchange is one for one in altered):
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
    assert len(seen) == 3 * (2 + len(world.plan.public.places))
    world.assert_honest(A, round_id)
