"""Named groups of integers as one vector of digits, and exact sums of such vectors back to integers.

The plan's fixed point maps ``k = round(w/w_max * x/clip * M)``. With weight 1, cap 1 and ``clip = M`` that is
``k = x``: integers up to M travel as they are. A larger one travels in digits to the base ``b = M + 1``, the low ones
from 0 to M, the top one signed. Digits are summed one by one and put together afterwards, so nothing ever carries
over and nothing is rounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from he_agg.errors import DecryptionError, InputError, Reason

__all__ = ["Field", "Integers", "decode", "digits_for", "encode", "encoded_size"]

Integers = NDArray[Any]
"""int64 where everything fits, otherwise objects: Python's integers."""

_SAFE = 2**62


@dataclass(frozen=True)
class Field:
    """One group of integers of an analysis.

    An analysis names its fields as members of a `NamedTuple`; values and sums are the same tuple of arrays.

    Attributes:
        shape: its shape.
        bound: no site's integer is larger in absolute value.
    """

    shape: tuple[int, ...]
    bound: int

    @property
    def size(self) -> int:
        """How many integers it holds."""
        return math.prod(self.shape)


def digits_for(bound: int, magnitude: int) -> int:
    """Return how many digits integers up to `bound` take.

    Args:
        magnitude: M, the largest absolute value of one plaintext integer.
    """
    count, reach = 1, magnitude
    while reach < bound:
        reach *= magnitude + 1
        count += 1
    return count


def encoded_size(fields: NamedTuple, magnitude: int) -> int:
    """Return how many plaintext integers the fields take together."""
    return sum(field.size * digits_for(field.bound, magnitude) for field in fields)


def encode(fields: NamedTuple, values: NamedTuple, magnitude: int) -> NDArray[np.int64]:
    """Lay out a site's integers as digits.

    Args:
        values: the same tuple as the fields, of int64 arrays or arrays of Python integers.

    Raises:
        InputError: a value is misshapen, not of integers, or beyond its bound.

    Shape: (encoded_size(fields, magnitude),)
    """
    base = magnitude + 1
    out: list[NDArray[np.int64]] = []
    for name, field, value in zip(fields._fields, fields, values, strict=True):
        array = np.asarray(value)
        if array.shape != field.shape or array.dtype.kind not in "iuO":
            raise InputError(
                Reason.WRONG_SHAPE,
                f"field {name!r}: expected integers of shape {field.shape}, got {array.dtype} {array.shape}",
            )
        flat = array.reshape(-1)
        if array.dtype.kind != "O":
            flat = flat.astype(np.int64)
        if flat.size and (int(flat.max()) > field.bound or int(flat.min()) < -field.bound):
            raise InputError(
                Reason.BEYOND_CLIP,
                f"field {name!r}: expected integers within {field.bound}, got one beyond it",
                "give the analysis a larger bound (all sites the same): more patients, or a wider range of values",
            )
        count = digits_for(field.bound, magnitude)
        for digit in range(count):
            low = flat % base if digit < count - 1 else flat
            out.append(low.astype(np.int64))
            flat = (flat - low) // base
    return np.concatenate(out) if out else np.empty(0, dtype=np.int64)


def decode(fields: NamedTuple, sums: NDArray[np.int64], magnitude: int, n_sites: int) -> Any:
    """Put the summed digits together again.

    Args:
        sums: exact sums of the sites' digits, in the same order. Longer is fine.

    Raises:
        DecryptionError: a sum that `n_sites` sites within the bounds cannot have.
    """
    base = magnitude + 1
    values: list[Integers] = []
    start = 0
    for name, field in zip(fields._fields, fields, strict=True):
        count = digits_for(field.bound, magnitude)
        wide = field.bound * n_sites + base**count >= _SAFE
        total: Integers = np.zeros(field.size, dtype=object if wide else np.int64)
        for digit in range(count):
            part = sums[start : start + field.size].astype(total.dtype)
            total = total + part * (base**digit if wide else np.int64(base**digit))
            start += field.size
        if field.size and max(int(total.max()), -int(total.min())) > field.bound * n_sites:
            raise DecryptionError(
                Reason.SUM_OUT_OF_RANGE,
                f"field {name!r}: expected a sum within {n_sites} x {field.bound}, got a larger one",
                "a site does not keep to the bounds of the analysis",
            )
        values.append(total.reshape(field.shape))
    return fields._make(values)
