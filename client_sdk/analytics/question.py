"""Compare what sites ask, inside the sum: digests that must add up, and the text of the question.

Every vector ends with digests of the question and of the state that it is about, and with the question's text. If all
sites ask the same at the same step, each sum is as many times the own value as there are sites. If not, no result is
released, and where there are two questions, each site can work out the other one from the sums and shows both.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from he_agg.errors import InputError, Reason

__all__ = ["QUESTION_VALUES", "asked_by_all", "check_same", "question_values", "text_of"]

_DIGEST_BITS = 22
_DIGEST_VALUES = 2
_TEXT_VALUES = 150
_PER_VALUE = 3
"""Characters of seven bits in a value, which is below 2^22 like those of the digests."""

QUESTION_VALUES = 2 * _DIGEST_VALUES + _TEXT_VALUES
"""How many values of a vector are about the question."""


def text_of(parameters: Any) -> str:
    """Write down everything that the sites must agree on, in ASCII."""
    members = {field.name: getattr(parameters, field.name) for field in fields(parameters)}
    return f"{type(parameters).__name__} {json.dumps(members, default=_plain)}"


def question_values(question: str, state: Any) -> NDArray[np.int64]:
    """Return what a site adds to its vector. Shape: (QUESTION_VALUES,)."""
    about = json.dumps(state, sort_keys=True, default=_plain)
    codes = np.zeros(_TEXT_VALUES * _PER_VALUE, dtype=np.int64)
    start = np.frombuffer(question.encode("ascii", "replace")[: codes.size], dtype=np.uint8)
    codes[: start.size] = start
    packed = codes.reshape(-1, _PER_VALUE) @ (1 << 7 * np.arange(_PER_VALUE))
    return np.concatenate([_digest(question), _digest(f"{question}\n{about}"), packed])


def asked_by_all(question: str, sums: NDArray[np.int64], n_sites: int) -> bool:
    """Tell whether all sites of a sum asked this question, at whatever state."""
    return np.array_equal(sums[:_DIGEST_VALUES], n_sites * question_values(question, None)[:_DIGEST_VALUES])


def check_same(question: str, state: Any, sums: NDArray[np.int64], n_sites: int) -> None:
    """Check that all sites of a sum asked this question at this state.

    Args:
        sums: of what `question_values` gave at each site.

    Raises:
        InputError: they did not; the message has this site's question, and the other one if there are two.
    """
    own = question_values(question, state)
    if np.array_equal(sums, n_sites * own):
        return
    if asked_by_all(question, sums, n_sites):
        raise InputError(
            Reason.BAD_ARGUMENT,
            f"expected all {n_sites} sites at the same step of the same analysis, got unlike steps; no result was "
            "released",
            "a site was started again in the middle, or so late that the first sums are kept no longer, or has another "
            "version of numpy: start the analysis again at all sites; have the operator keep more sums (the option "
            "--keep-sums of `he-agg federation create`)",
        )
    most = _TEXT_VALUES * _PER_VALUE
    here = question if len(question) < most else f"{question[:most]} ..."
    others = list(_others(own, sums, n_sites))
    if len(others) == 1:
        ((count, other),) = others
        what = f"two questions. Here: {here} -- at {count} of the {n_sites} sites: {other}"
    else:
        what = f"several questions. Here: {here}"
    raise InputError(
        Reason.BAD_ARGUMENT,
        f"expected the same analysis at all {n_sites} sites, got {what}; no result was released",
        "agree on the parameters, then start the analysis again at all sites",
    )


def _others(own: NDArray[np.int64], sums: NDArray[np.int64], n_sites: int) -> Iterator[tuple[int, str]]:
    """Yield what so many sites can have asked, all of them the same, if the rest asked what this site did."""
    for count in range(1, n_sites):
        difference, rest = np.divmod(sums - n_sites * own, count)
        theirs = own + difference
        text = theirs[2 * _DIGEST_VALUES :]
        if rest[:_DIGEST_VALUES].any() or rest[2 * _DIGEST_VALUES :].any() or text.min() < 0 or text.max() >= 1 << 21:
            continue
        codes = (text[:, None] >> 7 * np.arange(_PER_VALUE)) & 127
        other = bytes(codes.reshape(-1).astype(np.uint8)).rstrip(b"\0").decode("ascii")
        whole = len(other) < _TEXT_VALUES * _PER_VALUE
        if other.isprintable() and (not whole or np.array_equal(_digest(other), theirs[:_DIGEST_VALUES])):
            yield count, other if whole else f"{other} ..."


def _digest(text: str) -> NDArray[np.int64]:
    number = int.from_bytes(hashlib.sha256(f"he-agg analytics v1\n{text}".encode()).digest()[:8], "big")
    mask = (1 << _DIGEST_BITS) - 1
    return np.array([number & mask, number >> _DIGEST_BITS & mask], dtype=np.int64)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [str(value.dtype), list(value.shape), hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    if isinstance(value, np.generic):
        return value.item()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    raise TypeError(f"{type(value).__name__} cannot be a parameter of an analysis")
