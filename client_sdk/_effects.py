"""Effects: what a flow asks of the world, as small values.

A flow is a generator. It yields effects and is sent their results; it opens no socket, reads no clock and never
sleeps. Two drivers (`_transport.py`) carry effects out, one blocking and one on asyncio, and the tests have a third
with a simulated clock. So every rule about rounds, retries and resuming is written once.

A flow that is given up is closed, with nothing of it under way; on asyncio in a thread, so that it may clean up files.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from client_sdk.progress import Event

__all__ = [
    "Compute",
    "Effect",
    "Flow",
    "Now",
    "Report",
    "Request",
    "Response",
    "Sink",
    "Sleep",
    "StreamBody",
    "cleaned_up",
    "compute",
    "now",
]

T = TypeVar("T")

_SMALL_ANSWER_BYTES = 2**20


@dataclass(frozen=True)
class StreamBody:
    """A request body that is read, and perhaps made, while it is sent.

    Attributes:
        length: Units: bytes.
        pieces: begins it anew. Runs like `Compute`, and waits for what is not made yet.
    """

    length: int
    pieces: Callable[[], Iterator[bytes | memoryview]]

    def __len__(self) -> int:
        return self.length


class Sink(Protocol):
    """Takes an answer, and says where it goes: bytes are put into their place, not handed over."""

    def room(self) -> memoryview:
        """Return where the next bytes go. It is never empty."""

    def took(self, count: int) -> Event | None:
        """Take note that so many bytes were put there. May say what to report."""


@dataclass(frozen=True)
class Request:
    """Send one HTTP request; the result is a `Response` of any status, or a `TransportError` is thrown in.

    Attributes:
        expect: statuses that are an answer; every other one is an error.
        body: bytes, or a stream of them.
        content_digest: the field of that name, if it is known already; otherwise the body's SHA-256 is computed.
        progress: what to report when so many bytes of a stream are on their way.
        into: takes the body of an expected answer, which is then not in the `Response`. Runs like `Compute`.
        max_bytes: the longest answer that is read. Units: bytes.
        wait_s: how long the aggregator may wait before it answers, as the path asks. Units: seconds.
        budget_s: how long the whole may take beside its bytes, and any silence in it; `exchange` says. Units: seconds.
        least_bytes_per_s: so much longer it may take for each byte; a transfer that is slower counts as broken.
    """

    method: str
    path: str
    expect: frozenset[int]
    body: bytes | StreamBody | None = None
    content_digest: str | None = None
    progress: Callable[[int], Event] | None = None
    into: Sink | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    max_bytes: int = _SMALL_ANSWER_BYTES
    wait_s: float = 0.0
    budget_s: float = 60.0
    least_bytes_per_s: float = 20_000.0


@dataclass(frozen=True)
class Response:
    """What came back.

    Attributes:
        body: the whole body, at most as long as the request allowed.
        signed_at: this machine's time when the request was signed. Units: seconds since 1970, UTC.
    """

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)
    signed_at: float | None = None


@dataclass(frozen=True)
class Sleep:
    """Do nothing for a while. Units: seconds."""

    seconds: float


@dataclass(frozen=True)
class Compute:
    """Run CPU or file work; the result is what it returns. `AsyncSite` runs it in a thread."""

    work: Callable[[], Any]


@dataclass(frozen=True)
class Now:
    """Read a clock that never goes back; the result is seconds as a float."""


@dataclass(frozen=True)
class Report:
    """Tell whoever listens how far things are."""

    event: Event


Effect = Request | Sleep | Compute | Now | Report

Flow = Generator[Effect, Any, T]
"""A flow whose result is a T. Results of effects are sent in untyped; the helpers below give the types back."""


def compute(work: Callable[[], T]) -> Flow[T]:
    """Run work through the driver, typed.

    Args:
        work: takes nothing; must not raise StopIteration, which would look like the flow's own end.
    """
    result: T = yield Compute(work)
    return result


def cleaned_up(flow: Flow[T], clean_up: Callable[[], None], unless: type[Exception] | tuple[()] = ()) -> Flow[T]:
    """Run a flow, and clean up after it if it does not get to its end.

    Args:
        clean_up: file work. Runs like `Compute` after an error, and with the closing of a flow that is given up.
        unless: the error after which there is nothing to do.
    """
    try:
        return (yield from flow)
    except unless:
        raise
    except Exception:
        yield Compute(clean_up)
        raise
    except BaseException:
        clean_up()
        raise


def now() -> Flow[float]:
    """Read the driver's clock, typed. Units: seconds."""
    result: float = yield Now()
    return result
