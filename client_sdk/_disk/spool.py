"""The spool: encrypted submissions on disk, from encryption until the mean is fetched.

::

    <spool>/<site>/<federation>.<round>.<attempt>/begun            secret: what encryption follows from, until it ends
                                                  part-00000 ...   parts, byte for byte as they travel
                                                  dealing          its one-time key in shares, where keys are split
                                                  submission.json  signed manifest, and a keyed fingerprint of what was
                                                                   encrypted; written last
                                                  receipt.json     the aggregator's signed promise
                                                  sum/part-00000   parts of the sum, if a download was interrupted
    <spool>/<site>/<federation>.<round>.<attempt>.lock             held by whoever works on the round
    <spool>/<site>/<federation>.chain                              records that this site has verified
    <spool>/<site>/<federation>.ledger                             what it ever sent, and what became of it
    <spool>/<site>/<federation>.dealt                              to which holders it has dealt for each round
    <spool>/<site>/<federation>.evidence/<round>.<attempt>.json    receipts that a record has broken
    <spool>/<site>/<federation>.verdicts                           what it found when it looked at their sums
    <spool>/<site>/<federation>.promises                           the one record of each round that it answers
    <spool>/<site>/<federation>.answers/                           what it answered for the newest of them
    <spool>/<site>/<federation>.sharing-keys/                      secret: what its shares are sealed to

A directory with `submission.json` may be sent again, byte for byte, if `SpoolEntry.stored` finds it to be one. It is
removed when a verified record has ended its round, and for nothing else that an aggregator says. One without is what a
crash left: encryption goes on with the very same bytes by what has `begun`, for parts may have left; without that none
has, and the update is encrypted afresh. Files are 0600, directories 0700.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from client_sdk._disk.files import digest_of, explained
from client_sdk._disk.ledger import Fate, Ledger
from client_sdk._disk.stored import ELSEWHERE, MAX_STORED_BYTES, Begun, Stored
from client_sdk._disk.sum_parts import SumParts
from he_agg.documents.manifest import Manifest
from he_agg.documents.signed import Signed
from he_agg.errors import ConfigError, InputError, Reason, WireError
from he_agg.host.files import make_directory, put, replace, sync_directory
from he_agg.host.locks import lock_file
from he_agg.ids import RoundId
from he_agg.plan.plan import PublicPlan
from he_agg.plan.sections import PART_HEADER_BYTES, Part, PartPlace

__all__ = ["Spool", "SpoolEntry"]

_BEGUN = "begun"
_SUBMISSION = "submission.json"
_RECEIPT = "receipt.json"
_DEALING = "dealing"


class Spool:
    """All submissions of one site."""

    def __init__(self, root: Path, site: str) -> None:
        self._root = root / site
        with explained(self._root):
            for folder in (root, self._root):  # what is synced in a folder is lost with it if the folder is not
                make_directory(folder)

    def entry(self, round_id: RoundId) -> SpoolEntry:
        """Return the place of one attempt at one round; nothing is made yet."""
        return SpoolEntry(self._root / str(round_id), round_id)

    def chain_path(self, federation: str) -> Path:
        """Return where the verified records are noted. No round's name looks like it."""
        return self._root / f"{federation}.chain"

    def ledger_path(self, federation: str) -> Path:
        """Return where it is noted what was sent. No round's name looks like it."""
        return self._root / f"{federation}.ledger"

    def dealt_path(self, federation: str) -> Path:
        """Return where it is noted to which holders was dealt. No round's name looks like it."""
        return self._root / f"{federation}.dealt"

    def has_evidence(self, round_id: RoundId) -> bool:
        """Say whether the proof that a receipt of this attempt was broken is kept."""
        return self._evidence_of(round_id).exists()

    def keep_evidence(self, round_id: RoundId, encoded: bytes) -> None:
        """Keep what proves a broken receipt, for good."""
        path = self._evidence_of(round_id)
        with explained(path):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            replace(path, encoded)
            sync_directory(self._root)

    def evidence(self, federation: str) -> list[bytes]:
        """Read what proves broken receipts, a file for each."""
        folder = self._root / f"{federation}.evidence"
        with explained(folder):
            return [path.read_bytes() for path in sorted(folder.glob("*.json"))]

    def _evidence_of(self, round_id: RoundId) -> Path:
        return self._root / f"{round_id.federation}.evidence" / f"{round_id.number}.{round_id.attempt}.json"

    def verdicts_path(self, federation: str) -> Path:
        """Return where it is noted what it found in sums. No round's name looks like it."""
        return self._root / f"{federation}.verdicts"

    def promises_path(self, federation: str) -> Path:
        """Return where it is noted which records this member has promised to answer, as a holder."""
        return self._root / f"{federation}.promises"

    def answers_path(self, federation: str) -> Path:
        """Return where its answers are."""
        return self._root / f"{federation}.answers"

    def sharing_keys_path(self, federation: str) -> Path:
        """Return where its sharing keys are, which belong in no backup."""
        return self._root / f"{federation}.sharing-keys"

    def pending(self, federation: str, ledger: Ledger, places: Sequence[PartPlace]) -> list[RoundId]:
        """List rounds with a stored submission whose mean was not fetched yet, oldest first."""
        rounds = (round_id for round_id in self._rounds() if round_id.federation == federation)
        return sorted(round_id for round_id in rounds if self.entry(round_id).is_stored(ledger, places))

    def prune(self, opened: RoundId, ledger: Ledger) -> None:
        """Remove what is of no more use.

        What was sent goes when a verified record has left it out, or, if it was counted, when one of a later round has
        counted another: the newest mean may be wanted. What was never sent, and sums that were only downloaded, can be
        made again: the aggregator's word for the open round is enough for those.
        """
        newest = ledger.newest_counted()
        for round_id in self._rounds():
            if round_id.federation != opened.federation:
                continue
            sent = ledger.sent(round_id)
            if sent is None:
                useless = round_id.number < opened.number - 1
            else:
                passed = sent.fate is Fate.COUNTED and round_id.number < newest
                useless = passed or sent.fate in (Fate.LEFT_OUT, Fate.GIVEN_UP)
            if useless:
                with contextlib.suppress(InputError), self.entry(round_id).locked():  # or somebody works on it
                    self.entry(round_id).remove()

    def _rounds(self) -> list[RoundId]:
        """Name the rounds that have a place here, with whatever is in it."""
        found = []
        with explained(self._root):
            for path in self._root.iterdir():
                with contextlib.suppress(WireError):  # another file
                    round_id = RoundId.parse(path.name)
                    if path.is_dir():
                        found.append(round_id)
        return found


class SpoolEntry:
    """One attempt at one round of one site."""

    def __init__(self, path: Path, round_id: RoundId) -> None:
        self.path = path
        self.round_id = round_id
        self._stored: Stored | None = None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes and threads away from this round."""
        lock = self.path.with_name(self.path.name + ".lock")
        with contextlib.ExitStack() as stack:
            with explained(lock):
                try:
                    stack.enter_context(lock_file(lock))
                except BlockingIOError as error:
                    raise InputError(
                        Reason.BAD_ARGUMENT,
                        f"round {self.round_id} is being worked on by another process or thread of this site",
                        "wait for it, or end it; what it stored is not lost",
                    ) from error
            yield

    def is_stored(self, ledger: Ledger, places: Sequence[PartPlace]) -> bool:
        """Say whether there is a submission that may be sent; or a damaged one, which somebody has to look at."""
        try:
            return self.stored(ledger, places) is not None
        except WireError:
            return True

    def stored(self, ledger: Ledger, places: Sequence[PartPlace]) -> Stored | None:
        """Return the submission that is stored here; None if there is none, or one that is never sent.

        Of what the ledger names another upload for, nothing is sent: it would be a second encryption. It is there if
        somebody has put back an older spool; one that was made ELSEWHERE is what the aggregator has shown, and stays.

        A power cut may undo a removal, or keep a name and lose others, without order. A submission without all of its
        parts is such a remainder if nothing has left, or what was begun is here: that goes when all names are durable.
        Afterwards it is damage, and an error where a part is wanted.

        Raises:
            WireError: it is damaged.
        """
        stored = self._read()
        if stored is None or stored.elsewhere:
            return stored
        sent = ledger.sent(self.round_id)
        if sent is not None and sent.upload != stored.manifest.nonce:
            return None
        if all(self.part_path(place.number).is_file() for place in places):  # under their names they are whole
            return stored
        return None if sent is None or self.begun() is not None else stored

    def _read(self) -> Stored | None:
        if self._stored is None:
            with explained(self.path):
                try:
                    with (self.path / _SUBMISSION).open("rb") as file:
                        data = file.read(MAX_STORED_BYTES + 1)
                except FileNotFoundError:
                    return None
            try:
                self._stored = Stored.parse(data)
            except WireError as error:
                raise _damaged(self.path / _SUBMISSION, error.message) from error
        return self._stored

    def begun(self) -> Begun | None:
        """Read what was begun here, and is not stored yet; None if that is nothing."""
        with explained(self.path):
            try:
                data = (self.path / _BEGUN).read_bytes()
            except FileNotFoundError:
                return None
        try:
            return Begun.parse(data)
        except WireError as error:
            raise _damaged(self.path / _BEGUN, error.message) from error

    def note(self, begun: Begun) -> None:
        """Write what has begun, durably; the names of what was written here before are durable then, too."""
        with explained(self.path):
            replace(self.path / _BEGUN, begun.to_bytes())

    def begin(self, needed_bytes: int) -> None:
        """Make an empty place for a new submission.

        Args:
            needed_bytes: what will be stored here: the parts, and later the parts of the sum.
        """
        self.remove()
        with explained(self.path):
            make_directory(self.path)
            free = shutil.disk_usage(self.path).free
        if free < needed_bytes:
            self.remove()
            raise ConfigError(
                Reason.BAD_CONFIG,
                f"spool {self.path.parent}: expected {needed_bytes} free bytes for this round, got {free}",
                "free some space, or set `spool` to a directory on a larger disk",
            )

    def write_part(self, number: int, data: bytes | memoryview) -> str:
        """Store one part, durably but for its name: under that it is whole, if it is there.

        Past the kernel's memory, if it is long: it is sent from where it is, and read after a failure only.

        Returns:
            Its SHA-256.
        """
        with explained(self.path):
            put(self.part_path(number), data, to_be_read=False)
        return hashlib.sha256(data).hexdigest()

    def kept_part(self, place: PartPlace, digest: str) -> Part:
        """Read a part that cannot be made again, since what was begun here goes on.

        Raises:
            WireError: it is damaged.
        """
        path = self.part_path(place.number)
        with explained(self.path):
            data = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(data).hexdigest() != digest:
            raise _damaged(path, f"part {place.number} is not the one that was encrypted")
        return Part(place.number, memoryview(data)[PART_HEADER_BYTES:])

    def write_dealing(self, dealing: bytes) -> None:
        """Store the submission's dealing, durably but for its name."""
        with explained(self.path):
            put(self.path / _DEALING, dealing)

    def dealing(self) -> bytes:
        """Read the dealing.

        Raises:
            WireError: it is gone.
        """
        with explained(self.path):
            try:
                return (self.path / _DEALING).read_bytes()
            except FileNotFoundError as error:
                raise self.damaged_dealing("it is gone") from error

    def damaged_dealing(self, why: str) -> WireError:
        """Return the error for a dealing that is not the one which the manifest names."""
        return _damaged(self.path / _DEALING, why)

    def seal(self, stored: Stored) -> None:
        """Make what was written a submission: after this it is sent again, never encrypted again."""
        self.renew(stored)  # with the names of its parts
        with explained(self.path):
            (self.path / _BEGUN).unlink(missing_ok=True)

    def renew(self, stored: Stored) -> None:
        """Put another manifest of the same parts in the place of the stored one."""
        with explained(self.path):
            replace(self.path / _SUBMISSION, stored.to_bytes())
        self._stored = stored

    def adopt(self, signed: Signed[Manifest]) -> None:
        """Put the manifest of another encryption, whose parts are not here, in the place of what is stored.

        It stays as long as a submission would: while it is here nothing is encrypted for this attempt.
        """
        self.renew(Stored(signed, ELSEWHERE))
        with explained(self.path):
            for path in (*self.path.glob("part-*"), self.path / _DEALING, self.path / _BEGUN):
                path.unlink(missing_ok=True)

    def check_part(self, number: int, length: int, digest: str) -> None:
        """Check that a stored part is still what the manifest says."""
        path = self.part_path(number)
        with explained(self.path), contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == length and digest_of(file) == digest:
                return
        raise _damaged(path, f"part {number} is not the one that the manifest names")

    def part_path(self, number: int) -> Path:
        """Return where a part of the submission is."""
        return self.path / f"part-{number:05d}"

    def receipt(self) -> bytes | None:
        """Read the receipt; None if there is none yet."""
        with explained(self.path):
            try:
                return (self.path / _RECEIPT).read_bytes()
            except FileNotFoundError:
                return None

    def keep_receipt(self, encoded: bytes) -> None:
        """Keep the aggregator's signed promise beside the submission."""
        with explained(self.path):
            replace(self.path / _RECEIPT, encoded)

    def sum_parts(self, *, in_memory: bool = False) -> SumParts:
        """Return the parts of its sum.

        Args:
            in_memory: whether they are held in memory until `SumParts.store`.
        """
        return SumParts(self.path, in_memory=in_memory)

    def remove(self) -> None:
        """Remove all of it. The manifest goes first, so that what a crash leaves is never sent."""
        self._stored = None
        with explained(self.path):
            (self.path / _SUBMISSION).unlink(missing_ok=True)
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(self.path)

    def check(self, stored: Stored, plan: PublicPlan, epoch: int, key_id: str, site: str, public_key: bytes) -> None:
        """Refuse a stored submission that was made with another key or plan, or signed with another identity."""
        try:
            stored.manifest.check(plan, self.round_id, epoch, key_id, site)
            stored.signed.check_signed({site: public_key})
        except WireError as error:
            raise WireError(
                error.reason,
                f"spool {self.path}: {error.message}",
                "this spool belongs to another key, plan or identity; configure what it was made with, or remove it",
            ) from error


def _damaged(path: Path, why: str) -> WireError:
    return WireError(
        Reason.BAD_DIGEST,
        f"spool {path} is damaged: {why}; the aggregator has nothing of it",
        "this site cannot finish its submission to this round; look at the disk, and take part in the next round",
    )
