"""Read and write federations, their rosters, epochs and commitments."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, bindparam, insert, select, update

from service.domain.events import Stage
from service.store.queries import Queries, as_row, columns_of
from service.store.rows import EpochRow, FederationRow, Keeping, RosterRow
from service.store.schema import commitments, epochs, federations, rosters
from service.store.statements import Prepared

__all__ = ["FEDERATIONS", "FederationRows", "federation_of"]

FEDERATIONS = select(
    federations.c.name,
    federations.c.document,
    federations.c.stage,
    federations.c.created_at,
    federations.c.paused_at,
    *columns_of(federations, Keeping),
)
_FEDERATION = Prepared(FEDERATIONS.where(federations.c.name == bindparam("name")))
_BY_NAME = Prepared(FEDERATIONS.order_by(federations.c.name))
_ROSTERS = select(*columns_of(rosters, RosterRow)).where(rosters.c.federation == bindparam("federation"))
_ROSTER = Prepared(_ROSTERS.where(rosters.c.version == bindparam("version")))
_NEWEST_ROSTER = Prepared(_ROSTERS.order_by(rosters.c.version.desc()).limit(1))
_EPOCHS = select(*columns_of(epochs, EpochRow)).where(epochs.c.federation == bindparam("federation"))
_NEWEST_EPOCH = Prepared(_EPOCHS.order_by(epochs.c.number.desc()).limit(1))
_EPOCH = Prepared(_EPOCHS.where(epochs.c.number == bindparam("number")))


class FederationRows(Queries):
    """What a transaction reads and writes about federations."""

    def federation(self, name: str) -> FederationRow | None:
        """Return one federation."""
        return self._once(("federation", name), lambda: self._first(federation_of, _FEDERATION, name=name))

    def federations(self) -> list[FederationRow]:
        """Return all federations, by name."""
        return self._once(("federations",), lambda: self._all(federation_of, _BY_NAME))

    def add_federation(self, row: FederationRow) -> None:
        """Register a federation."""
        values = {**vars(row), "stage": row.stage.value, **vars(row.keeping)}
        del values["keeping"]
        self._change(insert(federations).values(**values))

    def set_stage(self, name: str, stage: Stage) -> None:
        """Change a federation's stage."""
        self._change(update(federations).where(federations.c.name == name).values(stage=stage.value))

    def set_paused(self, name: str, at: int | None) -> None:
        """Note when a federation was paused, or that it is not any more."""
        self._change(update(federations).where(federations.c.name == name).values(paused_at=at))

    def newest_roster(self, federation: str) -> RosterRow | None:
        """Return the newest version of a federation's roster; None if there is no such federation."""

        def find() -> RosterRow | None:
            row = self._first(as_row(RosterRow), _NEWEST_ROSTER, federation=federation)
            return None if row is None else self._once(("roster", federation, str(row.version)), lambda: row)

        return self._once(("newest roster", federation), find)

    def roster(self, federation: str, version: int) -> RosterRow | None:
        """Return one version of a federation's roster."""

        def find() -> RosterRow | None:
            return self._first(as_row(RosterRow), _ROSTER, federation=federation, version=version)

        return self._once(("roster", federation, str(version)), find)

    def roster_document(self, federation: str, version: int) -> bytes:
        """Return the canonical bytes of a version that is here."""
        this = (rosters.c.federation == federation) & (rosters.c.version == version)
        return bytes(self._run(select(rosters.c.document).where(this)).scalar_one())

    def roster_versions(self, federation: str) -> list[int]:
        """Return all versions that are here, ascending."""
        query = select(rosters.c.version).where(rosters.c.federation == federation).order_by(rosters.c.version)
        return self._all(lambda row: int(row.version), query)

    def add_roster(self, row: RosterRow, document: bytes, at: int) -> None:
        """Write a version of a roster."""
        self._change(insert(rosters).values(**vars(row), document=document, stored_at=at))

    def newest_epoch(self, federation: str) -> EpochRow:
        """Return the current epoch of a federation that is here."""
        return as_row(EpochRow)(self._run(_NEWEST_EPOCH, {"federation": federation}).one())

    def epoch(self, federation: str, number: int) -> EpochRow | None:
        """Return one epoch."""
        return self._first(as_row(EpochRow), _EPOCH, federation=federation, number=number)

    def bundle(self, federation: str, number: int) -> bytes | None:
        """Return the canonical bytes of an epoch's bundle; None if there is none here."""
        return self._bytes(select(epochs.c.bundle).where(epochs.c.federation == federation, epochs.c.number == number))

    def add_epoch(self, row: EpochRow, bundle: bytes | None, at: int) -> None:
        """Write an epoch."""
        self._run(insert(epochs).values(**vars(row), bundle=bundle, stored_at=at))

    def set_bundle(self, federation: str, number: int, bundle: bytes) -> None:
        """Write the bundle of an epoch that came without."""
        this = (epochs.c.federation == federation) & (epochs.c.number == number)
        self._run(update(epochs).where(this).values(bundle=bundle))

    def commitment(self, federation: str, epoch: int, site: str) -> bytes | None:
        """Return the canonical bytes of a site's commitment."""
        this = (commitments.c.federation == federation) & (commitments.c.epoch == epoch) & (commitments.c.site == site)
        return self._bytes(select(commitments.c.document).where(this))

    def committed(self, federation: str, epoch: int) -> list[str]:
        """Return which sites have said that they hold an epoch's key, sorted."""
        these = (commitments.c.federation == federation) & (commitments.c.epoch == epoch)
        return sorted(self._all(lambda row: str(row.site), select(commitments.c.site).where(these)))

    def commitments(self, federation: str, epoch: int) -> list[bytes]:
        """Return all commitments to an epoch's key, by site."""
        these = (commitments.c.federation == federation) & (commitments.c.epoch == epoch)
        found = self._run(select(commitments.c.site, commitments.c.document).where(these)).all()
        # Not sorted by the database, whose language may have its own order.
        return [bytes(row.document) for row in sorted(found, key=lambda row: row.site)]

    def add_commitment(self, federation: str, epoch: int, site: str, document: bytes, at: int) -> None:
        """Write a commitment."""
        values = {"federation": federation, "epoch": epoch, "site": site}
        self._run(insert(commitments).values(**values, document=document, stored_at=at))


def federation_of(row: Row[Any]) -> FederationRow:
    """Make a row of `FEDERATIONS`."""
    keeping = Keeping(row.keep_sums, row.keep_submissions)
    return FederationRow(row.name, bytes(row.document), Stage(row.stage), row.created_at, row.paused_at, keeping)
