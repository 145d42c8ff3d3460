"""The end of a submission: its manifest is read, one transaction decides whether it is in, and a receipt says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from he_agg.documents.manifest import Manifest
from he_agg.documents.roster import Role
from he_agg.documents.signed import Signed
from he_agg.errors import Reason, WireError, counted
from he_agg.protocol.messages import Receipt
from he_agg.protocol.wire import refuse_secrets
from service.core.conductor import Conductor
from service.core.find import find_round
from service.core.roster_cache import newest_roster
from service.core.submissions.admit import second_submission
from service.core.submissions.runs import Run
from service.core.submissions.shared import own_submission, round_closed
from service.domain import events
from service.domain.submissions import AWAITED
from service.failpoints import failpoint
from service.refusal import RefusedError
from service.store.rows import PartRow, RoundRow, SubmissionRow
from service.store.transaction import Transaction

__all__ = ["Completion", "complete", "read_manifest", "receipt"]


class Completion(NamedTuple):
    """A submission that was decided on: accepted, or too late."""

    submission: SubmissionRow
    round: RoundRow
    signer: str


def read_manifest(run: Run, body: bytes) -> Signed[Manifest]:
    """Read the manifest of an upload. Whether its site has signed it is for `complete` to say.

    Raises:
        WireError: not a manifest, or one for something else.
    """
    try:
        signed = Signed.parse(Manifest, body)
    except WireError:
        refuse_secrets(body)
        raise
    submission, basis = run.submission, run.basis
    signed.body.check(run.plan, submission.round_id, basis.epoch, basis.key_id, submission.site)
    if signed.body.nonce != submission.id:
        raise WireError(
            Reason.BAD_FIELD, f"manifest, nonce: expected {submission.id}, the upload, got {signed.body.nonce}"
        )
    signed.signers(run.keys)  # it remembers them: nobody waits for that in the transaction
    return signed


def complete(conductor: Conductor, tx: Transaction, sent: SubmissionRow, signed: Signed[Manifest]) -> Completion:
    """Decide whether a submission is in.

    Raises:
        RefusedError: parts or the dealing are missing, another submission was accepted, or the site uses another roster
            or history: nothing was written. Or parts or the dealing are not those of the manifest: that they are
            missing was written.
        WireError: the manifest is not signed by its site; nothing was written.
        InputError: nothing can be signed for this federation; nothing was written.
    """
    federation, site = sent.round_id.federation, sent.site
    row = find_round(tx, federation, str(sent.round_id))
    signer = conductor.signer(tx, federation, row.basis.roster_version)
    known = tx.submission_of(row.id, site)
    if known is None or known.digest != signed.digest:  # an accepted one's key may have gone since
        signed.check_signed(newest_roster(tx, federation).body.keys_of(Role.SITE))
    conductor.tick_in(tx, federation)
    submission = own_submission(tx, row.id, site, sent.id)
    row = find_round(tx, federation, str(row.id))
    if submission.digest is not None and submission.digest != signed.digest:
        raise second_submission(tx, submission)
    if submission.state in AWAITED and conductor.takes(tx, row):
        _check_history(tx, row, signed.body)
        parts = tx.parts(submission.id)
        dealt = None if row.basis.holders is None else tx.dealing_digest(submission.id)
        _check_whole(row, submission, parts, dealt)
        _drop_others(tx, row, submission, signed.body, parts, dealt)
        failpoint("completion.before_row")
        tx.add_manifest(submission.id, signed.digest, signed.encode())
        conductor.apply_in(tx, federation, events.Completed(row.id.number, row.id.attempt, site))
        submission = own_submission(tx, row.id, site, sent.id)
        row = find_round(tx, federation, str(row.id))
    return Completion(submission, row, signer)


def receipt(conductor: Conductor, completion: Completion) -> Signed[Receipt]:
    """Sign the receipt: the same bytes each time, for nothing in it is new, and Ed25519 has no randomness."""
    submission, row, signer = completion
    if submission.accepted_at is None or submission.digest is None:
        raise round_closed(row)
    body = Receipt(submission.digest, str(submission.round_id), submission.site, submission.accepted_at)
    return Signed.make(body, conductor.key.signing_key, signer)


def _check_whole(row: RoundRow, submission: SubmissionRow, parts: Sequence[PartRow], dealt: str | None) -> None:
    missing = sorted(part.number for part in parts if not part.stored)
    undealt = row.basis.holders is not None and dealt is None
    if missing or undealt:
        lacking = [counted(len(missing), "part")] if missing else []
        lacking += ["the dealing"] if undealt else []
        raise RefusedError(
            Reason.INCOMPLETE,
            f"upload {submission.id[:12]}: {' and '.join(lacking)} missing",
            "put what is missing, then the end of the submission again",
            round_id=str(row.id),
            missing=missing,
        )


def _drop_others(
    tx: Transaction,
    row: RoundRow,
    submission: SubmissionRow,
    manifest: Manifest,
    parts: Sequence[PartRow],
    dealt: str | None,
) -> None:
    """Make what is not as the manifest says missing again: nothing else can bring what the site has signed for.

    Raises:
        RefusedError: there was such a thing.
    """
    digests = manifest.part_digests
    others = {part.number: part.digest for part in parts if part.digest != digests[part.number]}
    if not others and dealt == manifest.dealing:
        return
    if others:
        number = min(others)
        what, expected, got = f"part {number}", digests[number], others[number]
        tx.drop_parts(submission.id, others)
    else:
        what, expected, got = "the dealing", str(manifest.dealing), dealt
    if dealt != manifest.dealing:
        tx.drop_dealing(submission.id)
    raise RefusedError(
        Reason.BAD_DIGEST,
        f"{what}: expected SHA-256 {expected[:12]} as in the manifest, got {str(got)[:12]}; it is missing now",
        "send the bytes that the manifest was made of",
        round_id=str(row.id),
    )


def _check_history(tx: Transaction, row: RoundRow, manifest: Manifest) -> None:
    """Check that a site has the same roster, the same records and the same holders as everybody else."""
    if manifest.roster not in (row.basis.roster, newest_roster(tx, row.id.federation).body_digest):
        raise RefusedError(
            Reason.ROSTER_MISMATCH,
            f"manifest, roster: expected {row.basis.roster[:12]}, version {row.basis.roster_version}, "
            f"got {manifest.roster[:12]}",
            "fetch the newest roster: GET /v1/federations/{federation}/rosters/newest",
        )
    # No record is written while the round is open, so this is the one before it.
    head = tx.chain_head(row.id.federation)
    if manifest.previous != head.digest:
        raise RefusedError(
            Reason.CHAIN_MISMATCH,
            f"manifest, previous: expected record {head.index}, {head.digest[:12]}, got {manifest.previous[:12]}",
            "fetch the records that are missing: GET /v1/federations/{federation}/records/{index}. If this site "
            "has seen another record there, two histories are being told: stop, and ask the coordinator",
            round_id=str(row.id),
        )
    if manifest.holders != row.basis.holders:
        raise RefusedError(
            Reason.ROSTER_MISMATCH,
            f"manifest, holders: expected {str(row.basis.holders)[:12]}, got {str(manifest.holders)[:12]}",
            "deal to the holders that the round opened with: GET /v1/rounds/{round}/holders",
            round_id=str(row.id),
        )
