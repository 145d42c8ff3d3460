"""The manifest: what one site submits to one attempt of one round, in a form that its digest names."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from he_agg import canonical
from he_agg.errors import Reason, WireError
from he_agg.ids import RoundId, check_name
from he_agg.plan import PublicPlan

__all__ = ["MAX_MANIFEST_BYTES", "Manifest"]

MAX_MANIFEST_BYTES = 4 * 2**20
MAX_PARTS = 50_000
NONCE_BYTES = 16
VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """One submission's description.

    Attributes:
        round_id: federation, round and attempt it belongs to.
        epoch: number of the group key's epoch.
        key_id: commitment to the group key, 64 hex digits.
        plan_id: the plan, 64 hex digits.
        site: who submits.
        nonce: 16 random bytes per encryption, in hex: two encryptions never share a manifest.
        part_digests: SHA-256 of every part as it travels, in order, in hex.
    """

    round_id: RoundId
    epoch: int
    key_id: str
    plan_id: str
    site: str
    nonce: str
    part_digests: tuple[str, ...]

    def encode(self) -> bytes:
        """The canonical bytes."""
        return canonical.encode(
            {
                "v": VERSION,
                "federation": self.round_id.federation,
                "round": self.round_id.number,
                "attempt": self.round_id.attempt,
                "epoch": self.epoch,
                "key_id": self.key_id,
                "plan_id": self.plan_id,
                "site": self.site,
                "nonce": self.nonce,
                "parts": list(self.part_digests),
            }
        )

    @property
    def submission_id(self) -> str:
        """SHA-256 of the canonical bytes: the id of the submission."""
        return hashlib.sha256(self.encode()).hexdigest()

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Read a manifest.

        Raises:
            WireError: anything but one canonical manifest.
        """
        fields = canonical.Fields(canonical.parse(data, MAX_MANIFEST_BYTES), "manifest")
        fields.integer("v", VERSION, VERSION)
        federation = check_name(fields.string("federation"), "manifest.federation")
        number = fields.integer("round", 1, 10**9 - 1)
        attempt = fields.integer("attempt", 1, 10**9 - 1)
        digests = fields.array("parts", MAX_PARTS)
        for digest in digests:
            canonical.check_hex(digest, 32, "manifest.parts")
        manifest = cls(
            round_id=RoundId(federation, number, attempt),
            epoch=fields.integer("epoch", 1, 10**9),
            key_id=fields.hex("key_id", 32),
            plan_id=fields.hex("plan_id", 32),
            site=check_name(fields.string("site"), "manifest.site"),
            nonce=fields.hex("nonce", NONCE_BYTES),
            part_digests=tuple(digests),
        )
        fields.end()
        return manifest

    def check(self, plan: PublicPlan, round_id: RoundId, epoch: int, key_id: str, site: str) -> None:
        """Refuse a manifest that is for something else than it should be.

        Raises:
            WireError: another plan, round, epoch, key or site, or another number of parts. Says which.
        """
        for what, reason, expected, got in (
            ("plan", Reason.PLAN_MISMATCH, plan.plan_id, self.plan_id),
            ("round", Reason.BAD_FIELD, str(round_id), str(self.round_id)),
            ("epoch", Reason.KEY_MISMATCH, str(epoch), str(self.epoch)),
            ("group key", Reason.KEY_MISMATCH, key_id, self.key_id),
            ("site", Reason.FORBIDDEN, site, self.site),
            ("number of parts", Reason.BAD_FIELD, str(len(plan.places)), str(len(self.part_digests))),
        ):
            if expected != got:
                raise WireError(reason, f"manifest, {what}: expected {expected[:63]}, got {got[:63]}")
