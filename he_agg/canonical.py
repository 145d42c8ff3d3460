"""Canonical JSON: one value, one byte string, so that a digest names a value.

The form is RFC 8785, of which documents use all but floats: two programs may print a float differently, and most of
the faults in other encoders are there. Integers stay within 53 bits, and fractions travel as the shortest decimal
string that reads back to the same float64.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from he_agg.errors import Reason, WireError, counted

__all__ = ["Json", "decimal", "digest", "encode", "loads", "parse", "parse_decimal"]

type_names = {
    dict: "object",
    list: "array",
    str: "string",
    int: "integer",
    bool: "boolean",
    type(None): "null",
}

Read = TypeVar("Read")

Json = Any
"""What `json` makes of a document: no static type says it better."""

MAX_INTEGER = 2**53 - 1
"""Integers beyond it are not exact in every JSON reader."""

MAX_DEPTH = 8
"""Nesting of our deepest document is 7, manifests in an answer; an attacker's may be thousands."""


def encode(value: Json) -> bytes:
    """Write a value as canonical JSON.

    Raises:
        WireError: the value holds a float, a key that is no string, half a surrogate pair, or a large integer.
    """
    _check(value, 0)
    text = _dumps(value, sort_keys=True)
    if not text.isascii():  # the order is that of UTF-16 code units; of ASCII keys it is Python's own
        text = _dumps(_ordered(value), sort_keys=False)
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise WireError(Reason.BAD_FIELD, "expected text in JSON, got half a surrogate pair") from error


def parse(data: bytes, max_bytes: int) -> Json:
    """Read canonical JSON, strictly: whatever parses encodes to the very same bytes.

    Raises:
        WireError: too large, not JSON, or not canonical.
    """
    if len(data) > max_bytes:
        raise WireError(Reason.TOO_LARGE, f"expected at most {max_bytes} bytes of JSON, got {len(data)}")
    value = loads(data)
    if encode(value) != data:
        raise WireError(
            Reason.NOT_CANONICAL,
            "expected canonical JSON (sorted keys, no spaces, each key once), got another form",
        )
    return value


def loads(data: bytes) -> Json:
    """Read JSON of any form, as problem documents and hints are: nesting, integers and keys are bounded all the same.

    Raises:
        WireError: not JSON, nested too deep, a key twice, or a number that not every reader takes for the same.
    """
    _check_nesting(data)
    try:
        return json.loads(
            data.decode(),
            object_pairs_hook=_each_once,
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_finite,
        )
    except WireError:
        raise
    except ValueError as error:
        raise WireError(Reason.BAD_FIELD, "expected a JSON document, got something else") from error


def digest(value: Json) -> str:
    """Return the SHA-256 of the canonical form, in hex."""
    return hashlib.sha256(encode(value)).hexdigest()


def decimal(number: float) -> str:
    """Return the shortest decimal string that reads back to the same float64."""
    return repr(float(number))


def parse_decimal(text: str) -> float:
    """Read what `decimal` wrote, and nothing else."""
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not number - number == 0 or repr(number) != text:  # an infinity or NaN minus itself is no zero
        raise WireError(Reason.BAD_FIELD, "expected a finite decimal number in shortest form, got another string")
    return number


class Fields:
    """Reads the members of one JSON object, each exactly once, and knows what is left over.

    Args:
        what: the object's name in error messages.

    Raises:
        WireError: not an object.
    """

    def __init__(self, value: Json, what: str) -> None:
        if not isinstance(value, dict):
            raise WireError(Reason.BAD_FIELD, f"{what}: expected an object, got {_name(value)}")
        self._left = dict(value)
        self._what = what

    def _take(self, name: str, kind: type) -> Json:
        value = self._left.pop(name, ...)
        if type(value) is not kind:
            if value is ...:
                raise WireError(Reason.BAD_FIELD, f"{self._what}: expected a member {name!r}, got none")
            raise WireError(Reason.BAD_FIELD, f"{self._what}.{name}: expected {type_names[kind]}, got {_name(value)}")
        return value

    def integer(self, name: str, low: int, high: int) -> int:
        """Expect an integer within `low..high`."""
        value: int = self._take(name, int)
        if not low <= value <= high:
            raise WireError(Reason.BAD_FIELD, f"{self._what}.{name}: expected {low}..{high}, got {value}")
        return value

    def boolean(self, name: str) -> bool:
        """Expect true or false."""
        value: bool = self._take(name, bool)
        return value

    def string(self, name: str, max_length: int = 255) -> str:
        """Expect a string of at most `max_length` characters."""
        value: str = self._take(name, str)
        if len(value) > max_length:
            raise WireError(
                Reason.BAD_FIELD,
                f"{self._what}.{name}: expected at most {max_length} characters, got {len(value)}",
            )
        return value

    def hex(self, name: str, n_bytes: int) -> str:
        """Expect `n_bytes` bytes in lower-case hex."""
        value: str = self._take(name, str)
        if len(value) != 2 * n_bytes or not _HEX(value):  # most documents have many: no message is made beforehand
            check_hex(value, n_bytes, f"{self._what}.{name}")
        return value

    def array(self, name: str, max_length: int) -> list[Json]:
        """Expect an array of at most `max_length` members."""
        value: list[Json] = self._take(name, list)
        if len(value) > max_length:
            raise WireError(
                Reason.BAD_FIELD,
                f"{self._what}.{name}: expected at most {max_length} members, got {len(value)}",
            )
        return value

    def object(self, name: str) -> dict[str, Json]:
        """Expect a nested object."""
        value: dict[str, Json] = self._take(name, dict)
        return value

    def maybe(self, name: str, read: Callable[[str], Read]) -> Read | None:
        """Read a member that may be null."""
        if self._left.get(name, ...) is not None:
            return read(name)
        del self._left[name]
        return None

    def end(self) -> None:
        """Refuse members nobody asked for."""
        if self._left:
            raise WireError(Reason.BAD_FIELD, f"{self._what}: {counted(len(self._left), 'unknown member')}")


def check_hex(value: Json, n_bytes: int, what: str) -> None:
    """Refuse anything but `n_bytes` bytes in lower-case hex."""
    if not isinstance(value, str) or len(value) != 2 * n_bytes or not _HEX(value):
        raise WireError(Reason.BAD_FIELD, f"{what}: expected {2 * n_bytes} lower-case hex digits")


_HEX = re.compile("[0-9a-f]*").fullmatch


def from_base64(text: str, what: str) -> bytes:
    """Read Base64 with its padding, and nothing beside it."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise WireError(Reason.BAD_FIELD, f"{what}: expected Base64") from error


_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_OTHERS = bytes(set(range(256)) - set(b"[{]}"))


def _check_nesting(data: bytes) -> None:
    """Count open brackets outside of strings: a parser that calls itself must not see more of them."""
    depth = 0
    # Without a backslash every second piece between quotes is a string: that is found ten times as fast.
    outside = _STRING.sub(b"", data) if b"\\" in data else b"".join(data.split(b'"')[::2])
    for bracket in outside.translate(None, _OTHERS):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH + 1:
            raise WireError(Reason.BAD_FIELD, f"expected at most {MAX_DEPTH} levels of JSON, got more")


def _each_once(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise WireError(Reason.NOT_CANONICAL, "expected each key of a JSON object once, got one twice")
    return members


def _integer(digits: str) -> int:
    if len(digits) > 17 or not -MAX_INTEGER <= (number := int(digits)) <= MAX_INTEGER:
        raise WireError(Reason.BAD_FIELD, "expected integers of at most 53 bits in JSON, got a larger one")
    return number


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise WireError(Reason.BAD_FIELD, "expected finite numbers in JSON, got another")
    return number


def _check(value: Json, depth: int) -> None:
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise WireError(Reason.BAD_FIELD, f"expected string keys in JSON, got {_name(key)}")
        members: Collection[Json] = value.values()
    elif isinstance(value, (list, tuple)):  # several times as fast as a union
        members = value
    elif isinstance(value, int):
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise WireError(Reason.BAD_FIELD, "expected integers of at most 53 bits in JSON, got a larger one")
        return
    elif value is None or isinstance(value, str):
        return
    else:
        raise WireError(Reason.BAD_FIELD, f"canonical JSON has no {_name(value)}")
    if members and depth == MAX_DEPTH:
        raise WireError(Reason.BAD_FIELD, f"expected at most {MAX_DEPTH} levels of JSON, got more")
    for member in members:
        kind = type(member)
        if kind is str or (kind is int and -MAX_INTEGER <= member <= MAX_INTEGER):  # most are
            continue
        _check(member, depth + 1)


def _dumps(value: Json, sort_keys: bool) -> str:
    return (_SORTING if sort_keys else _KEEPING).encode(value)


_SORTING, _KEEPING = (
    json.JSONEncoder(sort_keys=sort_keys, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for sort_keys in (True, False)
)


def _ordered(value: Json) -> Json:
    if isinstance(value, Mapping):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be", "surrogatepass"))
        return {key: _ordered(value[key]) for key in keys}
    return [_ordered(member) for member in value] if isinstance(value, list | tuple) else value


def _name(value: Json) -> str:
    return type_names.get(type(value), type(value).__name__)
