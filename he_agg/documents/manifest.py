"""Read and write a manifest: what one site submits to one attempt of one round.

It travels signed by the site, and its digest names the submission.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from he_agg import canonical
from he_agg.errors import Reason, WireError
from he_agg.ids import RoundId, check_name
from he_agg.mac import tag_count
from he_agg.plan.plan import PublicPlan
from he_agg.plan.sections import MAX_PARTS

__all__ = ["MAX_MANIFEST_BYTES", "Manifest", "Tags", "check_tags", "parse_tags", "tags_to_json"]

MAX_MANIFEST_BYTES = 4 * 2**20
MAX_TAGS = 128
NONCE_BYTES = 16

Tags = tuple[tuple[int, ...], ...]
"""What proves a sum: for each part some numbers below its section's modulus."""


@dataclass(frozen=True)
class Manifest:
    """One submission's description.

    Attributes:
        round_id: federation, round and attempt it belongs to.
        key_id: commitment to the group key, 64 hex digits.
        plan_id: the plan, 64 hex digits.
        nonce: 16 random bytes per encryption, in hex: two encryptions never share a manifest.
        part_digests: SHA-256 of every part as it travels, in order, in hex.
        tags: authentication of each part's residues, linear so that the sum can be checked by the sum of the tags.
        roster: digest of the roster that the site goes by, 64 hex digits.
        previous: digest of the record before this round's as the site knows it, 64 hex digits; zeros for the first.
        holders: digest of the list of holders that its one-time key was dealt to, 64 hex digits; None where the plan's
            keys are shared, as of the next one.
        dealing: digest of the dealing that travels with it, 64 hex digits.
    """

    KIND: ClassVar[str] = "manifest"
    MAX_BYTES: ClassVar[int] = MAX_MANIFEST_BYTES

    round_id: RoundId
    epoch: int
    key_id: str
    plan_id: str
    site: str
    nonce: str
    part_digests: tuple[str, ...]
    tags: Tags
    roster: str
    previous: str
    holders: str | None = None
    dealing: str | None = None

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return f"manifest of site {self.site} for round {self.round_id}"

    @property
    def author(self) -> str:
        """Its site."""
        return self.site

    def to_json(self) -> canonical.Json:
        """Return the body as a JSON value."""
        return {
            "v": 1,
            **self.round_id.members(),
            "epoch": self.epoch,
            "key_id": self.key_id,
            "plan_id": self.plan_id,
            "site": self.site,
            "nonce": self.nonce,
            "parts": list(self.part_digests),
            "tags": tags_to_json(self.tags),
            "roster": self.roster,
            "previous": self.previous,
            "holders": self.holders,
            "dealing": self.dealing,
        }

    @classmethod
    def from_json(cls, value: canonical.Json) -> Manifest:
        """Read a manifest."""
        fields = canonical.Fields(value, "manifest")
        fields.integer("v", 1, 1)
        round_id = RoundId.of(fields, "manifest")
        digests = fields.array("parts", MAX_PARTS)
        for digest in digests:
            canonical.check_hex(digest, 32, "manifest.parts")
        manifest = cls(
            round_id=round_id,
            epoch=fields.integer("epoch", 1, 10**9),
            key_id=fields.hex("key_id", 32),
            plan_id=fields.hex("plan_id", 32),
            site=check_name(fields.string("site"), "manifest.site"),
            nonce=fields.hex("nonce", NONCE_BYTES),
            part_digests=tuple(digests),
            tags=parse_tags(fields.array("tags", MAX_PARTS)),
            roster=fields.hex("roster", 32),
            previous=fields.hex("previous", 32),
            holders=fields.maybe("holders", lambda name: fields.hex(name, 32)),
            dealing=fields.maybe("dealing", lambda name: fields.hex(name, 32)),
        )
        fields.end()
        return manifest

    def check(self, plan: PublicPlan, round_id: RoundId, epoch: int, key_id: str, site: str) -> None:
        """Refuse a manifest that is for something else than it should be.

        Raises:
            WireError: another plan, round, epoch, key or site, or another number of parts or tags. Says which.
        """
        for what, reason, expected, got in (
            ("plan", Reason.PLAN_MISMATCH, plan.plan_id, self.plan_id),
            ("round", Reason.BAD_FIELD, round_id, self.round_id),
            ("epoch", Reason.KEY_MISMATCH, epoch, self.epoch),
            ("group key", Reason.KEY_MISMATCH, key_id, self.key_id),
            ("site", Reason.FORBIDDEN, site, self.site),
            ("number of parts", Reason.BAD_FIELD, len(plan.places), len(self.part_digests)),
        ):
            if expected != got:
                raise WireError(reason, f"manifest, {what}: expected {str(expected)[:63]}, got {str(got)[:63]}")
        for what, digest in (("holders", self.holders), ("dealing", self.dealing)):
            if (digest is None) == plan.splits_keys:
                wanted = "a digest, since the plan splits keys" if plan.splits_keys else "null, since keys are shared"
                raise WireError(Reason.BAD_FIELD, f"manifest, {what}: expected {wanted}")
        check_tags(self.tags, plan, "manifest")


def tags_to_json(tags: Tags) -> canonical.Json:
    """Return tags as a JSON value: decimal strings, for residues of the codec ckks do not fit JSON's 53 bits."""
    return [[str(tag) for tag in part] for part in tags]


def parse_tags(value: list[canonical.Json]) -> Tags:
    """Read what `tags_to_json` wrote."""
    return tuple(_tags(part) for part in value)


def check_tags(tags: Tags, plan: PublicPlan, what: str) -> None:
    """Refuse tags that are not of a plan's form.

    Raises:
        WireError: tags of another number of parts, another number of them, or one out of range.
    """
    if len(tags) != len(plan.places):
        raise WireError(
            Reason.BAD_FIELD, f"{what}, number of parts with tags: expected {len(plan.places)}, got {len(tags)}"
        )
    counts = [tag_count(section) for section in plan.sections]
    for place, values in zip(plan.places, tags, strict=True):
        count, modulus = counts[place.section_index], place.section.modulus
        if len(values) != count:
            raise WireError(
                Reason.BAD_FIELD, f"{what}, tags of part {place.number}: expected {count}, got {len(values)}"
            )
        if not (min(values) >= 0 and max(values) < modulus):
            raise WireError(Reason.BAD_FIELD, f"{what}, tags of part {place.number}: one is not below q")


def _tags(part: canonical.Json) -> tuple[int, ...]:
    if not isinstance(part, list) or len(part) > MAX_TAGS:
        raise WireError(Reason.BAD_FIELD, f"manifest.tags: expected at most {MAX_TAGS} tags a part")
    for text in part:
        if not isinstance(text, str) or not 1 <= len(text) <= 20 or not text.isascii() or not text.isdigit():
            raise WireError(Reason.BAD_FIELD, "manifest.tags: expected decimal numbers")
    return tuple(map(int, part))
