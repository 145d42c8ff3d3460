"""The group key: the secret that all sites of a federation share for one epoch. The aggregator never has it.

Whoever holds it can open every ciphertext of the epoch, single updates included. SECURITY.md says what follows.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from he_agg import canonical
from he_agg.codecs import new_key_material
from he_agg.documents.federation import FederationDocument
from he_agg.errors import HeAggError, KeystoreError, Reason, WireError
from he_agg.plan.plan import Plan
from keys.sealed_box import Passphrase, close_box, header_of, open_box
from keys.secret_file import read_secret, replace_secret, write_secret

__all__ = ["GroupKey", "public_facts"]

KIND = "he-agg-group-key"
VERSION = 1
_SEED_BYTES = 32


@dataclass(frozen=True)
class GroupKey:
    """Group key and plan of one epoch. Make it with `GroupKey.create`, read it with `GroupKey.load`.

    Attributes:
        plan: what the federation agreed on; the key is for this plan and no other.
        key_material: what the plan's codec made for itself; opaque to everybody else. Secret.
        mac_seed: 32 bytes that checks on sums are derived from. Secret.
    """

    plan: Plan = field(repr=False)
    epoch: int
    key_material: bytes = field(repr=False)
    mac_seed: bytes = field(repr=False)

    def __repr__(self) -> str:
        public = self.plan.public
        return f"GroupKey(federation={public.federation!r}, epoch={self.epoch}, key_id={self.key_id[:12]}...)"

    @classmethod
    def create(cls, plan: Plan, epoch: int = 1) -> GroupKey:
        """Make a fresh group key from the operating system's randomness."""
        return cls(plan, epoch, new_key_material(plan.public), secrets.token_bytes(_SEED_BYTES))

    @property
    def plan_id(self) -> str:
        """The plan it was made for, 64 hex digits."""
        return self.plan.plan_id

    @cached_property
    def key_id(self) -> str:
        """Commitment to the secret, 64 hex digits. Safe to publish: the secret has 256 bits of its own."""
        public = canonical.encode(
            {"federation": self.plan.public.federation, "epoch": self.epoch, "plan_id": self.plan_id}
        )
        material = hashlib.sha256(self.key_material).digest()
        return hmac.new(self.mac_seed, b"he-agg/key-id/v1\0" + material + public, hashlib.sha256).hexdigest()

    @property
    def mac_key(self) -> bytes:
        """What the tags on residues are made with. Secret. 32 bytes."""
        return hmac.digest(self.mac_seed, b"he-agg/mac-key/v1", "sha256")

    @property
    def mask_key(self) -> bytes:
        """What one-time keys are masked with before they are shared among holders. Secret. 32 bytes."""
        return hmac.digest(self.mac_seed, b"he-agg/mask-key/v1", "sha256")

    @property
    def federation_document(self) -> FederationDocument:
        """What the operator gets: the public half of the plan and the key's commitment."""
        return FederationDocument(self.plan.public, self.epoch, self.key_id)

    def save(self, path: str | Path, passphrase: Passphrase = None) -> None:
        """Write the keystore file: mode 0600, atomic, never over an existing one.

        Args:
            passphrase: protects the file's contents; without one only its permissions do.
        """
        write_secret(Path(path), close_box(self.facts, self.secret_body(), passphrase))

    def replace(self, path: str | Path, keep: str | Path | None, passphrase: Passphrase = None) -> None:
        """Write the keystore file in the place of an older one, which stays under another name. Atomic.

        Args:
            keep: the older one's new name; None if it has one already.
        """
        replace_secret(
            Path(path), close_box(self.facts, self.secret_body(), passphrase), None if keep is None else Path(keep)
        )

    def secret_body(self) -> bytes:
        """Return what the public facts do not say, as files and bundles carry it. Secret."""
        return canonical.encode(
            {
                "key_material": base64.b64encode(self.key_material).decode(),
                "mac_seed": self.mac_seed.hex(),
                "plan": self.plan.to_json(),
            }
        )

    @classmethod
    def load(cls, path: str | Path, passphrase: Passphrase = None) -> GroupKey:
        """Read a keystore file, and see that key id and plan id are what its header says.

        Args:
            passphrase: the passphrase, or what asks for it; used only if the file has one.

        Raises:
            KeystoreError: permissions, damage, wrong passphrase, or contents that do not fit the header.
        """
        what = str(path)
        header, body = open_box(read_secret(Path(path)), passphrase, what)
        _check_kind(header, what)
        return cls.from_body(header, body, what)

    @classmethod
    def from_body(cls, facts: canonical.Json, body: bytes, what: str) -> GroupKey:
        """Put a key together from its public facts and `secret_body`, and see that they are of one key."""
        try:
            fields = canonical.Fields(canonical.parse(body, 64 * 2**20), "group key")
            material = base64.b64decode(fields.string("key_material", 2**24), validate=True)
            seed = bytes.fromhex(fields.hex("mac_seed", _SEED_BYTES))
            plan = Plan.parse(canonical.encode(fields.object("plan")))
            fields.end()
            stated = canonical.Fields(facts, "header")
            key = cls(plan, stated.integer("epoch", 1, 10**9), material, seed)
        except (WireError, binascii.Error) as error:
            raise KeystoreError(
                Reason.KEYSTORE_CORRUPT, f"{what}: the group key in it is damaged", "restore it from your backup"
            ) from error
        except HeAggError as error:
            raise KeystoreError(error.reason, f"{what}: {error.message}", error.hint, error.shell) from error
        if facts != key.facts:
            raise KeystoreError(
                Reason.KEY_MISMATCH,
                f"{what}: expected key {str(facts.get('key_id'))[:12]} for plan {str(facts.get('plan_id'))[:12]}, "
                f"got key {key.key_id[:12]} for plan {key.plan_id[:12]}",
                "restore it from your backup, or accept the bundle of the epoch again: `he-agg epoch accept`",
            )
        return key

    @staticmethod
    def header(path: str | Path) -> dict[str, canonical.Json]:
        """Read the public facts of a keystore file without opening it."""
        header: dict[str, canonical.Json] = header_of(read_secret(Path(path)), str(path))
        _check_kind(header, str(path))
        return header

    @property
    def facts(self) -> dict[str, canonical.Json]:
        """What anybody may know of it: the header of its file."""
        return public_facts(self.plan.public.federation, self.epoch, self.plan_id, self.key_id)


def public_facts(federation: str, epoch: int, plan_id: str, key_id: str) -> dict[str, canonical.Json]:
    """Return what anybody may know of a group key, in the form of a keystore file's header."""
    return {
        "kind": KIND,
        "v": VERSION,
        "federation": federation,
        "epoch": epoch,
        "plan_id": plan_id,
        "key_id": key_id,
    }


def _check_kind(header: canonical.Json, what: str) -> None:
    if header.get("kind") != KIND or header.get("v") != VERSION:
        raise KeystoreError(
            Reason.KEYSTORE_CORRUPT,
            f"{what}: expected a group key of format version {VERSION}, got another file",
            "name the keystore that `he-agg epoch accept` made; `he-agg keys show FILE` tells what a file is",
        )
