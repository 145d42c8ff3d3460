"""The tables and their version. service/DATA_MODEL.md says what they mean and in which order they are written.

Times have 64 bits, since an `Integer` of PostgreSQL ends in 2038.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    insert,
    inspect,
    select,
)

from he_agg.errors import ConfigError, Reason

__all__ = [
    "SCHEMA_VERSION",
    "answers",
    "commitments",
    "complaints",
    "dealings",
    "echoes",
    "epochs",
    "federations",
    "invitations",
    "leases",
    "meta",
    "metadata",
    "parts",
    "prepare",
    "rosters",
    "rounds",
    "sharing_keys",
    "submissions",
    "sum_parts",
    "verdicts",
]

SCHEMA_VERSION = 1
"""What `meta` says under "schema", and under "oldest" as long as older versions must not use these tables.

A version that only adds to the tables of the one before leaves "oldest" at that one's number, so that servers of both
may run side by side while one after another is upgraded.
"""

metadata = MetaData()

meta = Table(
    "meta",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("number", BigInteger, nullable=False),
)

federations = Table(
    "federations",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("document", LargeBinary, nullable=False),
    Column("stage", String(16), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("paused_at", BigInteger),
    Column("keep_sums", Integer),
    Column("keep_submissions", Boolean, nullable=False),
)

rosters = Table(
    "rosters",
    metadata,
    Column("federation", String(63), ForeignKey("federations.name"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("document", LargeBinary, nullable=False),
    Column("stored_at", BigInteger, nullable=False),
)

epochs = Table(
    "epochs",
    metadata,
    Column("federation", String(63), ForeignKey("federations.name"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("key_id", String(64), nullable=False),
    Column("bundle", LargeBinary),
    Column("stored_at", BigInteger, nullable=False),
)

commitments = Table(
    "commitments",
    metadata,
    Column("federation", String(63), primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("site", String(63), primary_key=True),
    Column("document", LargeBinary, nullable=False),
    Column("stored_at", BigInteger, nullable=False),
    ForeignKeyConstraint(["federation", "epoch"], ["epochs.federation", "epochs.number"]),
)

sharing_keys = Table(
    "sharing_keys",
    metadata,
    Column("federation", String(63), primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("holder", String(63), primary_key=True),
    Column("document", LargeBinary, nullable=False),
    Column("stored_at", BigInteger, nullable=False),
    ForeignKeyConstraint(["federation", "epoch"], ["epochs.federation", "epochs.number"]),
)

rounds = Table(
    "rounds",
    metadata,
    Column("id", String(128), primary_key=True),
    Column("federation", String(63), ForeignKey("federations.name"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("phase", String(16), nullable=False, index=True),
    Column("opened_at", BigInteger, nullable=False),
    Column("deadline_at", BigInteger, nullable=False),
    Column("ended_at", BigInteger),
    Column("record", LargeBinary),
    Column("record_digest", String(64)),
    Column("released", Boolean, nullable=False),
    Column("scrubbed", Boolean, nullable=False),
    Column("sum_scrubbed", Boolean, nullable=False),
    # What it opened under.
    Column("epoch", Integer, nullable=False),
    Column("key_id", String(64), nullable=False),
    Column("roster", String(64), nullable=False),
    Column("roster_version", Integer, nullable=False),
    Column("holders", String(64)),
    Column("holder_list", LargeBinary),
    Column("closed_at", BigInteger),
    Column("settled_at", BigInteger),
    Column("chain_index", Integer),
    UniqueConstraint("federation", "number", "attempt"),
)
Index("rounds_to_scrub", rounds.c.scrubbed, rounds.c.phase)
Index("rounds_chain", rounds.c.federation, rounds.c.chain_index, unique=True)

invitations = Table(
    "invitations",
    metadata,
    Column("round_id", String(128), ForeignKey("rounds.id"), primary_key=True),
    Column("site", String(63), primary_key=True),
)

submissions = Table(
    "submissions",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("round_id", String(128), nullable=False),
    Column("site", String(63), nullable=False),
    Column("digest", String(64)),
    Column("manifest", LargeBinary),
    Column("state", String(16), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("accepted_at", BigInteger),
    Column("active_at", BigInteger),
    # Rule 4: each site at most once in each attempt, whatever the code above the store does.
    UniqueConstraint("round_id", "site"),
    ForeignKeyConstraint(["round_id", "site"], ["invitations.round_id", "invitations.site"]),
)

parts = Table(
    "parts",
    metadata,
    Column("submission_id", String(64), ForeignKey("submissions.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("digest", String(64)),
    Column("stored", Boolean, nullable=False),
    Column("damaged_at", BigInteger),
)

dealings = Table(
    "dealings",
    metadata,
    Column("submission_id", String(64), ForeignKey("submissions.id"), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("data", LargeBinary, nullable=False),
)


def _by_holders(name: str, *more: Column[Any]) -> Table:
    """Return a table of what holders have said about a round, once for each of them."""
    return Table(
        name,
        metadata,
        Column("round_id", String(128), ForeignKey("rounds.id"), primary_key=True),
        Column("holder", String(63), primary_key=True),
        *more,
        Column("document", LargeBinary, nullable=False),
        Column("stored_at", BigInteger, nullable=False),
    )


echoes = _by_holders("echoes")
answers = _by_holders("answers")
complaints = _by_holders(
    "complaints", Column("dealer", String(63), primary_key=True), Column("fault", String(16), nullable=False)
)

verdicts = Table(
    "verdicts",
    metadata,
    Column("round_id", String(128), ForeignKey("rounds.id"), primary_key=True),
    Column("site", String(63), primary_key=True),
    Column("verdict", String(16), nullable=False),
    Column("document", LargeBinary, nullable=False),
    Column("stored_at", BigInteger, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(160), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("token", String(32), nullable=False),
    Column("expires_at", Float, nullable=False),
)

sum_parts = Table(
    "sum_parts",
    metadata,
    Column("round_id", String(128), ForeignKey("rounds.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("digest", String(64), nullable=False),
)


def prepare(connection: Connection, *, create: bool) -> None:
    """Check that a database has these tables.

    Args:
        create: make the tables where there are none.
    """
    if not inspect(connection).has_table(meta.name):
        if not create:
            raise ConfigError(
                Reason.FILE_MISSING,
                "the database has no aggregator's tables",
                "name the right one, or begin with `he-agg federation create federation.json --roster roster.json`",
            )
        metadata.create_all(connection)
        connection.execute(
            insert(meta),
            [
                {"name": "schema", "number": SCHEMA_VERSION},
                {"name": "oldest", "number": SCHEMA_VERSION},
                {"name": "generation", "number": 0},
            ],
        )
    numbers = {row.name: row.number for row in connection.execute(select(meta.c.name, meta.c.number))}
    found, oldest = numbers.get("schema"), numbers.get("oldest")
    if found == SCHEMA_VERSION or (found is not None and oldest is not None and oldest <= SCHEMA_VERSION < found):
        return
    raise ConfigError(
        Reason.BAD_CONFIG,
        f"store: expected schema version {SCHEMA_VERSION}, got {found}, which is for versions from {oldest} on",
        "another version of he-agg has written it: use that one, or restore the backup that belongs to this one",
    )
