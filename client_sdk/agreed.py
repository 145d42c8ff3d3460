"""The one place where parameters that sites must agree on get their one form: 1 and 1.0 are the same question.

Whoever defines such parameters calls `settle` in `__post_init__`. Parameters are then compared and shown as text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from he_agg.errors import InputError, Reason

__all__ = ["settle"]


def settle(parameters: Any) -> None:
    """Bring the fields of a frozen dataclass into the form that their annotations say, in place.

    A `float` becomes one (and minus zero zero), an `int` must be whole, a `bool` is no number, sequences become tuples
    and NumPy's values Python's, at any depth.

    Raises:
        InputError: a value that cannot be what is annotated, NaN and infinity among them.
    """
    for field in fields(parameters):
        where, kind = f"{type(parameters).__name__}: {field.name}", str(field.type)
        value = getattr(parameters, field.name)
        if value is None and "None" not in kind:
            _refuse(where, "a value", "none")
        if isinstance(value, str) and kind.startswith(("Sequence", "tuple", "Mapping")):
            _refuse(where, "a list", "text")
        object.__setattr__(parameters, field.name, _settled(value, kind, where))


def _settled(value: Any, kind: str, where: str) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: _settled(member, kind, where) for key, member in value.items()}
    if isinstance(value, list | tuple | range):
        return tuple(_settled(member, kind, where) for member in value)
    if isinstance(value, str):
        numeric = any(_takes(kind, name) for name in ("float", "int", "bool"))
        return _refuse(where, "a number", "text") if numeric and not _takes(kind, "str") else value
    if isinstance(value, bool | int | float):
        return _number(value, kind, where)
    return value


def _number(value: float, kind: str, where: str) -> Any:
    if not abs(value) < math.inf or (isinstance(value, int) and abs(value) >= 2**1023):
        _refuse(where, "a finite number", "another")
    if _takes(kind, "bool"):
        return bool(value) if value in (0, 1) else _refuse(where, "True or False", "a number")
    if _takes(kind, "float"):
        return float(value) + 0.0  # no minus zero
    if _takes(kind, "int"):
        if value == int(value):
            return int(value)
        return value if _takes(kind, "str") else _refuse(where, "a whole number", "a fraction")  # 0.5 may be a label
    return value


def _takes(kind: str, name: str) -> bool:
    return re.search(rf"\b{name}\b", kind) is not None


def _refuse(where: str, expected: str, got: str) -> Any:
    raise InputError(Reason.BAD_ARGUMENT, f"{where}: expected {expected}, got {got}", "all sites must give the same")
