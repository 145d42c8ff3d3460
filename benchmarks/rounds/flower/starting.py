"""What Flower's processes need to start: a Python that has it, an environment, and the app as a project."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

__all__ = ["environment", "flower_version", "free_port", "has_he_agg", "project", "wait_for", "write_project"]

_ROUNDS = Path(__file__).parents[1]
_POLL_S = 0.2
_START_S = 60.0
_PROJECT = """
[project]
name = "rounds"
version = "1.0.0"
description = "Rounds of Flower, measured by he-agg"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "heagg"

[tool.flwr.app.components]
serverapp = "{server}"
clientapp = "{clients}"

[tool.flwr.app.config]
"""


@functools.cache
def flower_version(python: str) -> str:
    """Which version of Flower a Python has; empty if none."""
    if not Path(python).is_file():
        return ""
    return _said(python, "from importlib.metadata import version; import flwr; print(version('flwr'))")


@functools.cache
def has_he_agg(python: str) -> bool:
    """Say whether a Python has he-agg, too."""
    return bool(_said(python, "import client_sdk; print('yes')"))


def _said(python: str, code: str) -> str:
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False, env=_quiet())
    return done.stdout.strip() if done.returncode == 0 else ""


def _quiet() -> dict[str, str]:
    """Nothing goes out: no telemetry, no look for updates, no proxy on the way to this machine."""
    return dict(os.environ) | {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "NO_PROXY": "*"}


def environment(python: str, home: Path, as_shipped: bool) -> dict[str, str]:
    """The environment of Flower's processes.

    Args:
        python: of the environment that has Flower; its commands are beside it.
        home: where Flower keeps what it installs.
        as_shipped: leave Flower's waits as they are.
    """
    found = _quiet() | {"FLWR_HOME": str(home), "PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}"}
    if not as_shipped:
        found["FLWR_SUPEREXEC_TASK_POLL_INTERVAL"] = str(_POLL_S)
    return found


def project(folder: Path, clients: str, config: dict[str, object]) -> Path:
    """Write the app as a project that `flwr run` takes.

    Args:
        folder: where to; is made.
        clients: the module of the ClientApp.
        config: what the apps read of `run_config`.
    """
    for name in (*(f"flower/{each}.py" for each in ("servers", clients, "training")), "models.py"):
        target = folder / "benchmarks" / "rounds" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_ROUNDS / name, target)
    for package in ("benchmarks", "benchmarks/rounds", "benchmarks/rounds/flower"):
        (folder / package / "__init__.py").touch()
    room = "benchmarks.rounds.flower"
    return write_project(folder, f"{room}.servers:app", f"{room}.{clients}:app", config)


def write_project(folder: Path, server: str, clients: str, config: dict[str, object]) -> Path:
    """Write what `flwr run` reads of a project.

    Args:
        folder: where to; is made if it is not there.
        server: the ServerApp, as `module:name`.
        clients: the ClientApp.
        config: what the apps read of `run_config`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{name} = {json.dumps(value)}" for name, value in config.items()]
    text = _PROJECT.format(server=server, clients=clients)
    (folder / "pyproject.toml").write_text(text + "\n".join(lines) + "\n")
    return folder


def wait_for(superlink: subprocess.Popen[bytes], address: str, log: Path) -> None:
    """Wait until a SuperLink takes connections.

    Raises:
        SystemExit: it does not.
    """
    host, _, port = address.rpartition(":")
    end = time.monotonic() + _START_S
    while time.monotonic() < end and superlink.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
            return
        time.sleep(0.1)
    raise SystemExit(f"flower-superlink did not start\n{log.read_text()[-2000:]}")


def free_port() -> int:
    """A port of loopback that nobody listens on just now. Flower's commands take no 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
