"""NVFlare as it is deployed: server and sites as processes, with certificates, started from provisioned kits."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.frameworks.nvflare.jobs import allow, environment
from benchmarks.frameworks.task import SITES
from benchmarks.proc import descendants
from benchmarks.rounds import tree

__all__ = ["PORT", "Poc"]

PORT = 8002
"""Where NVFlare's `poc` has its server."""

_MODULE = "nvflare.private.fed.app"
_PREPARE_S = 120
_READY_S = 90.0
_POLL_S = 0.1


class Poc:
    """A deployment of `nvflare poc prepare`, running. Sites take `keystore` and the server the federation document.

    Args:
        python: of the environment with NVFlare.
        he: whether NVFlare's own HE is provisioned; needs TenSEAL.
        local: files for the `local` folder of each machine, by its name.
    """

    def __init__(self, python: str, folder: Path, *, he: bool, local: dict[str, list[Path]]) -> None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", PORT)) == 0:
                raise RuntimeError(f"port {PORT} is taken, where NVFlare's poc has its server")
        self._python, self._processes = python, {}  # type: ignore[var-annotated]
        variables = {"NVFLARE_POC_WORKSPACE": str(folder), "HOME": str(folder.with_name("home"))}
        self._environment = environment(python) | variables
        folder.with_name("home").mkdir(parents=True, exist_ok=True)
        prepare = [python, "-m", "nvflare.cli", "poc", "prepare", "-n", str(len(SITES)), "--force"]
        subprocess.run(
            [*prepare, *(["-he"] if he else [])],
            check=True,
            capture_output=True,
            timeout=_PREPARE_S,
            env=self._environment,
            stdin=subprocess.DEVNULL,
        )
        self.kits = folder / "example_project" / "prod_00"
        for machine, files in local.items():
            for file in files:
                shutil.copy(file, self.kits / machine / "local" / file.name)
        for machine in ("server", *SITES):
            _allow(self.kits / machine / "local")

    def __enter__(self) -> Poc:
        try:
            self._start("server", f"{_MODULE}.server.server_train", "fed_server.json")
            self.start(*SITES)
        except BaseException:  # whoever does not come in does not go out either
            self.__exit__(None, None, None)
            raise
        return self

    def start(self, *sites: str) -> None:
        """Start sites, and wait until the server knows them."""
        for site in sites:
            self._start(site, f"{_MODULE}.client.client_train", "fed_client.json", f"uid={site}")
        until = time.monotonic() + _READY_S
        while not all("Successfully registered client" in self.log(site) for site in sites):
            if time.monotonic() > until:
                raise RuntimeError(f"NVFlare's sites did not come up: {self.log(sites[0])[-2000:]}")
            time.sleep(_POLL_S)

    def kill_job(self, site: str) -> None:
        """Kill what runs a site's job. Its client stays, and notices."""
        for pid in descendants(self._processes[site].pid):
            os.kill(pid, signal.SIGKILL)

    def kill(self, site: str) -> None:
        """Kill all of a site, as a power cut does."""
        tree.stop(self._processes[site])

    def _start(self, machine: str, module: str, settings: str, *more: str) -> None:
        command = [self._python, "-u", "-m", module, "-m", str(self.kits / machine), "-s", settings, "--set"]
        with (self.kits / machine / "terminal").open("wb") as output:
            self._processes[machine] = subprocess.Popen(
                [*command, "secure_train=true", *more, "org=nvidia", "config_folder=config"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                cwd=self.kits / machine,
            )

    @property
    def context(self) -> Path:
        """A site's secret context of NVFlare's own HE."""
        return self.kits / SITES[0] / "startup" / "client_context.tenseal"

    def log(self, machine: str) -> str:
        """Return what a machine wrote so far: on its terminal, and in the logs of its jobs."""
        folder = self.kits / machine
        files = [folder / "terminal", *sorted(folder.glob("*/log.txt"))]
        return "".join(file.read_text() for file in files if file.exists())

    def run(self, job: Path) -> tuple[bool, dict[str, int]]:
        """Run a job. Returns whether it completed, and how many bytes the server's port took in and gave out."""
        command = [
            self._python,
            "-m",
            "benchmarks.frameworks.nvflare.submit",
            str(self.kits / "admin@nvidia.com"),
            str(job),
        ]
        with _Bytes() as counted:
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=self._environment)
        return done.returncode == 0, counted.total()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            tree.stop(process)


def _allow(local: Path) -> None:
    """Let a kit's machine build our components, beside those that its kit allows."""
    resources = local / "resources.json"
    default = local / "resources.json.default"
    if not resources.exists():
        shutil.copy(default, resources)
    allow(resources, default)


class _Bytes:
    """Bytes of TCP on the server's port, counted by the kernel, looked at often: connections of jobs end with them."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int]] = {}
        self._before: dict[str, tuple[int, int]] = {}
        self._over = threading.Event()

    def _look(self) -> None:
        command = ["ss", "-tinHO", "sport", "=", f":{PORT}"]
        for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
            if (peer := re.search(r":(\d+)\s+\S*:(\d+)\s", line)) is not None:
                up, down = (re.search(rf"{name}:(\d+)", line) for name in ("bytes_received", "bytes_acked"))
                self._seen[peer[2]] = (int(up[1]) if up else 0, int(down[1]) if down else 0)

    def __enter__(self) -> _Bytes:
        self._look()
        self._before = dict(self._seen)
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(_POLL_S):
            self._look()

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self._thread.join()
        self._look()

    def total(self) -> dict[str, int]:
        """Return the bytes since the beginning. Units: bytes, without TCP's headers."""
        up, down = (sum(now[i] - self._before.get(peer, (0, 0))[i] for peer, now in self._seen.items()) for i in (0, 1))
        return {"up": up, "down": down}
