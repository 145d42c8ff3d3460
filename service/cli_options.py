"""What the operator's commands share: which store they are about, and what they need to act on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from service.aggregator_key import AggregatorKey
from service.conductor import Conductor
from service.settings import Settings, load_settings
from service.store.base import Store
from service.store.sql import open_store

__all__ = ["Desk", "on_store", "where"]

Command = TypeVar("Command", bound=Callable[..., Any])

_data_dir = click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="HE_AGG_DATA_DIR",
    default=Settings.model_fields["data_dir"].default,
    show_default="./he-agg-data, or HE_AGG_DATA_DIR",
    help="Where the aggregator keeps everything.",
)
_database_url = click.option(
    "--database-url",
    envvar="HE_AGG_DATABASE_URL",
    help="SQLAlchemy URL, for instance postgresql://user@host/db for replicas; by default a SQLite file in --data-dir.",
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@dataclass(frozen=True)
class Desk:
    """What a command of the operator works with.

    Attributes:
        store: rows.
        conductor: the one writer of rounds.
    """

    store: Store
    conductor: Conductor


def where(command: Command) -> Command:
    """The two options that say which store a command is about."""
    return _data_dir(_database_url(command))


def on_store(*, create: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a command that acts on a store: with the options that name it and `--json`, and with a `Desk` in front.

    Args:
        create: whether the store may be made.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @where
        @_as_json
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
