"""What a command of the operator that acts on a store works with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from service.core.aggregator_key import AggregatorKey
from service.core.conductor import Conductor
from service.operator.cli_options import as_json, where
from service.settings import load_settings
from service.store.base import Store
from service.store.sql import open_store

__all__ = ["Desk", "on_store"]


@dataclass(frozen=True)
class Desk:
    """What is on it.

    Attributes:
        store: rows.
        conductor: the one writer of rounds.
    """

    store: Store
    conductor: Conductor


def on_store(*, create: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a command that acts on a store: with the options that name it and `--json`, and with a `Desk` in front.

    Args:
        create: whether the store may be made.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @where
        @as_json
        @wraps(command)
        def run(*, data_dir: Path, database_url: str | None, **arguments: Any) -> Any:
            store = open_store(load_settings(data_dir=data_dir, database_url=database_url), create=create)
            try:
                desk = Desk(store, Conductor(store, AggregatorKey.load_or_create(data_dir)))
                return command(desk, **arguments)
            finally:
                store.close()

        return run

    return decorate
