"""Check that a process has what its role needs: from the second process on, a database for several."""

from __future__ import annotations

from he_agg.errors import ConfigError, Reason
from service.settings import Settings
from service.store.sql import is_shared

__all__ = ["check_role", "need_shared"]


def need_shared(settings: Settings, what: str) -> None:
    """See that the database is for more than one process.

    Args:
        what: who asks, and the verb.

    Raises:
        ConfigError: it is a SQLite file.
    """
    if not is_shared(settings):
        raise ConfigError(
            Reason.BAD_CONFIG,
            f"{what} PostgreSQL: a SQLite file is for one process, which serves and works",
            "pip install 'he-agg[postgres]', and give all processes HE_AGG_DATABASE_URL=postgresql://user@host/database",
        )


def check_role(settings: Settings) -> None:
    """See that somebody can do the work that this process leaves to others.

    Raises:
        ConfigError: nobody can.
    """
    if not settings.work:
        need_shared(settings, "--no-work leaves folding to `he-agg work`, which needs")
