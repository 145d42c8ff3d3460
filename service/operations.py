"""What the operator does: register federations and sites, start and end. Acts on the store, server running or not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from he_agg.errors import InputError, PlanError, Reason, WireError
from he_agg.federation import MAX_FEDERATION_BYTES, FederationDocument
from he_agg.ids import check_name
from service import rounds
from service.conductor import Conductor
from service.rounds import Stage
from service.store.base import FederationRow, Keeping, SiteRow, Store, Transaction
from service.tokens import token_hash

__all__ = [
    "add_site",
    "create_federation",
    "end",
    "overview",
    "pause",
    "read_document",
    "replace_token",
    "resume",
    "start",
]


def read_document(path: Path) -> FederationDocument:
    """Read a federation file.

    Raises:
        InputError: there is no such file, or it is another one that should not have come here.
        WireError: not a federation file.
        PlanError: a plan that must not be used.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FEDERATION_BYTES + 1)
    except OSError as error:
        raise InputError(Reason.FILE_MISSING, f"cannot read {path}: {error.strerror}") from error
    hint = "the coordinator makes the federation file with `he-agg keys new`; it is the one meant for the operator"
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
        raise WireError(error.reason, f"{path} is no federation file: {error.message}", hint) from error
    except PlanError as error:
        raise PlanError(error.reason, f"{path}: {error.message}", error.hint) from error


def create_federation(store: Store, document: FederationDocument, keeping: Keeping | None = None) -> bool:
    """Register a federation. The same document and options again are no error.

    Args:
        store: rows.
        document: what the coordinator made.
        keeping: what the operator decides beside it; by default all sites are invited, and nothing is kept for longer
            than the server's settings say.

    Returns:
        Whether it is new.

    Raises:
        InputError: there is another federation of that name, or options out of their range.
    """
    keeping = keeping or Keeping()
    if not 0 < keeping.sample_fraction <= 1:
        raise InputError(
            Reason.BAD_ARGUMENT, f"sample fraction: expected above 0 and at most 1, got {keeping.sample_fraction}"
        )
    if keeping.keep_sums is not None and keeping.keep_sums < 1:
        raise InputError(Reason.BAD_ARGUMENT, f"sums to keep: expected at least 1, got {keeping.keep_sums}")
    name, encoded = document.plan.federation, document.encode()
    with store.write() as tx:
        existing = tx.federation(name)
        if existing is None:
            tx.add_federation(FederationRow(name, encoded, Stage.CREATED, int(time.time()), None, keeping))
            return True
    if existing.document != encoded:
        raise InputError(
            Reason.ALREADY_EXISTS,
            f"federation {name} exists with plan {existing.parsed.plan.plan_id[:12]} and key "
            f"{existing.parsed.key_id[:12]}, got plan {document.plan.plan_id[:12]} and key {document.key_id[:12]}",
            "a federation keeps its plan and key: give the new one another name",
        )
    if existing.keeping != keeping:
        raise InputError(
            Reason.ALREADY_EXISTS,
            f"federation {name} exists with {existing.keeping}, got {keeping}",
            "its options were decided when it was created",
        )
    return False


def start(store: Store, name: str) -> dict[str, Any]:
    """Start a federation: its first round opens. Started already is no error.

    Raises:
        InputError: no such federation, too few sites, or it has ended.
    """
    with store.write() as tx:
        row = _known(tx, name)
        if row.stage is Stage.ENDED:
            raise InputError(Reason.BAD_ARGUMENT, f"federation {name} has ended and does not start again")
        have, need = len(tx.sites(name)), row.parsed.plan.min_sites
        if have < need:
            raise InputError(
                Reason.BAD_ARGUMENT,
                f"federation {name}: expected at least {need} sites, got {have}",
                f"register more: he-agg site add {name} SITE",
            )
        Conductor(store).apply_in(tx, name, rounds.Started())
        return _summary(tx, _known(tx, name))


def pause(store: Store, name: str) -> dict[str, Any]:
    """Let a federation rest: no round opens, and the deadline of an open one stands still. Paused already is no error.

    What is under way may be finished: whoever completes gets a receipt, and a closed round its sum.

    Raises:
        InputError: no such federation, or it does not run.
    """
    with store.write() as tx:
        row = _known(tx, name)
        if row.stage not in (Stage.RUNNING, Stage.PAUSED):
            raise InputError(Reason.BAD_ARGUMENT, f"federation {name}: expected one that runs, it is {row.stage}")
        Conductor(store).apply_in(tx, name, rounds.Paused())
        return _summary(tx, _known(tx, name))


def resume(store: Store, name: str) -> dict[str, Any]:
    """Let a paused federation go on: its open round has as long as it had left. Running already is no error.

    Raises:
        InputError: no such federation, or it has not begun or has ended.
    """
    with store.write() as tx:
        row = _known(tx, name)
        if row.stage not in (Stage.RUNNING, Stage.PAUSED):
            raise InputError(Reason.BAD_ARGUMENT, f"federation {name}: expected one that is paused, it is {row.stage}")
        Conductor(store).apply_in(tx, name, rounds.Resumed())
        return _summary(tx, _known(tx, name))


def end(store: Store, name: str) -> dict[str, Any]:
    """End a federation: an open round fails, a closed one still gets its sum. Ended already is no error.

    Raises:
        InputError: no such federation.
    """
    with store.write() as tx:
        _known(tx, name)
        Conductor(store).apply_in(tx, name, rounds.Stopped())
        return _summary(tx, _known(tx, name))


def add_site(store: Store, federation: str, site: str, token: str) -> None:
    """Register a site. It takes part from the next round that opens.

    Raises:
        InputError: no such federation, the site exists, or the plan has no room for one more.
        WireError: the name may not be one.
    """
    check_name(site, "site")
    with store.write() as tx:
        row = _known(tx, federation)
        known = [s.name for s in tx.sites(federation)]
        if site in known:
            raise InputError(
                Reason.ALREADY_EXISTS,
                f"site {site} is registered in federation {federation} already",
                f"for a new token: he-agg site token {federation} {site}",
            )
        if len(known) >= row.parsed.plan.max_sites:
            raise InputError(
                Reason.NO_HEADROOM,
                f"federation {federation}: its plan holds sums of at most {row.parsed.plan.max_sites} sites, "
                f"and as many are registered",
                "more sites need a new plan, and so a new federation",
            )
        tx.add_site(SiteRow(federation, site, int(time.time())), token_hash(token))


def replace_token(store: Store, federation: str, site: str, token: str) -> None:
    """Give a site another token; the old one opens nothing any more.

    Raises:
        InputError: no such federation or site.
    """
    with store.write() as tx:
        _known(tx, federation)
        if site not in [s.name for s in tx.sites(federation)]:
            raise InputError(
                Reason.UNKNOWN_SITE,
                f"federation {federation} has no such site",
                f"register it first: he-agg site add {federation} SITE",
            )
        tx.set_token(federation, site, token_hash(token))


def overview(store: Store, name: str | None) -> list[dict[str, Any]]:
    """Where one federation stands, or all of them.

    Raises:
        InputError: no such federation.
    """
    with store.read() as tx:
        rows = tx.federations() if name is None else [_known(tx, name)]
        return [_summary(tx, row) for row in rows]


def _known(tx: Transaction, name: str) -> FederationRow:
    row = tx.federation(name)
    if row is None:
        known = ", ".join(row.name for row in tx.federations()) or "none"
        raise InputError(
            Reason.UNKNOWN_FEDERATION,
            f"there is no such federation here; known: {known}",
            "register it: he-agg federation create federation.json",
        )
    return row


def _summary(tx: Transaction, row: FederationRow) -> dict[str, Any]:
    document, newest = row.parsed, tx.newest_round(row.name)
    last = tx.last_published(row.name)
    summary: dict[str, Any] = {
        "federation": row.name,
        "stage": row.stage.value,
        "sites": [site.name for site in tx.sites(row.name)],
        "min_sites": document.plan.min_sites,
        "max_sites": document.plan.max_sites,
        "rounds": document.plan.rounds,
        "deadline_s": document.plan.deadline_s,
        "plan_id": document.plan.plan_id,
        "epoch": document.epoch,
        "key_id": document.key_id,
        "codec": document.plan.codec,
        "values": document.plan.values,
        "bytes_up": document.plan.wire_bytes,
        "sample_fraction": row.keeping.sample_fraction,
        "keep_sums": row.keeping.keep_sums,
        "keep_submissions": row.keeping.keep_submissions,
        "paused_at": row.paused_at,
        "last_published": None if last is None else str(last),
        "round": None,
    }
    if newest is not None:
        submissions = tx.submissions(newest.id)
        summary["round"] = {
            "id": str(newest.id),
            "phase": newest.phase.value,
            "opened_at": newest.opened_at,
            "deadline_at": newest.deadline_at,
            "invited": sorted(tx.invited(newest.id)),
            "sample_seed": newest.sample_seed,
            "asked_again": [{"site": part.site, "part": part.number} for part in tx.damaged(newest.id)],
            "complete": sorted(s.site for s in submissions if s.state == "complete"),
        }
    return summary
