"""Options that several of the operator's commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from service.settings import Settings

__all__ = ["as_json", "data_dir", "where"]

Command = TypeVar("Command", bound=Callable[..., Any])

data_dir = click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="HE_AGG_DATA_DIR",
    default=Settings.model_fields["data_dir"].default,
    show_default="./he-agg-data, or HE_AGG_DATA_DIR",
    help="Where the aggregator keeps everything.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_database_url = click.option(
    "--database-url",
    envvar="HE_AGG_DATABASE_URL",
    help="SQLAlchemy URL, for instance postgresql://user@host/db for replicas; by default a SQLite file in --data-dir.",
)


def where(command: Command) -> Command:
    """The two options that say which store a command is about."""
    return data_dir(_database_url(command))
