"""Make a submission in the spool, part by part: encrypt, write, and at the end tag, sign and seal."""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from types import TracebackType
from typing import Self

from client_sdk._disk.spool import SpoolEntry
from client_sdk._disk.stored import Stored
from client_sdk._protocol.frames import Frames
from he_agg.codecs.base import Room, Watch
from he_agg.documents.manifest import Manifest
from he_agg.documents.signed import Signed
from he_agg.mac import RoundMac, TagTotal, tag_count
from he_agg.plan.plan import PublicPlan
from he_agg.plan.sections import Part
from he_agg.signing import SIGNATURE_BYTES

__all__ = ["Making"]


class Making:
    """One encryption. A context manager: what it follows from is wiped at the end of the block.

    Attributes:
        upload: nonce of its manifest.
        fingerprint: keyed fingerprint of what is encrypted.
        manifest_bytes: the most that its signed manifest takes. Units: bytes.
    """

    def __init__(
        self,
        plan: PublicPlan,
        entry: SpoolEntry,
        mac: RoundMac,
        frames: Frames,
        encrypt: Callable[[Watch, Room], Generator[Part]],
        sign: Callable[[Manifest], Signed[Manifest]],
        *,
        unsigned: Manifest,
        fingerprint: str,
    ) -> None:
        """Begin nothing yet.

        Args:
            frames: has the memory that parts are made in, and leave from.
            encrypt: is given who looks at residues, and where they go.
            sign: completes the manifest with what the codec has found, and signs it.
            unsigned: its manifest, but for digests and tags.
        """
        self.upload, self.fingerprint = unsigned.nonce, fingerprint
        self.manifest_bytes = _longest(plan, unsigned)
        self._plan, self._entry, self._mac, self._frames = plan, entry, mac, frames
        self._encrypt, self._sign, self._unsigned = encrypt, sign, unsigned
        self._digests: dict[int, str] = {}
        self._total: TagTotal
        self._parts: Generator[Part]

    def __enter__(self) -> Self:
        self._total = self._mac.new_total()
        self._parts = self._encrypt(partial(self._mac.watch, self._total), self._frames.room)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A one-time key lives in the generator: it is closed now, not whenever it is collected.
        self._parts.close()
        self._mac.wipe()

    def make(self) -> int | None:
        """Make the next part, in memory, and return its number; None if there is none. One thread at a time may."""
        part = next(self._parts, None)
        return None if part is None else part.number

    def write(self, number: int) -> tuple[memoryview, str]:
        """Store a part that was made, durably but for its name. Several threads may.

        Returns:
            The part as it travels, and its SHA-256.
        """
        frame = self._frames.whole(number)
        self._digests[number] = digest = self._entry.write_part(number, frame)
        return frame, digest

    def seal(self) -> Stored:
        """Make what was written a submission. All parts were."""
        tags = self._mac.tags(self._total, self._unsigned.site, self.upload)
        digests = tuple(self._digests[place.number] for place in self._plan.places)
        stored = Stored(self._sign(_replaced(self._unsigned, digests, tags)), self.fingerprint)
        self._entry.seal(stored)
        return stored


def _replaced(unsigned: Manifest, digests: tuple[str, ...], tags: tuple[tuple[int, ...], ...]) -> Manifest:
    return Manifest(**{**vars(unsigned), "part_digests": digests, "tags": tags})


def _longest(plan: PublicPlan, unsigned: Manifest) -> int:
    """Return how long a signed manifest can be: its tags are numbers, and all else in it has one length."""
    digest = "0" * 64
    tags = tuple((place.section.modulus - 1,) * tag_count(place.section) for place in plan.places)
    fullest = _replaced(unsigned, (digest,) * len(plan.places), tags)
    if plan.splits_keys:
        fullest = Manifest(**{**vars(fullest), "dealing": digest})
    return len(Signed(fullest, {unsigned.site: bytes(SIGNATURE_BYTES)}).encode())
