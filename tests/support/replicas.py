"""Several real processes over one PostgreSQL and one directory, and the sites of one federation."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import httpx

from he_agg.host.processes import HE_AGG, Process
from service.settings import Settings
from tests.support.peers import Peer, expected_sum, make_plan, prepare, read_sum, register
from tests.support.server import NO_TLS, ServerProcess, server_zygote

__all__ = ["SITES", "PatientPeer", "Replicas", "WorkerProcess", "children_of"]

SITES = "abc"
PATIENCE_S = 60


class PatientPeer(Peer):
    """Asks again what gets no answer."""

    retries = 0

    def request(self, *arguments: Any, **more: Any) -> httpx.Response:
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                return super().request(*arguments, **more)
            except httpx.TransportError:
                assert time.monotonic() < end, f"{arguments}: no answer for {PATIENCE_S} s"
                self.retries += 1
                time.sleep(0.01)


class WorkerProcess(Process):
    """`he-agg work`. When `start` returns, it works."""

    def __init__(self, data_dir: Path, number: int, environment: dict[str, str]) -> None:
        command = [*HE_AGG, "work", "--data-dir", str(data_dir)]
        log_path = data_dir.with_name(f"worker-{number}.log")
        super().__init__(command, log_path, {"PYTHONWARNINGS": "error"} | environment, server_zygote().spawn)

    def start(self) -> WorkerProcess:
        super().start()
        assert self.line() == "working"
        return self


class Replicas:
    """Servers and workers, which the test starts, and a federation.

    Args:
        url: an empty database.
    """

    def __init__(self, url: str, tmp_path: Path, *, values: int = 5000, **environment: str) -> None:
        self.data_dir = tmp_path / "shared"
        self.settings = Settings(data_dir=self.data_dir, database_url=url)
        self.plan = make_plan("f", values=values, rounds=1000)
        self.environment = {
            "HE_AGG_DATABASE_URL": url,
            "HE_AGG_RECHECK_S": "0.05",
            "HE_AGG_LEASE_S": "1",
            "HE_AGG_PROCESSES": "1",
        } | environment
        self.members = register(self.data_dir, self.plan, list(SITES), database_url=url)
        self.processes: list[Process] = []
        self.clients: list[httpx.Client] = []

    def serve(self, **environment: str) -> ServerProcess:
        server = ServerProcess(self.data_dir, self.environment | environment).start()
        self.processes.append(server)
        self.clients.append(httpx.Client(base_url=server.url, timeout=30, verify=NO_TLS))
        return server

    def work(self, **environment: str) -> WorkerProcess:
        worker = WorkerProcess(self.data_dir, len(self.processes), self.environment | environment)
        self.processes.append(worker)
        return worker.start()

    def peer(self, site: str, server: int = 0) -> PatientPeer:
        return PatientPeer(self.clients[server], "f", self.members[site])

    def next_round(self, server: int = 0, after: str | None = None) -> tuple[str, dict[str, Any]]:
        """The open round, and a submission of each site to it: zeros, and a single 1."""
        round_id = self.peer("a", server).current(wait=30, after=after)["round_id"]
        return round_id, {site: prepare(self.plan, round_id, site, i, one_hot=i) for i, site in enumerate(SITES)}

    def submit(self, prepared: dict[str, Any], server: int = 0) -> None:
        for site in SITES:
            answer = self.peer(site, server).submit(prepared[site])
            assert answer.status_code == 200, answer.text

    def check_sum(self, round_id: str, prepared: dict[str, Any], server: int = 0) -> None:
        record = self.peer("a", server).record(round_id, wait=30).json()["record"]["body"]
        assert record["members"] == {site: p.id for site, p in prepared.items()}
        got = read_sum(self.plan, self.peer("a", server).sum_from(round_id).content)
        for one, expected in zip(got, expected_sum(self.plan, list(prepared.values())), strict=True):
            assert (one == expected).all()

    def failures(self) -> list[dict[str, Any]]:
        lines = [line for process in self.processes for line in process.log_lines]
        return [line for line in lines if line.get("level") in ("ERROR", "CRITICAL")]

    def close(self) -> None:
        for client in self.clients:
            client.close()
        for process in self.processes:
            process.kill()


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and that have not ended."""
    found = subprocess.run(["ps", "-o", "pid=,stat=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    rows = [line.split() for line in found.stdout.splitlines()]
    return [int(number) for number, state in rows if not state.startswith("Z")]
