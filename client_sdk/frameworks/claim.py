"""Read and write a claim: what a site says of its submission to one round of a run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from he_agg import canonical
from he_agg.documents.manifest import MAX_MANIFEST_BYTES, NONCE_BYTES, Tags, check_tags, parse_tags, tags_to_json
from he_agg.errors import Reason, WireError
from he_agg.ids import RoundId, check_name
from he_agg.plan.plan import PublicPlan
from he_agg.plan.sections import MAX_PARTS

__all__ = ["NO_SUM", "RUN_BYTES", "Carried", "Claim", "digest_of", "site_name"]

RUN_BYTES = 16

NO_SUM = "0" * 64
"""Digest of the sum before the first."""

Carried = tuple[list[bytes], list[bytes]]
"""Claims, sorted by site, and parts: of a submission, which has one claim, or of a sum."""


@dataclass(frozen=True)
class Claim:
    """One submission's description.

    Attributes:
        run: id of the run, 32 hex digits.
        key_id: commitment to the group key, 64 hex digits.
        plan_id: the plan, 64 hex digits.
        fresh: 16 random bytes per encryption, in hex.
        previous: digest of the sum of the round before that this site has opened; `NO_SUM` in the first round.
        tags: what proves a sum, for each part.
    """

    run: str
    round_id: RoundId
    epoch: int
    key_id: str
    plan_id: str
    site: str
    fresh: str
    previous: str
    tags: Tags = ()

    @cached_property
    def _body(self) -> dict[str, canonical.Json]:
        return {
            "v": 1,
            **self.round_id.members(),
            "run": self.run,
            "epoch": self.epoch,
            "key_id": self.key_id,
            "plan_id": self.plan_id,
            "site": self.site,
            "fresh": self.fresh,
            "previous": self.previous,
        }

    @cached_property
    def nonce(self) -> str:
        """What the pads of its tags follow from: 16 bytes of a SHA-256 over everything else that it says, in hex.

        Whoever alters anything asks for other pads, which only the sites know. Another claim with the same 16 bytes is
        a second preimage, 2^128 tries: the random bytes keep anybody from preparing a pair.
        """
        return hashlib.sha256(b"he-agg/claim/v1\0" + canonical.encode(self._body)).hexdigest()[: 2 * NONCE_BYTES]

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        return canonical.encode({**self._body, "tags": tags_to_json(self.tags)})

    @classmethod
    def parse(cls, data: bytes) -> Claim:
        """Read a claim.

        Raises:
            WireError: anything else.
        """
        fields = canonical.Fields(canonical.parse(bytes(data), MAX_MANIFEST_BYTES), "claim")
        fields.integer("v", 1, 1)
        claim = cls(
            round_id=RoundId.of(fields, "claim"),
            run=fields.hex("run", RUN_BYTES),
            epoch=fields.integer("epoch", 1, 10**9),
            key_id=fields.hex("key_id", 32),
            plan_id=fields.hex("plan_id", 32),
            site=check_name(fields.string("site"), "claim.site"),
            fresh=fields.hex("fresh", NONCE_BYTES),
            previous=fields.hex("previous", 32),
            tags=parse_tags(fields.array("tags", MAX_PARTS)),
        )
        fields.end()
        return claim

    def check(self, plan: PublicPlan, run: str, round_id: RoundId, epoch: int, key_id: str, previous: str) -> None:
        """Refuse a claim that is for something else than it should be.

        Raises:
            WireError: another plan, round, run or key, or tags that are not the plan's; or its site has opened
                another sum in the round before.
        """
        for what, reason, expected, got in (
            ("plan", Reason.PLAN_MISMATCH, plan.plan_id, self.plan_id),
            ("epoch", Reason.KEY_MISMATCH, str(epoch), str(self.epoch)),
            ("group key", Reason.KEY_MISMATCH, key_id, self.key_id),
            ("run", Reason.BAD_FIELD, run, self.run),
            ("round", Reason.BAD_FIELD, str(round_id), str(self.round_id)),
            ("sum before", Reason.CHAIN_MISMATCH, previous, self.previous),
        ):
            if expected != got:
                raise WireError(
                    reason,
                    f"round {round_id}, site {self.site}, {what}: expected {expected[:32]}, got {got[:32]}",
                    _HINTS.get(reason, ""),
                )
        check_tags(self.tags, plan, f"claim of site {self.site}")


_HINTS = {
    Reason.PLAN_MISMATCH: "all sites and the server take the keystore and the federation document of one epoch",
    Reason.KEY_MISMATCH: "all sites take the keystore of one epoch: compare them by `he-agg keys show`",
    Reason.CHAIN_MISMATCH: "sites were shown different sums in the round before; stop, and call the coordinator",
}


def digest_of(claims: Sequence[bytes]) -> str:
    """Compute the digest of a sum from its claims, which say all about it. 64 hex digits."""
    digests = b"".join(hashlib.sha256(claim).digest() for claim in claims)
    return hashlib.sha256(b"he-agg/run-sum/v1\0" + digests).hexdigest()


def site_name(name: str) -> str:
    """Return the name of a site in claims: the framework's if it may be one, else one like it, with a digest of it."""
    plain = re.sub(r"[^a-z0-9-]", "-", name.lower()).lstrip("-")[:63]
    return name if name == plain != "" else f"{plain[:40] or 'site'}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
