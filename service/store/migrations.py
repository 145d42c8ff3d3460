"""Schema versions: which one a database has, and the numbered steps from each version to the next.

A step is written once and never changed, in SQL that SQLite and PostgreSQL both understand: it must not follow later
changes of schema.py. All steps, and the number, are one transaction of the one writer; both databases undo DDL.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from sqlalchemy import Connection, insert, inspect, select, text, update

from he_agg.errors import ConfigError, Reason
from service.store import schema

__all__ = ["MIGRATIONS", "bring_up_to_date"]


def _to_2(connection: Connection) -> None:
    """Replicas, pausing, sampling, expiry, and parts that are asked for again."""
    for statement in (
        "ALTER TABLE federations ADD COLUMN paused_at BIGINT",
        "ALTER TABLE federations ADD COLUMN sample_fraction FLOAT NOT NULL DEFAULT 1",
        "ALTER TABLE federations ADD COLUMN keep_sums INTEGER",
        "ALTER TABLE federations ADD COLUMN keep_submissions BOOLEAN NOT NULL DEFAULT false",
        "ALTER TABLE rounds ADD COLUMN sample_seed VARCHAR(64)",
        "ALTER TABLE rounds ADD COLUMN sum_scrubbed BOOLEAN NOT NULL DEFAULT false",
        "ALTER TABLE submissions ADD COLUMN active_at BIGINT",
        "ALTER TABLE parts ADD COLUMN damaged_at BIGINT",
        "CREATE TABLE leases (name VARCHAR(160) NOT NULL, holder VARCHAR(64) NOT NULL, token VARCHAR(32) NOT NULL, "
        "expires_at FLOAT NOT NULL, PRIMARY KEY (name))",
        "UPDATE submissions SET active_at = created_at",
    ):
        connection.exec_driver_sql(statement)


def _to_3(connection: Connection) -> None:
    """Rosters instead of tokens, epochs, commitments, and rounds that know what they opened under.

    Records from before stay as they are, outside of the chain, and what is under way ends with the first roster.
    """
    blob = "BYTEA" if connection.dialect.name == "postgresql" else "BLOB"
    for statement in (
        "CREATE TABLE rosters (federation VARCHAR(63) NOT NULL, version INTEGER NOT NULL, digest VARCHAR(64) NOT NULL, "
        f"document {blob} NOT NULL, stored_at BIGINT NOT NULL, PRIMARY KEY (federation, version), "
        "FOREIGN KEY(federation) REFERENCES federations (name))",
        "CREATE TABLE epochs (federation VARCHAR(63) NOT NULL, number INTEGER NOT NULL, key_id VARCHAR(64) NOT NULL, "
        f"bundle {blob}, stored_at BIGINT NOT NULL, PRIMARY KEY (federation, number), "
        "FOREIGN KEY(federation) REFERENCES federations (name))",
        "CREATE TABLE commitments (federation VARCHAR(63) NOT NULL, epoch INTEGER NOT NULL, site VARCHAR(63) NOT NULL, "
        f"document {blob} NOT NULL, stored_at BIGINT NOT NULL, PRIMARY KEY (federation, epoch, site), "
        "FOREIGN KEY(federation, epoch) REFERENCES epochs (federation, number))",
        "ALTER TABLE rounds ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE rounds ADD COLUMN key_id VARCHAR(64) NOT NULL DEFAULT ''",
        "ALTER TABLE rounds ADD COLUMN roster VARCHAR(64) NOT NULL DEFAULT ''",
        "ALTER TABLE rounds ADD COLUMN roster_version INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE rounds ADD COLUMN closed_at BIGINT",
        "ALTER TABLE rounds ADD COLUMN chain_index INTEGER",
        "CREATE UNIQUE INDEX rounds_chain ON rounds (federation, chain_index)",
        # SQLite drops no column that a constraint names: the tables that lead to `sites` are made again.
        "ALTER TABLE parts RENAME TO parts_2",
        "ALTER TABLE submissions RENAME TO submissions_2",
        "ALTER TABLE invitations RENAME TO invitations_2",
        "CREATE TABLE invitations (round_id VARCHAR(128) NOT NULL, site VARCHAR(63) NOT NULL, "
        "PRIMARY KEY (round_id, site), FOREIGN KEY(round_id) REFERENCES rounds (id))",
        "CREATE TABLE submissions (id VARCHAR(64) NOT NULL, round_id VARCHAR(128) NOT NULL, site VARCHAR(63) NOT NULL, "
        f"manifest {blob} NOT NULL, state VARCHAR(16) NOT NULL, created_at BIGINT NOT NULL, accepted_at BIGINT, "
        "active_at BIGINT, PRIMARY KEY (id), UNIQUE (round_id, site), "
        "FOREIGN KEY(round_id, site) REFERENCES invitations (round_id, site))",
        "CREATE TABLE parts (submission_id VARCHAR(64) NOT NULL, number INTEGER NOT NULL, digest VARCHAR(64) NOT NULL, "
        "stored BOOLEAN NOT NULL, damaged_at BIGINT, PRIMARY KEY (submission_id, number), "
        "FOREIGN KEY(submission_id) REFERENCES submissions (id))",
        "INSERT INTO invitations SELECT round_id, site FROM invitations_2",
        "INSERT INTO submissions SELECT id, round_id, site, manifest, state, created_at, accepted_at, active_at "
        "FROM submissions_2",
        "INSERT INTO parts SELECT submission_id, number, digest, stored, damaged_at FROM parts_2",
        "DROP TABLE parts_2",
        "DROP TABLE submissions_2",
        "DROP TABLE invitations_2",
        "DROP TABLE sites",
    ):
        connection.exec_driver_sql(statement)
    for name, document, created_at in connection.exec_driver_sql(
        "SELECT name, document, created_at FROM federations"
    ).all():
        known = json.loads(bytes(document))
        connection.execute(
            text("INSERT INTO epochs VALUES (:name, :number, :key_id, NULL, :at)"),
            {"name": name, "number": known["epoch"], "key_id": known["key_id"], "at": created_at},
        )


MIGRATIONS: Mapping[int, Callable[[Connection], None]] = {2: _to_2, 3: _to_3}
"""The step that leads to each version from the one before."""


def bring_up_to_date(connection: Connection, *, create: bool, migrate: bool) -> int:
    """See that a database has this version's tables.

    Args:
        connection: within a transaction of the one writer.
        create: make the tables where there are none.
        migrate: bring older tables up to this version.

    Returns:
        The version that was found, 0 where there were no tables.

    Raises:
        ConfigError: no tables, tables of a newer version, or of an older one that may not be changed now.
    """
    found = _version(connection)
    wanted = schema.SCHEMA_VERSION
    if found is None:
        if not create:
            raise ConfigError(
                Reason.FILE_MISSING,
                "the database has no aggregator's tables",
                "name the right one, or begin with `he-agg federation create federation.json`",
            )
        schema.metadata.create_all(connection)
        connection.execute(
            insert(schema.meta), [{"name": "schema", "number": wanted}, {"name": "generation", "number": 0}]
        )
        return 0
    if found > wanted or found < 1:
        raise ConfigError(
            Reason.BAD_CONFIG,
            f"store: expected schema version {wanted} or an older one, got {found}",
            "a newer he-agg has written it: use that one, or restore the backup that was made before the upgrade",
        )
    if found == wanted:
        return found
    if not migrate:
        raise ConfigError(
            Reason.BAD_CONFIG,
            f"store: expected schema version {wanted}, got {found}",
            "stop the aggregator, make a backup, and start this version of it once: it brings the store up to date",
        )
    for version in range(found + 1, wanted + 1):
        MIGRATIONS[version](connection)
    connection.execute(update(schema.meta).where(schema.meta.c.name == "schema").values(number=wanted))
    return found


def _version(connection: Connection) -> int | None:
    if not inspect(connection).has_table(schema.meta.name):
        return None
    version = connection.execute(select(schema.meta.c.number).where(schema.meta.c.name == "schema")).scalar()
    return None if version is None else int(version)
