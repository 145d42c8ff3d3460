"""Flower's SuperLink as the server of a scheme, and the run that `flwr run` starts on it.

python -m benchmarks.rounds.flower.server SETTINGS.json      prints `listening on http://...`
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.rounds.flower.starting import environment, free_port, project, wait_for
from benchmarks.rounds.tree import stop

_CLIENTS = {
    "flower-fedavg": "clients",
    "flower-secaggplus": "secagg_clients",
}


def main() -> None:
    """Run until stdin ends."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    settings: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    root, host = Path(settings["root"]), settings["host"]
    port = free_port()
    bin_folder = Path(settings["python"]).parent
    # The SuperExec here starts the ServerApp and is idle from then on.
    variables = environment(settings["python"], root / "home", as_shipped=True)
    tls = ["--insecure"]
    if settings["cert"]:
        tls = ["--ssl-certfile", settings["cert"], "--ssl-keyfile", settings["key"]]
        tls += ["--ssl-ca-certfile", settings["ca_file"]]
    words = [str(bin_folder / "flower-superlink"), "--host", host, "--port", str(port), *tls]
    with (root / "superlink.log").open("wb") as log:
        superlink = subprocess.Popen(
            [*words, "--disable-runtime-dependency-installation"], stdout=log, stderr=log, env=variables
        )
        try:
            wait_for(superlink, f"{host}:{port}", root / "superlink.log")
            _submit(settings, root, f"{host}:{port}", variables)
            print(f"listening on {'https' if settings['cert'] else 'http'}://{host}:{port}", flush=True)
            sys.stdin.read()
        finally:
            stop(superlink)


def _submit(settings: dict[str, Any], root: Path, address: str, variables: dict[str, str]) -> None:
    """Start the run: the ServerApp then waits for its sites."""
    scheme = settings["scheme"]
    config = {"scheme": scheme, "sites": settings["sites"], "values": settings["values"]}
    config |= {"as-shipped": settings["as_shipped"], "running": str(root / "running")}
    app = project(root / "app", _CLIENTS[scheme], config)
    lines = ["[superlink]", 'default = "bench"', "[superlink.bench]", f'address = "{address}"']
    lines.append(f'root-certificates = "{settings["ca_file"]}"' if settings["cert"] else "insecure = true")
    home = root / "home"
    home.mkdir(exist_ok=True)  # the SuperLink may have made it
    (home / "config.toml").write_text("\n".join(lines) + "\n")
    flwr = str(Path(settings["python"]).parent / "flwr")
    done = subprocess.run([flwr, "run", str(app), "bench"], capture_output=True, text=True, env=variables, check=False)
    if done.returncode:
        raise SystemExit(f"flwr run failed\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


if __name__ == "__main__":
    main()
