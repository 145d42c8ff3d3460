"""One site of Flower: its SuperNode, and between the benchmark and its ClientApps the same words as `rounds/site.py`.

{"do": "prepare"}        -> {"ready": true} as soon as the ClientApp is in its training, with its update in memory
{"do": "run", "at": T}   -> lets it answer at T, and tells when the ClientApp of the next round had the mean.

    python -m benchmarks.rounds.flower.site SETTINGS.json
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.rounds import tree
from benchmarks.rounds.flower.starting import environment, free_port

_ROUND_S = 900.0
_WAIT_S = 0.02


class _Site:
    """The SuperNode of one site, and the ClientApp that is in its training."""

    def __init__(self, settings: dict[str, Any]) -> None:
        root = Path(settings["root"])
        self._requests = root / f"requests-{settings['site']}"
        self._running = root / "running"
        self._log = root / f"supernode-{settings['site']}.log"
        self._listener = socket.socket(socket.AF_UNIX)
        path = root / f"{settings['site']}.sock"
        self._listener.bind(str(path))
        self._listener.listen()
        self._app: Any = None
        self._read = 0
        url = urlsplit(settings["url"])
        tls = ["--root-certificates", settings["ca_file"]] if url.scheme == "https" else ["--insecure"]
        words = [settings["python"], str(Path(__file__).with_name("supernode.py")), str(self._requests)]
        words += ["0" if settings["as_shipped"] else str(_WAIT_S), "--superlink", url.netloc, *tls]
        words += ["--host", "127.0.0.1", "--port", str(free_port())]
        words += ["--node-config", f'site={settings["site"]} socket="{path}"']
        home = root / f"home-{settings['site']}"
        home.mkdir()
        variables = environment(settings["python"], home, settings["as_shipped"])
        with self._log.open("wb") as log:
            self.supernode = subprocess.Popen(words, stdout=log, stderr=log, env=variables)

    def prepare(self) -> None:
        """Wait until the ClientApp is ready for a round."""
        if self._app is None:
            self._hello()
            self._settle()

    def run(self, at: float) -> dict[str, Any]:
        """One round.

        Returns:
            What the benchmark wants to know of it.
        """
        used = tree.cpu_s(os.getpid())
        self._new_requests()
        tree.signal_named(self.supernode.pid, "flower-superexec", signal.SIGCONT)
        self._running.touch()
        print(json.dumps({"at": at}), file=self._app, flush=True)
        self._app.close()
        hello = self._hello()
        with contextlib.suppress(OSError):
            self._running.unlink()
        requests = self._new_requests()
        found = {
            "end": hello["entered"],
            "error": hello["error"],
            "seconds": _phases(requests, at, hello["entered"]),
            "bytes_up": sum(request[3] for request in requests),
            "bytes_down": sum(request[4] for request in requests),
            "cpu_s": tree.cpu_s(os.getpid()) - used,
            "peak_rss_bytes": tree.largest_rss_bytes(os.getpid()),
        }
        self._settle()
        return found

    def _settle(self) -> None:
        """The ClientApp has its update, and until the next round nothing is to be done."""
        self._hear()
        # It looks for work all the time: not while another scheme has its turn.
        tree.signal_named(self.supernode.pid, "flower-superexec", signal.SIGSTOP)

    def _hello(self) -> dict[str, Any]:
        """The next ClientApp's first words."""
        self._listener.settimeout(_ROUND_S)
        try:
            peer, _ = self._listener.accept()
        except TimeoutError:
            raise SystemExit(f"no ClientApp came\n{self._log.read_text()[-3000:]}") from None
        peer.settimeout(_ROUND_S)
        self._app = peer.makefile("rw")
        return self._hear()

    def _hear(self) -> dict[str, Any]:
        line = self._app.readline()
        if not line:
            raise SystemExit(f"the ClientApp ended\n{self._log.read_text()[-3000:]}")
        found: dict[str, Any] = json.loads(line)
        return found

    def _new_requests(self) -> list[tuple[float, float, str, int, int]]:
        """What the SuperNode asked of the SuperLink since the last call."""
        with self._requests.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        data = data[: data.rfind(b"\n") + 1]
        self._read += len(data)
        lines = (line.split() for line in data.decode().splitlines())
        return [(float(begin), float(end), path, int(up), int(down)) for begin, end, path, up, down in lines]


def _phases(requests: list[tuple[float, float, str, int, int]], begin: float, end: float) -> dict[str, float]:
    """Seconds of a round, by what the SuperNode asked for.

    Returns:
        `upload`, until the reply was with the SuperLink; `wait`, until the message with the mean was there; `download`,
        until the SuperNode had it; `start`, until a process with the ClientApp had started and was handed it.
    """
    looks = [request[0] for request in requests if request[2].endswith("/pull-messages") and request[0] > begin]
    had = [request[1] for request in requests if request[2].endswith("/confirm-message-received")]
    if not (looks and had):
        return {"wait": end - begin}
    clock = [begin, looks[0], looks[-1], had[-1], end]
    return {name: clock[i + 1] - clock[i] for i, name in enumerate(("upload", "wait", "download", "start"))}


def main() -> None:
    """Run until stdin ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    settings: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    site = _Site(settings)
    try:
        for line in sys.stdin:
            command = json.loads(line)
            if command["do"] == "prepare":
                site.prepare()
                print(json.dumps({"ready": True}), flush=True)
            else:
                print(json.dumps(site.run(command["at"])), flush=True)
    finally:
        tree.stop(site.supernode)


if __name__ == "__main__":
    main()
