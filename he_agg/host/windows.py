"""Tell from the access control list of a file on Windows who else may read or change it.

The system is asked through pywin32, and answers in its text form (SDDL). What that means is decided by a function of
the text alone, which is tested on every system.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

__all__ = ["strangers", "strangers_in"]

_ADMINISTRATORS = {"SY", "S-1-5-18", "BA", "S-1-5-32-544", "LA", "OW"}
"""The system, its administrators and the owner: as root is nobody else elsewhere."""

_READING = {"FR", "FX", "GR", "GX", "RC"}
_CHANGING = 0x500D0156
"""Bits of a right in numbers: write, append, attributes, delete, permissions, owner, all."""

_LIST = re.compile(
    r"(?:O:(?P<owner>[A-Z]{2}|S-[\d-]+))?(?:G:(?:[A-Z]{2}|S-[\d-]+))?D:[A-Z]*(?P<entries>(?:\([^()]*\))*)"
)


def strangers_in(sddl: str, me: str, changing: bool = False) -> list[str]:
    """Find who besides a user and the administrators may read or change a file.

    Args:
        sddl: the file's owner and access control list.
        me: the user's SID.
        changing: look only for those who may change it.

    Returns:
        SIDs, or their short names. What is not understood counts as a stranger.
    """
    ours = {me, *_ADMINISTRATORS}
    found = _LIST.fullmatch(sddl)
    if found is None or "NO_ACCESS_CONTROL" in sddl:
        return ["everybody"]
    strangers = [] if found["owner"] in ours else [found["owner"] or "an unknown owner"]
    for entry in re.findall(r"\(([^()]*)\)", found["entries"]):
        kind, flags, rights, *_, sid = entry.split(";")[:6]
        denies = kind in ("D", "OD", "XD")
        inherited_by_others_only = "IO" in _pairs(flags)
        if denies or inherited_by_others_only or sid in ours or (changing and _only_reads(rights)):
            continue
        strangers.append(sid)
    return strangers


def _only_reads(rights: str) -> bool:
    if rights.startswith("0x"):
        return not int(rights, 16) & _CHANGING
    return set(_pairs(rights)) <= _READING


def _pairs(letters: str) -> list[str]:
    return [letters[at : at + 2] for at in range(0, len(letters), 2)]


if sys.platform == "win32":
    import win32api
    import win32con
    import win32security

    def strangers(path: Path, changing: bool = False) -> list[str]:
        """Find who besides this user and the administrators may read or change a file."""
        parts = win32security.OWNER_SECURITY_INFORMATION | win32security.DACL_SECURITY_INFORMATION
        descriptor = win32security.GetFileSecurity(str(path), parts)
        sddl = win32security.ConvertSecurityDescriptorToStringSecurityDescriptor(
            descriptor, win32security.SDDL_REVISION_1, parts
        )
        token = win32security.OpenProcessToken(win32api.GetCurrentProcess(), win32con.TOKEN_QUERY)
        sid, _ = win32security.GetTokenInformation(token, win32security.TokenUser)
        return strangers_in(sddl, win32security.ConvertSidToStringSid(sid), changing)

else:

    def strangers(path: Path, changing: bool = False) -> list[str]:
        """Refuse to answer: elsewhere owner and mode say who may."""
        raise NotImplementedError(f"{path}, {changing}")
