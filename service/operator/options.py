"""Share the options of the operator's commands, and open the store that a command acts on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click
from sqlalchemy.exc import DBAPIError

from he_agg.errors import ConfigError, Reason
from he_agg.host.commands import json_option
from service.audit_events.event import Tell
from service.core.aggregator_key import AggregatorKey
from service.core.conductor import Conductor
from service.monitor.audit_log.wiring import command_events
from service.operator import operations
from service.settings import Settings, load_settings
from service.store.sql import Store, open_store

__all__ = ["OpenStore", "data_dir", "on_store", "where"]

Command = TypeVar("Command", bound=Callable[..., Any])

data_dir = click.option(
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


def where(command: Command) -> Command:
    """Add the two options that say which store a command is about."""
    return data_dir(_database_url(command))


@dataclass(frozen=True)
class OpenStore:
    """The store that a command acts on."""

    settings: Settings
    rows: Store
    conductor: Conductor
    tell: Tell

    def show(self, name: str) -> dict[str, Any]:
        """Show one federation, as it stands now."""
        return operations.show(self.rows, self.settings, name)[0]


def on_store(*, create: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a command act on a store: add the options that name it and `--json`, and put an `OpenStore` in front."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @where
        @json_option
        @wraps(command)
        def run(*, data_dir: Path, database_url: str | None, **arguments: Any) -> Any:
            settings = load_settings(data_dir=data_dir, database_url=database_url)
            rows = open_store(settings, create=create)
            try:
                conductor = Conductor(rows, AggregatorKey.load_or_create(data_dir))
                with command_events(settings) as tell:
                    rows.on_event = tell
                    return command(OpenStore(settings, rows, conductor, tell), **arguments)
            except DBAPIError as error:
                raise ConfigError(Reason.BAD_CONFIG, f"the database cannot be used: {error.orig}") from error
            finally:
                rows.close()

        return run

    return decorate
