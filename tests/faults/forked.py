"""An aggregator that dies by the hundred, and starts again in a fraction of a second at the same address."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from pathlib import Path
from typing import Any

from tests.support.zygote import Forked, Zygote

START_TIMEOUT_S = 30.0


class ForkedServer:
    """One aggregator, as a context manager, which kills it at the end."""

    def __init__(self, zygote: Zygote, data_dir: Path) -> None:
        self._zygote = zygote
        self.data_dir = data_dir
        self.log_path = data_dir.parent / f"{data_dir.name}.stderr.log"
        self._ready = data_dir.parent / f"{data_dir.name}.ready"
        self.url = ""
        self._port = 0
        self._process: Forked | None = None

    def start(self, environment: dict[str, str] | None = None) -> int | None:
        """Start it. Returns None once it listens, or its exit code if it ended before."""
        assert self._process is None
        self._ready.unlink(missing_ok=True)
        arguments = ["--port", str(self._port), "--data-dir", str(self.data_dir)]
        self._process = self._zygote.start(
            "tests.support.zygote:serve", arguments, self._ready, self.log_path, environment
        )
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end:
            with contextlib.suppress(FileNotFoundError):
                line = self._ready.read_text()
                if line.endswith("\n"):
                    self.url = line.split()[-1]
                    self._port = int(self.url.rsplit(":", 1)[1])
                    return None
            code = self.ended()
            if code is not None:
                return code
            time.sleep(0.002)
        raise AssertionError(f"the aggregator did not start\n{self.log_path.read_text()[-3000:]}")

    def ended(self) -> int | None:
        """Its exit code, negative for a signal, if it has ended."""
        assert self._process is not None
        code = self._process.poll()
        if code is not None:
            self._process = None
        return code

    def kill(self) -> int:
        """SIGKILL, unless it has ended already. Returns how it ended."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(signal.SIGKILL)
        return process.wait(30)

    @property
    def log_lines(self) -> list[dict[str, Any]]:
        """What it said on stderr over all starts; the last line of each life may be cut off."""
        lines = []
        for line in self.log_path.read_text().splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                lines.append(json.loads(line))
        return lines

    def __enter__(self) -> ForkedServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
