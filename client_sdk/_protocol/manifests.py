"""Flows about the manifest of a submission: the receipt for it, and another one where an aggregator refuses it.

An aggregator that refuses the manifest can have another one signed, if roster or records have moved on, but never
another encryption: by refusals it could otherwise collect as many ciphertexts of one update as it liked.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from client_sdk._disk.spool import SpoolEntry
from client_sdk._disk.stored import Stored
from client_sdk._effects import Flow, Response, compute
from client_sdk._protocol.accept import RejectedError, signers
from client_sdk._protocol.exchange import problem_of
from client_sdk._protocol.history import catch_up, follow_rosters, refusing
from client_sdk._protocol.poll import OpenRound
from client_sdk._protocol.prepare import lost_spool
from client_sdk._protocol.session import Session
from he_agg.documents.manifest import Manifest
from he_agg.documents.roster import Role
from he_agg.documents.signed import Signed
from he_agg.errors import HeAggError, ProtocolError, Reason, WireError
from he_agg.protocol.messages import Receipt

__all__ = ["ANOTHER_MANIFEST", "RefusedManifestError", "another_manifest", "take_receipt"]

ANOTHER_MANIFEST = (Reason.SECOND_SUBMISSION, Reason.ROSTER_MISMATCH, Reason.CHAIN_MISMATCH)
"""For these reasons the aggregator may take another manifest of the same encryption."""


class RefusedManifestError(Exception):
    """The manifest was refused, and another one of the same encryption may be taken. Never leaves a delivery."""

    def __init__(self, error: HeAggError, response: Response) -> None:
        super().__init__(error.message)
        self.error, self.response = error, response


def another_manifest(
    session: Session, opened: OpenRound, entry: SpoolEntry, stored: Stored, refused: RefusedManifestError
) -> Flow[Stored]:
    """Go on with another manifest of the same encryption: the one that was accepted, or one for newer records."""
    if refused.error.reason != Reason.SECOND_SUBMISSION:
        return (yield from _renew(session, opened, entry, stored, refused.error))
    shown = _first(session, opened, stored, refused.response)
    first = yield from refusing(session, "refusal-rejected", opened.id, shown)
    return (yield from _take_up(session, opened, entry, stored, first))


def take_receipt(
    session: Session, opened: OpenRound, entry: SpoolEntry, stored: Stored, answer: bytes
) -> Flow[Receipt]:
    """Verify a receipt, and keep it."""
    receipt = yield from refusing(session, "receipt-rejected", opened.id, _receipt(session, opened, stored, answer))
    yield from compute(partial(entry.keep_receipt, answer))
    return receipt


def _first(session: Session, opened: OpenRound, stored: Stored, response: Response) -> Flow[Signed[Manifest]]:
    """Read the manifest that the aggregator says it had first: one that this site's own key has signed."""
    problem = problem_of(response) or {}
    key = session.key_of(opened.epoch)
    try:
        first = Signed.from_json(Manifest, problem.get("manifest"))
        first.body.check(session.plan, opened.id, key.epoch, key.key_id, session.site)
        yield from compute(partial(first.check_signed, {session.site: session.identity.signing_key.public_key}))
    except WireError as error:
        raise RejectedError(
            error.reason, "refusal, first manifest", f"one of this round by {session.site}", error.message
        ) from error
    if first.digest == stored.submission_id:
        raise RejectedError(Reason.BAD_ANSWER, "refusal, first manifest", "another one", "the same")
    return first


def _take_up(
    session: Session, opened: OpenRound, entry: SpoolEntry, stored: Stored, first: Signed[Manifest]
) -> Flow[Stored]:
    """Go on with the manifest that was accepted, if it is of the parts that are stored here."""
    known = stored.manifest
    if replace(first.body, roster=known.roster, previous=known.previous) == known:
        taken = Stored(first, stored.fingerprint)
        yield from compute(partial(entry.renew, taken))
        return taken
    if (yield from compute(entry.receipt)) is None:
        # What is stored will never be accepted. The first takes its place, so that nothing is encrypted again.
        yield from compute(partial(entry.adopt, first))
    raise lost_spool(session, opened)


def _renew(session: Session, opened: OpenRound, entry: SpoolEntry, stored: Stored, refusal: HeAggError) -> Flow[Stored]:
    """Sign a manifest of the same parts for the roster and the record that this site has verified meanwhile."""
    yield from refusing(session, "roster-rejected", opened.id, follow_rosters(session))
    yield from refusing(session, "chain-rejected", opened.id, catch_up(session, opened.records))
    previous = yield from compute(partial(session.chain.head, opened.records))
    manifest = replace(stored.manifest, roster=session.rosters.newest.body_digest, previous=previous)
    promised = yield from compute(entry.receipt)
    if manifest == stored.manifest or promised is not None:
        raise ProtocolError(
            refusal.reason,
            f"round {opened.id}: the aggregator refuses this site's manifest because of its roster or record, and "
            f"has shown none that is newer: {refusal.message}",
            "the submission stays in the spool, encrypted once. Ask for the open round again and call aggregate() "
            "with the same update; if it is refused again, tell the coordinator",
            "the submission stays in the spool, encrypted once. Run `he-agg submit` again with the same file; if "
            "it is refused again, tell the coordinator",
        )
    renewed = Stored(Signed.make(manifest, session.identity.signing_key), stored.fingerprint)
    yield from compute(partial(entry.renew, renewed))
    return renewed


def _receipt(session: Session, opened: OpenRound, stored: Stored, body: bytes) -> Flow[Receipt]:
    """Read a receipt, and see that an aggregator of the roster gives it for this very submission.

    The same receipt is given again and again, so it may be of the time of the roster that the manifest names.
    """
    keys = session.rosters.newest.body.keys_of(Role.AGGREGATOR)
    before = session.rosters.named(stored.manifest.roster)
    try:
        document = yield from compute(partial(Signed.parse, Receipt, body))
        receipt = document.body
    except WireError as error:
        raise RejectedError(error.reason, "receipt", "a signed receipt", error.message) from error
    if not document.signers(keys) and (before is None or not document.signers(before.keys_of(Role.AGGREGATOR))):
        raise RejectedError(
            Reason.BAD_SIGNATURE,
            "receipt, signature",
            f"of {' or '.join(sorted(keys))}",
            signers(document),
        )
    for what, want, got in (
        ("submission", stored.submission_id, receipt.id),
        ("round", str(opened.id), receipt.round_id),
        ("site", session.site, receipt.site),
    ):
        if want != got:
            raise RejectedError(Reason.BAD_ANSWER, f"receipt, {what}", want, got)
    return receipt
