"""The one door through which data enter: numbers, yes or no, classes, labels. For analytics and scores.

Whatever holds the values (lists, NumPy, pandas, polars, Arrow, torch), the rules are the same. A missing value is
missing however it is written: NaN, None, NaT, pd.NA, a mask. What means something else than its digits is refused with
what to do: text, dates, spans of time whose unit is not the question's, complex numbers, whole numbers that float64
rounds. So is what can be read only once, or in no order. Errors tell positions, never values.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Set
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from he_agg.errors import InputError, Reason

__all__ = ["Missing", "classes", "column", "expected", "flags", "labels", "position", "refuse", "table"]

Missing = Literal["refuse", "skip"]

_EXACT = 2**53
"""Whole numbers up to here are float64's."""


def table(values: Any, columns: int, name: str = "values", missing: Missing = "refuse") -> NDArray[np.float64]:
    """Return a table of numbers with the agreed number of columns; one column may be given flat.

    Args:
        missing: "skip" returns missing values as NaN.

    Raises:
        InputError: no numbers, missing or infinite ones, or another shape.

    Shape: (rows, columns)
    """
    array = _numbers(values, name, missing)
    if array.ndim == 1 and columns == 1:
        array = array.reshape(-1, 1)
    if array.size == 0 and array.ndim == 1:
        array = array.reshape(0, columns)  # [] has no columns to count
    if array.ndim != 2 or array.shape[1] != columns:
        raise InputError(
            Reason.WRONG_SHAPE,
            f"{name}: expected shape (rows, {columns}), got {array.shape}",
            "hand in the columns that were agreed on, a row per patient",
        )
    return array


def column(values: Any, name: str = "values", missing: Missing = "refuse") -> NDArray[np.float64]:
    """Return one column of numbers."""
    return table(values, 1, name, missing)[:, 0]


def flags(values: Any, name: str, rows: int) -> NDArray[np.bool_]:
    """Return yes or no for so many rows: True and False, or 1 and 0."""
    numbers = column(values, name)
    _check_length(numbers.size, name, rows)
    wrong = (numbers != 0) & (numbers != 1)
    if wrong.any():
        raise refuse(
            f"{name}: expected 0 or 1 in every row, got something else in {int(wrong.sum())}, the first at position "
            f"{position(wrong)}",
            f"make them yes or no first, for instance `{name.split(': ')[-1]} == 2` where 2 means yes",
        )
    return np.asarray(numbers == 1)


def classes(values: Any, name: str, count: int, rows: int | None = None) -> NDArray[np.int64]:
    """Return classes 0 to `count - 1`, of so many rows if given."""
    numbers = column(values, name)
    if rows is not None:
        _check_length(numbers.size, name, rows)
    wrong = (numbers < 0) | (numbers >= count) | (numbers != np.floor(numbers))
    if wrong.any():
        raise refuse(
            f"{name}: expected classes 0 to {count - 1}, got something else in {int(wrong.sum())} rows, the first at "
            f"position {position(wrong)}",
            "number the classes from 0, the same way at every site",
        )
    return numbers.astype(np.int64)


def labels(values: Any, name: str) -> list[Any]:
    """Return a column of labels as plain Python values, none missing."""
    array, hidden = _held(values, name, np.dtype(object))
    if array.ndim == 2 and array.shape[1] == 1:
        array, hidden = array[:, 0], hidden[:, 0]
    if array.ndim != 1:
        raise InputError(Reason.WRONG_SHAPE, f"{name}: expected one label per row, got shape {array.shape}")
    found = array.tolist()
    gone = hidden | np.fromiter((_is_missing(label) for label in found), dtype=bool, count=len(found))
    _refuse_missing(gone, name, 'or make "missing" a category that all sites agree on')
    return [label.item() if isinstance(label, np.generic) else label for label in found]


def expected(data: tuple[Any, ...], who: str, *names: str) -> tuple[Any, ...]:
    """Return as many columns or tables as there are names for them."""
    if len(data) != len(names):
        raise refuse(
            f"{who}: expected {len(names)} column(s) or table(s) of data ({', '.join(names)}), got {len(data)}",
            f"hand them in after the question, in this order: {', '.join(names)}",
        )
    return data


def refuse(message: str, hint: str = "correct it in the question, the same way at all sites") -> InputError:
    """Return the error for arguments that make no sense."""
    return InputError(Reason.BAD_ARGUMENT, message, hint)


def position(wrong: NDArray[np.bool_]) -> str:
    """Tell where the first true entry is."""
    first = [int(i) for i in np.argwhere(wrong)[0]]
    return str(first[0]) if len(first) == 1 or wrong.shape[1] == 1 else str(tuple(first))


def _check_length(got: int, name: str, rows: int) -> None:
    if got != rows:
        raise InputError(
            Reason.WRONG_SHAPE,
            f"{name}: expected {rows} of them, one per row, got {got}",
            "hand in columns of the same rows, in the same order",
        )


def _numbers(values: Any, name: str, missing: Missing) -> NDArray[np.float64]:
    array, hidden = _held(values, name)
    if array.dtype.kind == "O":
        wide = _unwrapped(array, name)
    else:
        _check_dtype(array.dtype, name)
        wide = array.astype(np.float64)
        if array.dtype.kind in "iu" and (np.abs(wide) >= _EXACT).any():
            _unwrapped(array.astype(object), name)  # refuses those that were rounded
    infinite = np.isinf(wide) & ~hidden
    if infinite.any():
        raise InputError(
            Reason.NON_FINITE,
            f"{name}: expected finite values, got infinity in {int(infinite.sum())}, the first at position "
            f"{position(infinite)}",
            "leave out or impute such values first",
        )
    gone = hidden | np.isnan(wide)
    if missing == "refuse":
        _refuse_missing(gone, name)
    return np.ascontiguousarray(np.where(gone, np.nan, wide))


def _refuse_missing(gone: NDArray[np.bool_], name: str, more: str = "") -> None:
    if gone.any():
        raise InputError(
            Reason.NON_FINITE,
            f"{name}: expected a value in every row, got {int(gone.sum())} missing (NaN, None, NaT, NA or masked), "
            f"the first at position {position(gone)}",
            f"leave out or impute missing values first {more}".rstrip(),
        )


def _held(values: Any, name: str, dtype: np.dtype[Any] | None = None) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return what is held as an array, and what is masked in it."""
    if isinstance(values, str | bytes | bytearray | Mapping | Set) or hasattr(values, "__next__"):
        raise InputError(
            Reason.WRONG_DTYPE,
            f"{name}: expected a list, an array or a column, got {type(values).__name__}",
            "make a list of it first: an iterator is empty when it is read again, a set has no order",
        )
    if hasattr(values, "tocoo") or hasattr(values, "todense"):
        raise InputError(
            Reason.WRONG_DTYPE, f"{name}: expected a dense array, got a sparse one", "make it dense: `.toarray()`"
        )
    mask: Any = False
    if isinstance(values, np.ma.MaskedArray):
        mask, values = np.ma.getmaskarray(values), values.data
    elif isinstance(values, list | tuple) and any(isinstance(value, np.ma.MaskedArray) for value in values):
        values = [_unmasked(value) for value in values]
    try:
        array = np.asarray(values)
        if dtype is not None and array.dtype.kind not in "mMV":
            array = np.asarray(values, dtype=dtype)  # not by way of text, which [1, "a"] would take
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(
            Reason.WRONG_DTYPE,
            f"{name}: expected numbers or labels in rows of one length, got a {type(values).__name__} that is no array",
            "give all rows as many values, missing ones as NaN; of a torch tensor hand in "
            "`tensor.detach().cpu().numpy()`",
        ) from error
    if array.ndim == 0:
        raise InputError(
            Reason.WRONG_SHAPE,
            f"{name}: expected a list, an array or a column, got a single {type(values).__name__}",
            "make a list or an array of it first",
        )
    if array.dtype.kind in "mMV":
        _check_dtype(array.dtype, name)
    return array, np.broadcast_to(np.asarray(mask, dtype=bool), array.shape)


def _unmasked(value: Any) -> Any:
    """Return a row, or a value, with None where it is masked."""
    if value is np.ma.masked:
        return None
    return np.ma.filled(value.astype(object), None).tolist() if isinstance(value, np.ma.MaskedArray) else value


def _unwrapped(array: NDArray[Any], name: str) -> NDArray[np.float64]:
    """Return Python objects as numbers, NaN where one is missing."""
    wide = np.empty(array.size, dtype=np.float64)
    for i, value in enumerate(array.reshape(-1).tolist()):
        if _is_missing(value):
            wide[i] = np.nan
            continue
        if isinstance(value, np.timedelta64 | datetime.timedelta):
            raise _no_span(name, type(value).__name__)
        if isinstance(value, np.datetime64 | datetime.date | datetime.time):
            raise _no_date(name, type(value).__name__)
        plain = value.item() if isinstance(value, np.generic) else value
        if not isinstance(plain, int | float | Decimal | Fraction):
            raise _no_number(name, type(value).__name__)
        try:
            wide[i] = float(plain)
        except OverflowError as error:
            raise _rounded(name) from error
        if isinstance(plain, int) and abs(plain) > _EXACT and int(wide[i]) != plain:
            raise _rounded(name)
    return wide.reshape(array.shape)


def _is_missing(value: Any) -> bool:
    if value is None or value is np.ma.masked or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating | np.datetime64 | np.timedelta64 | Decimal) and bool(value != value)


def _check_dtype(dtype: np.dtype[Any], name: str) -> None:
    if dtype.kind == "m":
        raise _no_span(name, str(dtype))
    if dtype.kind == "M":
        raise _no_date(name, str(dtype))
    if dtype.kind not in "biuf":
        raise _no_number(name, "text" if dtype.kind in "SUT" else str(dtype))


def _no_span(name: str, got: str) -> InputError:
    return InputError(
        Reason.WRONG_DTYPE,
        f"{name}: expected plain numbers in the unit of the question, got spans of time ({got})",
        f"divide by the unit that all sites agreed on, for days `{name} / np.timedelta64(1, 'D')`",
    )


def _no_date(name: str, got: str) -> InputError:
    return InputError(
        Reason.WRONG_DTYPE,
        f"{name}: expected plain numbers in the unit of the question, got dates ({got})",
        f"subtract each patient's first date and divide by the unit, for days `({name} - first) / "
        "np.timedelta64(1, 'D')`",
    )


def _no_number(name: str, got: str) -> InputError:
    return InputError(
        Reason.WRONG_DTYPE, f"{name}: expected numbers, got {got}", f"convert them first: `{name}.astype(float)`"
    )


def _rounded(name: str) -> InputError:
    return InputError(
        Reason.WRONG_DTYPE,
        f"{name}: expected numbers that float64 holds, got a whole number beyond 2^53 that it would round",
        "subtract a constant that all sites agree on; if they are identifiers, they are no measurements",
    )
