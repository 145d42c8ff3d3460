"""One site's end of a round, per scheme: `prepare` outside the measured time, `run` inside it."""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np

from he_agg.plan.schemes import SCHEMES as CODECS

__all__ = ["CLIENTS", "Client", "Outcome"]

Outcome = dict[str, Any]


class Client(Protocol):
    """One site's end."""

    def prepare(self) -> None:
        """What happens before a round: look for it, have connections."""

    def run(self, update: Any, weight: int) -> tuple[Any, Outcome]:
        """One round.

        Returns:
            The mean, and what it took: seconds by phase, bytes_up, bytes_down.
        """


class _Connection:
    """http.client, with bodies sent from and received into one buffer: no faster way in the standard library."""

    def __init__(self, settings: dict[str, Any]) -> None:
        url = urlsplit(settings["url"])
        host, port = url.hostname or "", url.port or 0
        if url.scheme == "https":
            context = ssl.create_default_context(cafile=settings["ca_file"])
            self.http: http.client.HTTPConnection = http.client.HTTPSConnection(host, port, context=context)
        else:
            self.http = http.client.HTTPConnection(host, port)
        self.number = 0
        self.site = settings["site"]

    def put(self, body: Any, weight: int) -> None:
        path = f"/rounds/{self.number}/updates/{self.site}?weight={weight}"
        self.http.putrequest("PUT", path)
        self.http.putheader("Content-Length", str(len(body)))
        self.http.endheaders()
        self.http.sock.sendall(body)
        answer = self.http.getresponse()
        answer.read()
        if answer.status != 201:
            raise SystemExit(f"update refused: {answer.status}")

    def mean(self) -> http.client.HTTPResponse:
        self.http.request("GET", f"/rounds/{self.number}/mean")
        answer = self.http.getresponse()
        if answer.status != 200:
            raise SystemExit(f"no mean: {answer.status}")
        return answer

    def connect(self) -> None:
        self.number += 1
        if self.http.sock is None:
            self.http.connect()


class Plaintext:
    """The update's own memory is the body; the mean is received into the array that is handed out."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._connection = _Connection(settings)

    def prepare(self) -> None:
        self._connection.connect()

    def run(self, update: Any, weight: int) -> tuple[Any, Outcome]:
        clock = [time.monotonic()]
        self._connection.put(memoryview(update).cast("B"), weight)
        clock.append(time.monotonic())
        answer = self._connection.mean()
        clock.append(time.monotonic())
        mean = np.empty_like(update)
        view = memoryview(mean).cast("B")
        while view:
            got = answer.readinto(view)
            if not got:
                raise SystemExit("the mean broke off")
            view = view[got:]
        answer.read()
        clock.append(time.monotonic())
        return mean, _outcome(("upload", "wait", "download"), clock, update.nbytes, mean.nbytes)


class Tenseal:
    """`ckks_vector` of 4096 values each (longer ones are the same ciphertexts), all in one body."""

    def __init__(self, settings: dict[str, Any]) -> None:
        import tenseal as ts

        self._ts = ts
        self._connection = _Connection(settings)
        self._context = ts.context_from(Path(settings["context"]).read_bytes())
        self._total_weight = settings["total_weight"]

    def prepare(self) -> None:
        self._connection.connect()

    def run(self, update: Any, weight: int) -> tuple[Any, Outcome]:
        from benchmarks.rounds.tenseal_service import join, split

        ts, context = self._ts, self._context
        clock = [time.monotonic()]
        scaled = update.astype(np.float64) * weight
        starts = range(0, update.size, 4096)
        body = join([ts.ckks_vector(context, scaled[at : at + 4096].tolist()).serialize() for at in starts])
        clock.append(time.monotonic())
        self._connection.put(body, weight)
        clock.append(time.monotonic())
        answer = self._connection.mean()
        clock.append(time.monotonic())
        data = answer.read()
        clock.append(time.monotonic())
        out = [np.asarray(ts.ckks_vector_from(context, piece).decrypt()) for piece in split(data)]
        mean = np.concatenate(out)[: update.size] / self._total_weight
        clock.append(time.monotonic())
        return mean, _outcome(("encrypt", "upload", "wait", "download", "decrypt"), clock, len(body), len(data))


class Ours:
    """`client_sdk.Site`, as a hospital uses it."""

    def __init__(self, settings: dict[str, Any]) -> None:
        from client_sdk import PhaseFinished, Site

        self._finished = PhaseFinished
        self._events: list[Any] = []
        self._site = Site.open(settings["config"], progress=self._events.append)
        self._rounds = self._site.rounds()
        self._round: Any = None

    def prepare(self) -> None:
        self._round = next(self._rounds)

    def run(self, update: Any, weight: int) -> tuple[Any, Outcome]:
        self._events.clear()
        # The same numbers in every round: what is measured is time.
        mean = self._round.aggregate({"w": update}, weight=weight, may_repeat=True)
        done = [event for event in self._events if isinstance(event, self._finished)]
        return mean.tensors["w"], {
            "seconds": {event.phase: event.seconds for event in done},
            "bytes_up": sum(event.sent_bytes for event in done),
            "bytes_down": sum(event.received_bytes for event in done),
        }


def _outcome(phases: tuple[str, ...], clock: list[float], up: int, down: int) -> Outcome:
    seconds = {phase: end - begin for phase, begin, end in zip(phases, clock[:-1], clock[1:], strict=True)}
    return {"seconds": seconds, "bytes_up": up, "bytes_down": down}


CLIENTS: dict[str, Callable[[dict[str, Any]], Client]] = {
    "plaintext": Plaintext,
    "plaintext-durable": Plaintext,
    "tenseal-stock": Tenseal,
    **dict.fromkeys(CODECS, Ours),
}
