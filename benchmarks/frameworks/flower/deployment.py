"""Flower as it is deployed: SuperLink and SuperNodes as processes, with TLS, and runs that `flwr run` starts."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import TracebackType

from benchmarks.frameworks.task import SITES
from benchmarks.rounds import tree
from benchmarks.rounds.flower.scheme import why_no_flower
from benchmarks.rounds.flower.starting import environment, free_port, has_he_agg, wait_for, write_project
from benchmarks.rounds.links import certificates

__all__ = ["Flower", "why_no_runs"]

_HOST = "127.0.0.1"
_RUN_S = 900.0
_SUPERNODE = Path(__file__).parents[2] / "rounds" / "flower" / "supernode.py"
_WAIT_S = "0.02"
_CLIENTS = {"plaintext": "clients", "secaggplus": "masked", "he-agg": "encrypted"}


def why_no_runs(python: str) -> str:
    """Say why runs cannot be made with a Python; empty if they can."""
    if reason := why_no_flower(python):
        return reason
    return "" if has_he_agg(python) else f"he-agg is not installed in the environment of {python}, beside flwr"


class Flower:
    """A deployment, running.

    Args:
        python: of the environment with Flower.
        nodes: what each site's SuperNode tells its ClientApps, by the site's name.
    """

    def __init__(self, python: str, folder: Path, nodes: dict[str, dict[str, str]]) -> None:
        self._bin, self._folder, self._nodes = Path(python).parent, folder, nodes
        self._python = python
        self._processes: list[subprocess.Popen[bytes]] = []
        self._address = f"{_HOST}:{free_port()}"
        folder.mkdir(parents=True)
        self._cert, self._key, self._authority = certificates(folder, _HOST)

    def __enter__(self) -> Flower:
        try:
            self._begin()
        except BaseException:  # whoever does not come in does not go out either
            self.__exit__(None, None, None)
            raise
        return self

    def _begin(self) -> None:
        words = [str(self._bin / "flower-superlink"), "--host", _HOST, "--port", self._address.rpartition(":")[2]]
        words += ["--ssl-certfile", str(self._cert), "--ssl-keyfile", str(self._key)]
        words += ["--ssl-ca-certfile", str(self._authority), "--disable-runtime-dependency-installation"]
        superlink = self._start("superlink", words)
        wait_for(superlink, self._address, self._log("superlink"))
        for site in SITES:
            words = [self._python, str(_SUPERNODE), str(self._requests(site)), _WAIT_S, "--superlink", self._address]
            words += ["--root-certificates", str(self._authority), "--host", _HOST, "--port", str(free_port())]
            facts = self._nodes[site] | {"site": site}
            self._start(site, [*words, "--node-config", " ".join(f'{name}="{fact}"' for name, fact in facts.items())])
        lines = ["[superlink]", 'default = "job"', "[superlink.job]", f'address = "{self._address}"']
        lines.append(f'root-certificates = "{self._authority}"')
        (self._folder / "home-run").mkdir()
        (self._folder / "home-run" / "config.toml").write_text("\n".join(lines) + "\n")

    def _start(self, name: str, words: list[str]) -> subprocess.Popen[bytes]:
        variables = environment(self._python, self._folder / f"home-{name}", as_shipped=False)
        with self._log(name).open("wb") as log:
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=variables)
        self._processes.append(process)
        return process

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _requests(self, site: str) -> Path:
        return self._folder / f"{site}.requests"

    def run(self, folder: Path, scheme: str, config: dict[str, object]) -> dict[str, int]:
        """Run an app to its end. Returns bytes of all requests of the sites and of the answers to them.

        Args:
            folder: where the app is written to; is made.
            scheme: "plaintext", "secaggplus" or "he-agg".
            config: what the apps read of `run_config`.

        Raises:
            RuntimeError: it did not come to its end.
        """
        room = "benchmarks.frameworks.flower"
        parts = {"server_app": f"{room}.servers", "client_app": f"{room}.{_CLIENTS[scheme]}"}
        app = write_project(folder, "server_app:app", "client_app:app", config | {"scheme": scheme})
        for name, module in parts.items():
            (app / f"{name}.py").write_text(f"import {module}\n\napp = {module}.app\n")
        before = self._bytes()
        variables = environment(self._python, self._folder / "home-run", as_shipped=False)
        command = [str(self._bin / "flwr"), "run", str(app), "job", "--stream"]
        done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False, timeout=_RUN_S)
        clock = Path(str(config["out"])) / "clock.jsonl"
        if done.returncode or not clock.exists() or '"over"' not in clock.read_text():
            raise RuntimeError(f"{scheme}: the run did not come to its end\n{done.stdout[-3000:]}{done.stderr[-2000:]}")
        after = self._bytes()
        return {name: after[name] - before[name] for name in after}

    def _bytes(self) -> dict[str, int]:
        files = [self._requests(site) for site in SITES if self._requests(site).exists()]
        lines = [line.split() for file in files for line in file.read_text().splitlines()]
        return {"up": sum(int(line[3]) for line in lines), "down": sum(int(line[4]) for line in lines)}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            tree.stop(process)
