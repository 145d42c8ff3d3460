"""The public file of a member, `NAME.public.json`: its name and public keys. It goes to whoever makes the roster.

Nothing in it is secret, and nothing proves whose it is: that is what comparing the fingerprint is for.
"""

from __future__ import annotations

from pathlib import Path

from he_agg import canonical
from he_agg.documents.roster import Member
from he_agg.errors import Reason, WireError
from keys.files import read_document

__all__ = ["encode_public", "read_public"]

MAX_PUBLIC_BYTES = 2**16


def encode_public(member: Member) -> bytes:
    """Write the public file of a member. Roles are the roster's to give: none are written."""
    public = Member(member.name, member.signing_key, frozenset(), member.receiving)
    return canonical.encode({"v": 1, "name": member.name, "public": public.to_json()})


def parse_public(data: bytes) -> Member:
    """Read the public file of a member."""
    fields = canonical.Fields(canonical.parse(data.strip(), MAX_PUBLIC_BYTES), "public file")
    fields.integer("v", 1, 1)
    name, public = fields.string("name"), fields.object("public")
    fields.end()
    member = Member.from_json(name, public)
    if member.roles:
        raise WireError(Reason.BAD_FIELD, "public file: expected no roles, the roster gives them")
    return member


def read_public(path: Path) -> Member:
    """Read a public file from disk."""
    return read_document(path, parse_public, "the public file of a member (NAME.public.json)")
