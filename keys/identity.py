"""The identity of a member: a signing key and a receiving key that are its own and never leave it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from he_agg import canonical
from he_agg.documents.roster import Member, Role
from he_agg.errors import KeystoreError, Reason, WireError
from he_agg.ids import check_name
from he_agg.signing import SigningKey
from keys.receiving import DEFAULT_SUITE, ReceivingKey
from keys.recognition import recognise
from keys.sealed_box import Passphrase, close_box, header_of, open_box
from keys.secret_file import read_secret, write_secret

__all__ = ["Identity"]

KIND = "he-agg-identity"
VERSION = 1


@dataclass(frozen=True)
class Identity:
    """Name and private keys of one member: a site, a coordinator, an auditor.

    Attributes:
        signing_key: what it signs requests, manifests and rosters with. Secret.
        receiving_key: what group keys are sealed to. Secret.
    """

    name: str
    signing_key: SigningKey = field(repr=False)
    receiving_key: ReceivingKey = field(repr=False)

    @classmethod
    def create(cls, name: str, suite: str = DEFAULT_SUITE) -> Identity:
        """Make a fresh identity."""
        return cls(check_name(name, "site"), SigningKey.generate(), ReceivingKey.generate(suite))

    def member(self, roles: Iterable[Role] = ()) -> Member:
        """Return the public half, as a roster lists it."""
        return Member(self.name, self.signing_key.public_key.hex(), frozenset(roles), self.receiving_key.public)

    @property
    def fingerprint(self) -> str:
        """What two people compare over the phone: 32 hex digits in groups of four."""
        return self.member().fingerprint

    def recognise(self, weight: int, arrays: Sequence[NDArray[Any]]) -> str:
        """Compute a keyed fingerprint of an update, by which this member alone knows it again."""
        return recognise(self.signing_key.to_bytes(), weight, arrays)

    def save(self, path: str | Path, passphrase: Passphrase = None) -> None:
        """Write the identity file: mode 0600, atomic, never over an existing one."""
        body = canonical.encode(
            {"signing": self.signing_key.to_bytes().hex(), "receiving": self.receiving_key.to_bytes().hex()}
        )
        write_secret(Path(path), close_box(self._header(), body, passphrase))

    @classmethod
    def load(cls, path: str | Path, passphrase: Passphrase = None) -> Identity:
        """Read an identity file.

        Raises:
            KeystoreError: permissions, damage, wrong passphrase, or contents that do not fit the header.
        """
        what = str(path)
        header, body = open_box(read_secret(Path(path)), passphrase, what)
        _check_kind(header, what)
        try:
            fields = canonical.Fields(canonical.parse(body, 2**16), "identity")
            signing = SigningKey.from_bytes(bytes.fromhex(fields.hex("signing", 32)))
            receiving = bytes.fromhex(fields.string("receiving"))
            fields.end()
            public = Member.from_json(check_name(header.get("name"), "name"), header.get("public"))
            suite = "" if public.receiving is None else public.receiving.suite
            identity = cls(public.name, signing, ReceivingKey.from_bytes(suite, receiving))
        except (WireError, ValueError) as error:
            raise KeystoreError(Reason.KEYSTORE_CORRUPT, f"{what}: the identity in it is damaged") from error
        if header != identity._header():
            raise KeystoreError(Reason.KEY_MISMATCH, f"{what}: its keys are not the ones its header names")
        return identity

    @staticmethod
    def public_half(path: str | Path) -> Member:
        """Read the public half of an identity file without opening it. Nothing is proven about it."""
        what = str(path)
        header = header_of(read_secret(Path(path)), what)
        _check_kind(header, what)
        try:
            return Member.from_json(check_name(header.get("name"), "name"), header.get("public"))
        except WireError as error:
            raise KeystoreError(Reason.KEYSTORE_CORRUPT, f"{what}: the identity in it is damaged") from error

    def _header(self) -> canonical.Json:
        return {"kind": KIND, "v": VERSION, "name": self.name, "public": self.member().to_json()}


def _check_kind(header: canonical.Json, what: str) -> None:
    if header.get("kind") != KIND or header.get("v") != VERSION:
        raise KeystoreError(
            Reason.KEYSTORE_CORRUPT,
            f"{what}: expected an identity of format version {VERSION}, got another file",
            "name the file that `he-agg site init` made; `he-agg keys show FILE` tells what a file is",
        )
