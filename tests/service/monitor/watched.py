"""A server with its operators' listener and its metrics, and what a test needs to look at both."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.support.real import until
from tests.support.server import NO_TLS, QUICK, ServerProcess, he_agg, start_server

__all__ = ["Watched", "events_of", "watched_server"]

WATCHED = QUICK | {"HE_AGG_OPERATOR_PORT": "0", "HE_AGG_METRICS_PORT": "0"}


class Watched:
    """A server that is watched.

    Attributes:
        server: the process.
        link: the link that it printed.
        operator_url: of the operators' listener.
        metrics_url: of its metrics.
    """

    def __init__(self, data_dir: Path, environment: dict[str, str] | None = None) -> None:
        self.server: ServerProcess = start_server(data_dir, environment=WATCHED | (environment or {}))
        self.link = self.server.line().split()[-1]
        self.operator_url = self.link.partition("/#")[0]
        self.metrics_url = self.server.line().split()[-1]

    def samples(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """All samples of /metrics, by name and labels."""
        text = httpx.get(self.metrics_url, verify=NO_TLS).raise_for_status().text
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float | None:
        """One sample; None if there is none."""
        return self.samples().get((name, tuple(sorted(labels.items()))))

    def wait_for_requests(self, count: int) -> None:
        """Wait until so many are under way, waiting ones included."""
        until(lambda: self.value("he_agg_requests_under_way") == count)

    def new_link(self) -> str:
        """Another link, as an operator makes it."""
        made = he_agg("operator", "link", "--data-dir", self.server.data_dir, "--url", self.operator_url)
        return made.stdout.strip()

    def logged_in(self, link: str | None = None) -> httpx.Client:
        """A client with a session."""
        client = httpx.Client(base_url=self.operator_url, timeout=20, verify=NO_TLS)
        token = (link or self.new_link()).partition("#")[2]
        assert client.post("/login", json={"token": token}).status_code == 204
        return client


@contextmanager
def watched_server(data_dir: Path, environment: dict[str, str] | None = None) -> Iterator[Watched]:
    watched = Watched(data_dir, environment)
    try:
        yield watched
    finally:
        watched.server.kill()


def events_of(client: httpx.Client) -> Generator[dict[str, Any]]:
    """Snapshots as they come by server-sent events; not the pulses between them, whose data is 1."""
    with client.stream("GET", "/events") as answer:
        assert answer.status_code == 200, answer.status_code
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                yield json.loads(line[6:])
