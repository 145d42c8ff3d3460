"""Parts come in and become durable: part, then row, then answer. Behind the last one comes the manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from he_agg.documents.manifest import Manifest
from he_agg.documents.signed import Signed
from he_agg.errors import HeAggError, InputError, Reason, WireError
from he_agg.plan.sections import PartPlace
from he_agg.protocol.messages import Receipt, SubmissionStatus
from he_agg.protocol.wire import parse_part, refuse_secrets
from service.core.conductor import Conductor
from service.core.event_loop import leave_event_loop
from service.core.find import federation_named, find_round, round_named
from service.core.roster_cache import newest_roster
from service.core.submissions.admit import Admissions
from service.core.submissions.complete import Completion, complete, read_manifest, receipt
from service.core.submissions.running_sums import RunningSums
from service.core.submissions.runs import ExpectedPart, Run, key_of, measured
from service.core.submissions.shared import expiring, own_submission, round_closed, status_of, unknown_upload
from service.domain.events import Phase
from service.domain.submissions import State
from service.failpoints import failpoint
from service.refusal import RefusedError
from service.store.batch import Batch
from service.store.parts.base import PartStore
from service.store.rows import PartRow, RoundRow, SubmissionRow
from service.store.sql import Store
from service.store.transaction import Transaction

__all__ = ["Taken", "Uploads"]

_AT_ONCE_PARTS = 256
"""A head of a submission with more of them is looked at where others do not wait for it."""


class Taken(NamedTuple):
    """A submission that is in.

    Attributes:
        closed: whether its round takes no more, so that there is something to do.
    """

    receipt: Signed[Receipt]
    closed: bool


class Uploads:
    """Takes parts in, and completes submissions by their manifests."""

    def __init__(
        self, store: Store, part_store: PartStore, conductor: Conductor, admissions: Admissions, sums: RunningSums
    ) -> None:
        self._store = store
        self._part_store = part_store
        self._conductor = conductor
        self._admissions = admissions
        self._sums = sums
        self._decisions = Batch(store, self._decide)

    def status(self, federation: str, site: str, round_id: str, upload: str) -> SubmissionStatus:
        """Say how far a submission has come."""
        with self._conductor.reading(federation) as tx:
            plan, row = federation_named(tx, federation).parsed.plan, find_round(tx, federation, round_id)
            return status_of(tx, row, own_submission(tx, row.id, site, upload), plan)

    def expect(self, federation: str, site: str, round_id: str, upload: str, first: int, length: int) -> Run:
        """Say what a PUT brings, before it is read: parts from one on.

        Args:
            length: of its body. Units: bytes.

        Raises:
            RefusedError: such a body, or the upload, is not taken.
            OffLoopError: there may be many rows of it.
            NotReadingError: as of `Admissions.looking`.
        """
        see = partial(self._see, federation, site, round_id, upload, first, length)

        def begins(tx: Transaction) -> Run | None:
            tx.look_at_head(federation, str(round_named(round_id)), site, upload)
            row = find_round(tx, federation, round_id)
            # Nearly all do, and that is one statement. What goes on, or has an end, is seen in one state throughout.
            return see(tx) if self._conductor.takes(tx, row) and tx.submission_of(row.id, site) is None else None

        with self._admissions.making_room():
            run = self._store.look(begins)
        if run is None:
            with self._admissions.looking(federation) as tx:
                run = see(tx)
        return run

    def _see(
        self, federation: str, site: str, round_id: str, upload: str, first: int, length: int, tx: Transaction
    ) -> Run:
        row = find_round(tx, federation, round_id)
        plan = federation_named(tx, federation).parsed.plan
        if len(plan.places) > _AT_ONCE_PARTS:
            leave_event_loop()
        if not 0 <= first <= len(plan.places):
            raise RefusedError(
                Reason.UNKNOWN_PART,
                f"upload {upload[:12]}: expected a part number from 0 to {len(plan.places)}, "
                f"got {max(-1, min(first, 10**9))}",
            )
        places, manifest_bytes = measured(plan.places[first:], length)
        submission, begins = self._admissions.admit(tx, row, site, upload)
        if not begins:
            leave_event_loop()
        known = [] if begins else tx.parts(submission.id)
        parts = self._expect(tx, row, submission, places, {part.number: part for part in known})
        member = newest_roster(tx, federation).body.members.get(site)
        keys = {} if member is None else {site: member.public_key}
        return Run(submission, plan, row.basis, parts, manifest_bytes, begins, keys)

    def keep(self, run: Run, pieces: Sequence[memoryview]) -> tuple[ExpectedPart, ...]:
        """Check parts and make them durable. No row says so yet: `take` or `mark` will.

        Args:
            pieces: of a body, of the lengths that the run has.

        Returns:
            Those that were not stored before, with their digests.

        Raises:
            WireError: not the parts that the plan puts there; nothing of them was kept.
            RefusedError: not the parts that were here before; the same.
        """
        new = _new(run, pieces)
        for part, data in new:
            self._check(run, part, data)
        if new:
            failpoint("part.checked")
            self._part_store.put_all([(key_of(run, part), data) for part, data in new])
        return tuple(part for part, _ in new)

    def take(self, run: Run, pieces: Sequence[memoryview], kept: Sequence[ExpectedPart] = ()) -> Taken | None:
        """Take parts of a submission. The manifest behind them completes it.

        One transaction decides that the parts are stored, and whether the submission is in.

        Args:
            pieces: of a body, of the lengths that the run has.
            kept: parts before these that `keep` has kept.

        Returns:
            What the site is told, if a manifest came.

        Raises:
            WireError: not the parts that the plan puts there, or no manifest of this upload. The parts before it stay.
            RefusedError: not the parts that were here before, the round closed before, or what the manifest needs is
                missing.
        """
        run = replace(run, parts=(*kept, *self.keep(run, pieces)))
        return self._note(run, self._read_manifest(run, bytes(pieces[-1])) if run.manifest_bytes else None)

    def mark(self, run: Run, kept: Sequence[ExpectedPart]) -> None:
        """Note which parts were kept of a run that broke off, so that it goes on behind them.

        Raises:
            RefusedError: the round closed before.
        """
        self._note(replace(run, parts=tuple(kept), begins=False), None)

    def _note(self, run: Run, signed: Signed[Manifest] | HeAggError | None) -> Taken | None:
        if not run.parts and signed is None:
            return None
        refusals, completion, replaced = self._decisions.run((run, signed))
        self._admissions.gone(replaced)
        self._settle(run, refusals)
        if isinstance(completion, HeAggError):
            raise completion
        if completion is None:
            return None
        return Taken(receipt(self._conductor, completion), completion.round.phase is not Phase.OPEN)

    def _read_manifest(self, run: Run, body: bytes) -> Signed[Manifest] | HeAggError:
        try:
            return read_manifest(run, body.rstrip(b" "))
        except HeAggError as refusal:
            return refusal

    def _check(self, run: Run, part: ExpectedPart, data: memoryview) -> None:
        """See that a part is one of the plan. Adding it to a running sum looks at its residues as well."""
        place, submission = part.place, run.submission
        parsed = parse_part(data, place, run.plan.plan_id, check_residues=False)
        if not self._sums.add(submission.round_id, place, submission.id, str(part.digest), parsed.packed):
            parse_part(data, place, run.plan.plan_id)

    def _decide(
        self, tx: Transaction, what: tuple[Run, Signed[Manifest] | HeAggError | None]
    ) -> tuple[list[RefusedError | None], Completion | HeAggError | None, SubmissionRow | None]:
        """Decide whether parts that are in the part store are stored, and with a manifest whether the submission is in.

        Refusals are returned: raised they would undo the decisions of everybody else in the transaction. So is that
        nothing can be signed for this federation, which is known before anything is written.
        """
        run, signed = what
        replaced = None
        if run.begins and run.parts:
            try:
                _, replaced = self._admissions.begin(tx, run.submission)
            except RefusedError as refusal:
                return [refusal] * len(run.parts), refusal, None
        round_, current = _now(tx, run.submission)
        refusals = self._mark(tx, round_, current, run)
        refused = next((refusal for refusal in refusals if refusal is not None), None)
        if refused is not None or signed is None or isinstance(signed, HeAggError):
            return refusals, refused or (signed if isinstance(signed, HeAggError) else None), replaced
        try:
            return refusals, complete(self._conductor, tx, run.submission, signed), replaced
        except (RefusedError, WireError, InputError) as refusal:
            return refusals, refusal, replaced

    def _settle(self, run: Run, refusals: Sequence[RefusedError | None]) -> None:
        """Do what follows, once that is durable."""
        for part, refusal in zip(run.parts, refusals, strict=True):
            if refusal is not None and refusal.reason is not Reason.BUSY:
                # No row names it, and none ever will: nobody wants it any more.
                self._part_store.delete(key_of(run, part))

    def _expect(
        self,
        tx: Transaction,
        round_: RoundRow,
        submission: SubmissionRow,
        places: Sequence[PartPlace],
        known: Mapping[int, PartRow],
    ) -> tuple[ExpectedPart, ...]:
        signed: tuple[str, ...] = ()
        if submission.digest is not None and not known:
            # Without rows the round is over and the parts are gone; what the answer was is still known.
            signed = Signed.parse(Manifest, tx.manifest(submission.id)).body.part_digests
        expected = []
        for place in places:
            row = known.get(place.number)
            digest = row.digest if row is not None else signed[place.number] if signed else None
            stored = submission.state is State.COMPLETE if row is None else row.stored
            if not stored:
                if not self._wants(tx, round_, submission, row):
                    raise round_closed(round_)
                if submission.state is State.EXPIRING:
                    raise expiring(submission)
            expected.append(ExpectedPart(place, digest, stored))
        return tuple(expected)

    def _mark(
        self, tx: Transaction, round_: RoundRow, current: SubmissionRow | None, run: Run
    ) -> list[RefusedError | None]:
        if current is None:
            return [unknown_upload(run.submission.site, run.submission.id) for _ in run.parts]
        rows = {row.number: row for row in tx.parts(current.id)} if run.parts else {}
        refusals: list[RefusedError | None] = []
        stored: dict[int, str] = {}
        for part in run.parts:
            row, number, digest = rows.get(part.place.number), part.place.number, str(part.digest)
            refusal = None
            # Else another connection was faster, with the same bytes.
            if row is None or not row.stored or row.digest != digest:
                if row is None or not self._wants(tx, round_, current, row):
                    refusal = round_closed(round_)
                # Between our putting it and now the upload may have expired, and our part been removed with the others.
                # It is left alone here: by the time it were removed, it could be that of a later request.
                elif (
                    current.state is State.EXPIRING or self._part_store.size(key_of(run, part)) != part.place.wire_bytes
                ):
                    refusal = expiring(current)
                else:
                    stored[number] = digest
            refusals.append(refusal)
        if stored:
            failpoint("part.before_row")
            tx.mark_stored(current.id, stored, int(self._conductor.now()))
        return refusals

    def _wants(self, tx: Transaction, row: RoundRow, submission: SubmissionRow, part: PartRow | None) -> bool:
        """Tell whether a missing part may come now: in an open round, or because the store has damaged it."""
        damaged = part is not None and part.damaged_at is not None and submission.state is State.COMPLETE
        takes = self._conductor.takes(tx, row)
        return takes or (damaged and row.phase in (Phase.CLOSED, Phase.FOLDING))


def _now(tx: Transaction, submission: SubmissionRow) -> tuple[RoundRow, SubmissionRow | None]:
    """Look at a submission and its round again. Another upload may have taken its place."""
    round_ = find_round(tx, submission.round_id.federation, str(submission.round_id))
    return round_, tx.submission(submission.id)


def _new(run: Run, pieces: Sequence[memoryview]) -> list[tuple[ExpectedPart, memoryview]]:
    """Find the parts that are not stored yet, with their digests, and their bytes; the others have to be the same."""
    new = []
    for part, data in zip(run.parts, pieces, strict=False):  # a manifest may follow
        if (digest := hashlib.sha256(data).hexdigest()) != (part.digest or digest):
            refuse_secrets(data)
            raise RefusedError(
                Reason.BAD_DIGEST,
                f"part {part.place.number}: expected SHA-256 {str(part.digest)[:12]}, which it had before, "
                f"got {digest[:12]}",
                "send the same bytes as before",
            )
        if not part.stored:
            new.append((replace(part, digest=digest), data))
    return new
