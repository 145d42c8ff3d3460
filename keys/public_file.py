"""Read public files of members from disk."""

from __future__ import annotations

from pathlib import Path

from he_agg.documents.public_file import PublicFile
from he_agg.documents.roster import Member
from keys.files import read_document

__all__ = ["read_public", "read_public_file"]


def read_public_file(path: Path) -> PublicFile:
    """Read a public file."""
    return read_document(path, PublicFile.parse, "the public file of a member (NAME.public.json)")


def read_public(path: Path) -> Member:
    """Read the member that a public file is of."""
    return read_public_file(path).member
