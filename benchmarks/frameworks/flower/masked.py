"""The ClientApp of SecAgg+, whose mod takes Flower's older interface only. It trains the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.client import Client, NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp

from benchmarks.frameworks.task import initial, patients_of, train

__all__ = ["app"]


class _Site(NumPyClient):
    def __init__(self, context: Context) -> None:
        self._context = context

    def fit(self, parameters: Any, config: Any) -> tuple[Any, int, Any]:
        """Train in one round."""
        node, names = self._context.node_config, initial(int(self._context.run_config["width"]), 0)
        site = str(node["site"])
        model = dict(zip(names, parameters, strict=True))
        after, n = train(model, patients_of(Path(str(node["patients"])), site), site, int(config["number"]))
        return list(after.values()), n, {}


def _site(context: Context) -> Client:
    return _Site(context).to_client()


app = ClientApp(client_fn=_site, mods=[secaggplus_mod])
