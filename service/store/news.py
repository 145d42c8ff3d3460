"""Hear at once what another process has changed: PostgreSQL carries the word with the transaction that changed it.

Only a short cut. Whoever waits looks at the generation now and then in any case, so word that is lost, while the
database restarts for instance, makes nothing wrong and little late.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from sqlalchemy import make_url

from service.settings import Settings
from service.store.sql import is_shared
from service.store.transaction import CHANNEL

__all__ = ["Ear"]

_PAUSE_S = 1.0
_PATIENCE_S = 0.2
"""How long the end of an ear may take."""


class Ear:
    """Listens in a thread of its own, by a connection of its own, until it is closed.

    Args:
        heard: called in that thread whenever a process, this one included, has spread word.
    """

    def __init__(self, settings: Settings, heard: Callable[[], object]) -> None:
        self._heard = heard
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        if settings.database_url is not None and is_shared(settings):
            url = make_url(settings.database_url).set(drivername="postgresql")
            self._thread = threading.Thread(
                target=self._run, args=[url.render_as_string(hide_password=False)], name="ear", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """Listen no more."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, url: str) -> None:
        import psycopg  # an extra: there is no PostgreSQL without it

        while not self._closed.is_set():
            try:
                with psycopg.connect(url, autocommit=True, connect_timeout=10, application_name="he-agg") as connection:
                    connection.execute(f"LISTEN {CHANNEL}")
                    while not self._closed.is_set():
                        for _ in connection.notifies(timeout=_PATIENCE_S, stop_after=1):
                            self._heard()
            except psycopg.Error:
                self._closed.wait(_PAUSE_S)  # it restarts; statements that matter will say so
