"""Make an event, and say on whose behalf something is done."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from service.audit_events.catalogue import CATALOGUE, Kind

__all__ = ["AuditEvent", "Tell", "acting", "make_event", "user_of_this_process"]

MAX_VALUE = 255
"""Characters of a field; what is longer is cut off. Nothing of ours is: it is for names of people from elsewhere."""


@dataclass(frozen=True)
class AuditEvent:
    """Something that has happened. Build it with `make_event`.

    Attributes:
        at: Units: seconds since 1970, UTC.
        fields: printable text and numbers, under names of `FIELDS`.
    """

    kind: Kind
    at: float
    fields: Mapping[str, str | int]


Tell = Callable[[AuditEvent], None]
"""Takes an event over. It returns at once and raises nothing."""

_acting: ContextVar[tuple[str, str] | None] = ContextVar("acting", default=None)


@contextmanager
def acting(by: str, via: str) -> Iterator[None]:
    """Say who does what is done within: events that have the fields `by` and `via` get these."""
    token = _acting.set((by, via))
    try:
        yield
    finally:
        _acting.reset(token)


def user_of_this_process() -> str:
    """Return the name of the user that this process runs as. Not what the environment says, which anybody can set."""
    if not hasattr(os, "getuid"):
        return os.getlogin()
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"


Value = str | int | None


def make_event(name: str, **fields: Value) -> AuditEvent:
    """Make an event of now.

    Args:
        name: one of `CATALOGUE`.
        fields: those of the kind that are known; None and "" are left out, and so is what cannot be printed.

    Raises:
        ValueError: the kind has no such field.
    """
    kind, acts = CATALOGUE[name], _acting.get()
    if acts is not None and "by" in kind.fields:
        who: dict[str, Value] = {"by": acts[0], "via": acts[1]}
        fields = who | fields
    if unknown := fields.keys() - set(kind.fields):
        raise ValueError(f"{name}: expected fields of {kind.fields}, got {sorted(unknown)}")
    known = {field: fields[field] for field in kind.fields if fields.get(field) not in (None, "")}
    return AuditEvent(kind, time.time(), {field: _clean(value) for field, value in known.items()})


def _clean(value: Value) -> str | int:
    """Put a sign for each character that a terminal or a parser might take for something else than text."""
    if isinstance(value, int):
        return value
    text = str(value)
    text = text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 1] + "…"
    return "".join(each if each.isprintable() else "\ufffd" for each in text)
