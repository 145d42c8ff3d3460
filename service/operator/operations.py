"""Do what the operator asks: register federations, bring in rosters and bundles, start and end.

Acts on the store, whether or not a server runs. What changes rounds goes through a conductor, which signs the records.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from he_agg.documents.epoch import EpochBundle
from he_agg.documents.federation import MAX_FEDERATION_BYTES, FederationDocument
from he_agg.documents.roster import Role, Roster
from he_agg.documents.signed import Body, Signed
from he_agg.documents.start import MAX_START_BYTES, Start
from he_agg.errors import ConfigError, InputError, PlanError, Reason, WireError
from he_agg.host.files import file_trouble
from he_agg.protocol.wire import refuse_secrets
from service.core.conductor import Conductor
from service.core.roster_cache import newest_roster
from service.core.trust import accept_bundle, accept_roster, add_first_roster
from service.core.verdicts import standing_of
from service.domain import events
from service.domain.events import Phase, Stage
from service.domain.verdicts import Standing
from service.monitor.view import take_view
from service.settings import Settings
from service.store.parts.opening import open_parts
from service.store.rows import EpochRow, FederationRow, Keeping
from service.store.sql import Store
from service.store.transaction import Transaction

__all__ = [
    "NONE_YET",
    "bring_bundle",
    "bring_roster",
    "create_federation",
    "dispute",
    "end",
    "pause",
    "read_bundle",
    "read_document",
    "read_roster",
    "read_start",
    "resume",
    "show",
    "skip",
    "start",
]

_REGISTER = "`he-agg federation create federation.json --roster roster.json`"
NONE_YET = f"no federations yet; register one: {_REGISTER}"


def read_document(path: Path) -> FederationDocument:
    """Read a federation file."""
    data = _read(path, MAX_FEDERATION_BYTES)
    hint = "the coordinator makes the federation file with `he-agg epoch new`; it is the one meant for the operator"
    try:
        return FederationDocument.parse(data)
    except WireError as error:
        if error.reason is Reason.SECRET_REFUSED:
            raise WireError(
                error.reason,
                f"{path} is or holds a key: the operator of an aggregator must never have one; nothing was stored",
                "delete this copy and tell the coordinator, who may have to make a new group key; " + hint,
            ) from error
        if b'"layout":{' in data and b'"public":{' in data:
            raise InputError(
                Reason.BAD_ARGUMENT,
                f"{path} is a plan file: it names the model's tensors and stays at the sites; nothing was stored",
                hint,
            ) from error
        raise WireError(error.reason, f"{path} is not a federation file: {error.message}", hint) from error
    except PlanError as error:
        raise PlanError(error.reason, f"{path}: {error.message}", error.hint, error.shell) from error


def read_start(path: Path) -> Start:
    """Read a start file, and check that what is in it belongs together."""
    data = _read(path, MAX_START_BYTES)
    try:
        return Start.parse(data)
    except (WireError, PlanError) as error:
        refuse_secrets(data)
        raise WireError(
            error.reason,
            f"{path} is not a usable start file: {error.message}",
            error.hint or "the coordinator makes it with `he-agg found`; fetch it again, as a file",
        ) from error


def read_roster(path: Path) -> bytes:
    """Read a roster file. What it says is checked when it is brought in."""
    return _read_signed(path, Roster, "roster", "roster sign")


def read_bundle(path: Path) -> bytes:
    """Read a bundle file. What it says is checked when it is brought in."""
    return _read_signed(path, EpochBundle, "bundle", "epoch new")


def create_federation(
    store: Store,
    conductor: Conductor,
    document: FederationDocument,
    roster: bytes,
    bundle: bytes | None = None,
    keeping: Keeping | None = None,
) -> bool:
    """Register a federation. The same documents and options again are no error.

    Args:
        bundle: the signed bundle of the document's epoch, if the sites are to get it from here.
        keeping: what the operator decides beside it; by default nothing is kept for longer than the server's settings
            say.

    Raises:
        InputError: there is another federation of that name, or options out of their range.
    """
    keeping = keeping or Keeping()
    if keeping.keep_sums is not None and keeping.keep_sums < 1:
        raise InputError(Reason.BAD_ARGUMENT, f"sums to keep: expected at least 1, got {keeping.keep_sums}")
    name, encoded = document.plan.federation, document.encode()
    with store.write() as tx:
        existing = tx.federation(name)
        if existing is None:
            row, at = FederationRow(name, encoded, Stage.CREATED, int(time.time()), None, keeping), int(time.time())
            tx.add_federation(row)
            tx.add_epoch(EpochRow(name, document.epoch, document.key_id), None, at)
            add_first_roster(tx, conductor, row, roster)
            first = newest_roster(tx, name).body
            tx.report(
                "federation.created",
                federation=name,
                roster_version=first.version,
                members=len(first.members),
                epoch=document.epoch,
                key_id=document.key_id,
            )
        else:
            row = existing
            _check_same(existing, document, keeping)
            _accept_roster(tx, conductor, row, roster)
        if bundle is not None:
            accept_bundle(tx, conductor, row, bundle, document.epoch)
    return existing is None


def _check_same(existing: FederationRow, document: FederationDocument, keeping: Keeping) -> None:
    if existing.document != document.encode():
        raise InputError(
            Reason.ALREADY_EXISTS,
            f"federation {existing.name} exists with plan {existing.parsed.plan.plan_id[:12]} and key "
            f"{existing.parsed.key_id[:12]}, got plan {document.plan.plan_id[:12]} and key {document.key_id[:12]}",
            "a federation keeps its plan: give the new one another name; another key is another epoch: "
            "`he-agg federation epoch`",
        )
    if existing.keeping != keeping:
        raise InputError(
            Reason.ALREADY_EXISTS,
            f"federation {existing.name} exists with {existing.keeping}, got {keeping}",
            "its options were decided when it was created",
        )


def bring_roster(store: Store, conductor: Conductor, name: str, data: bytes) -> bool:
    """Give a federation the next version of its roster. Repeating it is fine."""
    with store.write() as tx:
        return _accept_roster(tx, conductor, _known(tx, name), data)


def bring_bundle(store: Store, conductor: Conductor, name: str, data: bytes) -> bool:
    """Give a federation the bundle of its next epoch, or of its first one. Repeating it is fine."""
    with store.write() as tx:
        return accept_bundle(tx, conductor, _known(tx, name), data, Signed.parse(EpochBundle, data).body.epoch)


def start(store: Store, conductor: Conductor, name: str) -> None:
    """Start a federation: its first round opens. Repeating it is fine.

    Raises:
        InputError: no such federation, too few sites, or it has ended.
    """
    with store.write() as tx:
        row = _known(tx, name)
        if row.stage is Stage.ENDED:
            raise InputError(Reason.BAD_ARGUMENT, f"federation {name} has ended and does not start again")
        roster = newest_roster(tx, name)
        have = len(roster.body.having(Role.SITE))
        need = max(row.parsed.plan.min_sites, roster.body.min_sites)
        if have < need:
            raise InputError(
                Reason.BAD_ARGUMENT,
                f"federation {name}: expected at least {need} sites, got {have}",
                f"more sites need a new version of the roster: `he-agg federation roster {name} roster.json`",
            )
        conductor.apply_in(tx, name, events.Started())


def pause(store: Store, conductor: Conductor, name: str) -> None:
    """Pause a federation: no round opens, and the deadline of an open one stands still. Repeating it is fine.

    What is under way may be finished: whoever completes gets a receipt, and a closed round its sum.

    Raises:
        InputError: no such federation, or it does not run.
    """
    _apply_begun(store, conductor, name, events.Paused(), "runs")


def resume(store: Store, conductor: Conductor, name: str) -> None:
    """Let a paused federation go on: its open round has as long as it had left. Repeating it is fine.

    Raises:
        InputError: no such federation, or it has not begun or has ended.
    """
    _apply_begun(store, conductor, name, events.Resumed(), "is paused")


def dispute(store: Store, conductor: Conductor, name: str) -> None:
    """Give up the newest sum of a federation, which sites have rejected: its members try the same round again.

    Raises:
        InputError: no such federation, its keys are split, its newest sum is not disputed, too few of its members are
            left, or no round is open after it.
    """
    with store.write() as tx:
        plan = _known(tx, name).parsed.plan
        if plan.splits_keys:
            raise InputError(
                Reason.BAD_ARGUMENT,
                f"federation {name}: no round is tried again where keys are split, as holders answer for one record of "
                "its number and never for another: two sums of a number would show what a site sends",
                "coordinators remove who spoils sums (`he-agg roster next`), and the training goes on with the next "
                "round",
            )
        conductor.tick_in(tx, name)
        row, newest = tx.newest_sum(name), tx.newest_round(name)
        if row is None or row.phase is not Phase.PUBLISHED or standing_of(tx, row) is not Standing.DISPUTED:
            raise InputError(
                Reason.BAD_ARGUMENT,
                f"federation {name}: expected a sum that sites have rejected and too few have opened, "
                f"{'there is no sum' if row is None else f'that of round {row.id} is not, or is given up already'}",
                "`he-agg federation show` shows what sites have said",
            )
        roster = newest_roster(tx, name).body
        members, least = tx.completed(row.id), max(plan.min_sites, roster.min_sites)
        if len(left := members & set(roster.having(Role.SITE))) < least:
            raise InputError(
                Reason.BAD_ARGUMENT,
                f"federation {name}: round {row.id} is tried again by its own members only, of whom the roster has "
                f"{len(left)}, and {least} must be in a sum",
                "other sites cannot take their places: the difference of the two sums would show what they send. End "
                "it (`he-agg federation end`), and found another federation that goes on from the last model",
            )
        if newest is None or newest.phase is not Phase.OPEN or newest.id.number != row.id.number + 1:
            raise InputError(
                Reason.BAD_ARGUMENT,
                f"federation {name}: expected an open round after round {row.id}, there is none",
                "wait for it, or resume the federation; after its last round nothing can be tried again",
            )
        conductor.apply_in(tx, name, events.GaveUp(row.id.number, row.id.attempt))


def skip(store: Store, conductor: Conductor, name: str) -> None:
    """Wait no longer for the holders of a published round: what comes after it opens, or the federation ends.

    Its sum opens all the same if they answer while its dealings are kept.

    Raises:
        InputError: no such federation, or no holders are awaited.
    """
    with store.write() as tx:
        row, newest = _known(tx, name), tx.newest_round(name)
        if newest is None or not newest.is_awaited:
            why = "its sites share one-time keys" if not row.parsed.plan.splits_keys else "there is none"
            raise InputError(
                Reason.BAD_ARGUMENT,
                f"federation {name}: expected a round whose holders are awaited, {why}",
                "`he-agg federation show` shows what it waits for",
            )
        conductor.apply_in(tx, name, events.Skipped(newest.id.number, newest.id.attempt))
        tx.report("federation.skipped", federation=name, round=str(newest.id))


def end(store: Store, conductor: Conductor, name: str) -> None:
    """End a federation: an open round fails, a closed one still gets its sum. Repeating it is fine."""
    with store.write() as tx:
        _known(tx, name)
        conductor.apply_in(tx, name, events.Stopped())


def show(store: Store, settings: Settings, name: str | None = None) -> list[dict[str, Any]]:
    """Show where one federation stands, or all of them: what `take_view` has of them."""
    federations: list[dict[str, Any]] = take_view(store, open_parts(settings), settings, time.time())["federations"]
    if name is None:
        return federations
    found = [one for one in federations if one["federation"] == name]
    if not found:
        raise _unknown([one["federation"] for one in federations])
    return found


def _apply_begun(store: Store, conductor: Conductor, name: str, event: events.Event, expected: str) -> None:
    with store.write() as tx:
        row = _known(tx, name)
        if row.stage not in (Stage.RUNNING, Stage.PAUSED):
            raise InputError(Reason.BAD_ARGUMENT, f"federation {name}: expected one that {expected}, it is {row.stage}")
        conductor.apply_in(tx, name, event)


def _known(tx: Transaction, name: str) -> FederationRow:
    row = tx.federation(name)
    if row is None:
        raise _unknown([row.name for row in tx.federations()])
    return row


def _unknown(known: list[str]) -> InputError:
    return InputError(
        Reason.UNKNOWN_FEDERATION,
        f"there is no such federation here; known: {', '.join(known) or 'none'}",
        f"register it: {_REGISTER}",
    )


def _accept_roster(tx: Transaction, conductor: Conductor, row: FederationRow, data: bytes) -> bool:
    return accept_roster(tx, conductor, row, data, Signed.parse(Roster, data).body.version)


def _read_signed(path: Path, kind: type[Body], what: str, maker: str) -> bytes:
    data = _read(path, kind.MAX_BYTES)
    try:
        Signed.parse(kind, data)
    except WireError as error:
        raise ConfigError(
            error.reason, f"{path} is not a {what}: {error.message}", f"`he-agg {maker}` makes one"
        ) from error
    return data


def _read(path: Path, at_most: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(at_most + 1)
    except OSError as error:
        raise file_trouble(error, f"{path} cannot be read") from error
