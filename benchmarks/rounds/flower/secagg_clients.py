"""The ClientApp of SecAgg+, which takes the older interface only."""

from __future__ import annotations

from typing import Any

from flwr.app import Context
from flwr.client import Client, NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.clientapp import ClientApp

from benchmarks.rounds.flower.training import trained

__all__ = ["app"]


class _Site(NumPyClient):
    def __init__(self, context: Context) -> None:
        self._context = context

    def fit(self, parameters: Any, config: Any) -> tuple[Any, int, Any]:
        """One round."""
        update, weight = trained(self._context, parameters[0])
        return [update], weight, {}


def _site(context: Context) -> Client:
    return _Site(context).to_client()


app = ClientApp(client_fn=_site, mods=[secaggplus_mod])
