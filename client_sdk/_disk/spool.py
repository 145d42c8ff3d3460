"""The spool: encrypted submissions on disk, from encryption until the mean is fetched.

::

    <spool>/<site>/<federation>.<round>.<attempt>/begun            secret: what encryption follows from, until it ends
                                                  part-00000 ...   parts, byte for byte as they travel
                                                  update           keyed fingerprint of what was encrypted
                                                  dealing          its one-time key in shares, where keys are split
                                                  manifest.json    signed, written last
                                                  receipt.json     the aggregator's signed promise
                                                  sum/part-00000   parts of the sum, if a download was interrupted
    <spool>/<site>/<federation>.<round>.<attempt>.lock             held by whoever works on the round
    <spool>/<site>/<federation>.chain                              records that this site has verified
    <spool>/<site>/<federation>.ledger                             what it ever sent, and what became of it
    <spool>/<site>/<federation>.dealt                              to which holders it has dealt for each round
    <spool>/<site>/<federation>.evidence/<round>.<attempt>.json    receipts that a record has broken
    <spool>/<site>/<federation>.verdicts/                          what it found when it looked at their sums
    <spool>/<site>/<federation>.promises                           the one record of each round that it answers
    <spool>/<site>/<federation>.answers/                           what it answered for the newest of them
    <spool>/<site>/<federation>.sharing-keys/                      secret: what its shares are sealed to

A directory with a manifest is a submission that may be sent again, byte for byte. It is removed when a verified record
has ended its round, and for nothing else that an aggregator says. One without is what a crash left: encryption goes on
with the very same bytes by what has `begun`, for parts may have left; without that none has, and the update is
encrypted afresh. Files are 0600, directories 0700.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from client_sdk._disk.files import digest_of, explained
from client_sdk._disk.ledger import Fate, Ledger
from client_sdk._disk.sum_parts import SumParts
from he_agg import canonical
from he_agg.documents.manifest import MAX_MANIFEST_BYTES, NONCE_BYTES, Manifest
from he_agg.documents.signed import Signed
from he_agg.errors import ConfigError, InputError, Reason, WireError
from he_agg.host.files import create, make_directory, replace, sync_directory
from he_agg.host.locks import lock_file
from he_agg.ids import RoundId
from he_agg.plan.plan import PublicPlan
from he_agg.plan.sections import PART_HEADER_BYTES, Part, PartPlace

__all__ = ["Begun", "Spool", "SpoolEntry", "Stored"]

_BEGUN = "begun"
_MANIFEST = "manifest.json"
_RECEIPT = "receipt.json"
_UPDATE = "update"
_DEALING = "dealing"

ELSEWHERE = "elsewhere"
"""Instead of a fingerprint: this site's key signed the manifest on another machine, or before the spool was lost."""


@dataclass(frozen=True)
class Stored:
    """A submission found in the spool. `fingerprint` says what it encrypts, to key holders only, or is `ELSEWHERE`."""

    signed: Signed[Manifest]
    encoded: bytes
    fingerprint: str

    @property
    def manifest(self) -> Manifest:
        """What the manifest says."""
        return self.signed.body

    @property
    def elsewhere(self) -> bool:
        """Whether its parts are not here."""
        return self.fingerprint == ELSEWHERE

    @cached_property
    def submission_id(self) -> str:
        """SHA-256 of the signed manifest."""
        return self.signed.digest


@dataclass(frozen=True)
class Begun:
    """An encryption that has begun, and may have to go on in another process.

    Attributes:
        upload: nonce of its manifest to be.
        salt: what its randomness follows from, with the group key and all that is encrypted. Secret. 64 hex digits.
        what: digest of all that is encrypted, and how.
        kept: digest of what does not follow from it, once that is here: the part of the one-time key, or the dealing.
            Nothing leaves before.
    """

    upload: str
    salt: str
    what: str
    kept: str | None = None

    @classmethod
    def new(cls, what: str) -> Begun:
        """Draw an upload and its salt."""
        return cls(secrets.token_hex(NONCE_BYTES), secrets.token_hex(32), what)

    def __repr__(self) -> str:
        return f"Begun({self.upload}, <salt>)"


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
        """Return where this site's verdicts on sums are. No round's name looks like it, either."""
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

    def pending(self, federation: str) -> list[RoundId]:
        """List rounds with a stored submission whose mean was not fetched yet, oldest first."""
        found = []
        with explained(self._root):
            for path in self._root.iterdir():
                with contextlib.suppress(WireError):
                    round_id = RoundId.parse(path.name)
                    if round_id.federation == federation and (path / _MANIFEST).is_file():
                        found.append(round_id)
        return sorted(found)

    def prune(self, opened: RoundId, ledger: Ledger) -> None:
        """Remove what is of no more use.

        What was sent goes when a verified record has left it out, or, if it was counted, when one of a later round has
        counted another: the newest mean may be wanted. What was never sent, and sums that were only downloaded, can be
        made again: the aggregator's word for the open round is enough for those.
        """
        newest = ledger.newest_counted()
        with explained(self._root):
            names = [path.name for path in self._root.iterdir() if path.is_dir()]
        for name in names:
            with contextlib.suppress(WireError, InputError):  # another file, or somebody works on it
                round_id = RoundId.parse(name)
                if round_id.federation != opened.federation:
                    continue
                sent = ledger.sent(round_id)
                if sent is None:
                    useless = round_id.number < opened.number - 1
                else:
                    passed = sent.fate is Fate.COUNTED and round_id.number < newest
                    useless = passed or sent.fate in (Fate.LEFT_OUT, Fate.GIVEN_UP)
                if useless:
                    with self.entry(round_id).locked():
                        self.entry(round_id).remove()


class SpoolEntry:
    """One attempt at one round of one site."""

    def __init__(self, path: Path, round_id: RoundId) -> None:
        self.path = path
        self.round_id = round_id

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

    @property
    def is_stored(self) -> bool:
        """Whether there is a submission that may be sent again."""
        return (self.path / _MANIFEST).is_file()

    def stored(self) -> Stored | None:
        """Read the submission stored here; None if there is none, or only what a crash left."""
        with explained(self.path):
            try:
                with (self.path / _MANIFEST).open("rb") as file:
                    encoded = file.read(MAX_MANIFEST_BYTES + 1)
                fingerprint = (self.path / _UPDATE).read_text("ascii")
            except FileNotFoundError:
                return None
        try:
            return Stored(Signed.parse(Manifest, encoded), encoded, fingerprint)
        except WireError as error:
            raise _damaged(self.path / _MANIFEST, error.message) from error

    def begun(self) -> Begun | None:
        """Read what was begun here, and is not stored yet; None if that is nothing."""
        with explained(self.path):
            try:
                data = (self.path / _BEGUN).read_bytes()
            except FileNotFoundError:
                return None
        try:
            fields = canonical.Fields(canonical.parse(data, 2**12), _BEGUN)
            kept = fields.maybe("kept", lambda name: fields.hex(name, 32))
            begun = Begun(fields.hex("upload", NONCE_BYTES), fields.hex("salt", 32), fields.hex("what", 32), kept)
            fields.end()
        except WireError as error:
            raise _damaged(self.path / _BEGUN, error.message) from error
        return begun

    def note(self, begun: Begun) -> None:
        """Write what has begun, durably; what was written here before is durable then, too."""
        with explained(self.path):
            replace(self.path / _BEGUN, canonical.encode(dict(vars(begun))))

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
        path = self.part_path(number)
        temporary = path.with_name(f".{path.name}.new")
        with explained(self.path):
            temporary.unlink(missing_ok=True)
            create(temporary, data, to_be_read=False)
            temporary.rename(path)
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
        """Store the submission's dealing, durably."""
        with explained(self.path):
            replace(self.path / _DEALING, dealing)

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

    def seal(self, encoded: bytes, fingerprint: str) -> None:
        """Make what was written a submission: after this it is sent again, never encrypted again."""
        with explained(self.path):
            replace(self.path / _UPDATE, fingerprint.encode("ascii"))  # the parts' names before the manifest's
            replace(self.path / _MANIFEST, encoded)
            (self.path / _BEGUN).unlink(missing_ok=True)

    def renew(self, encoded: bytes) -> None:
        """Put another manifest of the same parts in the place of the stored one."""
        with explained(self.path):
            replace(self.path / _MANIFEST, encoded)

    def adopt(self, encoded: bytes) -> None:
        """Put the manifest of another encryption, whose parts are not here, in the place of what is stored.

        It stays as long as a submission would: while it is here nothing is encrypted for this attempt.
        """
        with explained(self.path):
            replace(self.path / _UPDATE, ELSEWHERE.encode("ascii"))
            replace(self.path / _MANIFEST, encoded)
            for path in (*self.path.glob("part-*"), self.path / _DEALING, self.path / _BEGUN):
                path.unlink(missing_ok=True)

    def check_part(self, number: int, length: int, digest: str) -> None:
        """Check that a stored part is still what the manifest says."""
        path = self.part_path(number)
        with explained(self.path), contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == length and digest_of(file) == digest:
                return
        raise _damaged(path, f"part {number} is not the one that the manifest names")

    def has_parts(self, places: Iterable[PartPlace]) -> bool:
        """Say whether all parts are here, by their names: under those they are whole."""
        return all(self.part_path(place.number).is_file() for place in places)

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
        with explained(self.path):
            (self.path / _MANIFEST).unlink(missing_ok=True)
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
