"""The one door for data: whatever holds a column, the same values come in, or a sentence that tells no value."""

from __future__ import annotations

import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from client_sdk import analytics
from client_sdk.columns import classes, column, flags, labels, table
from client_sdk.training import BinaryScores, ClassCounts
from he_agg import InputError, Reason

DAYS = np.array([10, 20, 30])

SAME = {
    "list": [10, 20, 30],
    "tuple": (10.0, 20, np.int8(30)),
    "object": np.array([10, Decimal(20), 30.0], dtype=object),
    "float16": DAYS.astype(np.float16),
    "uint8": DAYS.astype(np.uint8),
    "big-endian": DAYS.astype(">i8"),
    "one column": DAYS.reshape(-1, 1),
    "pandas": pd.Series(DAYS, index=[7, 7, 1]),
    "nullable": pd.Series(DAYS, dtype="Int64"),
    "nullable float": pd.Series(DAYS, dtype="Float32"),
    "frame": pd.DataFrame({"days": DAYS}),
    "unmasked": np.ma.array(DAYS, mask=False),
    "strided": np.arange(0, 40, 5)[2::2],
}

MISSING = {
    "nan": [10, np.nan, 30],
    "none": [10, None, 30],
    "NaT": [10, pd.NaT, 30],
    "NA": [10, pd.NA, 30],
    "masked": np.ma.array([10, 999, 30], mask=[False, True, False]),
    "masked in a list": [10, np.ma.masked, 30],
    "nullable": pd.Series([10, None, 30], dtype="Int64"),
    "decimal": [10, Decimal("NaN"), 30],
}

OTHER = {
    "timedelta64": (DAYS.astype("timedelta64[D]"), "np.timedelta64"),
    "pandas timedelta": (pd.Series(DAYS.astype("timedelta64[s]")), "np.timedelta64"),
    "timedelta": ([datetime.timedelta(days=10)], "np.timedelta64"),
    "timedelta in an object column": (pd.Series([1, pd.Timedelta(days=2)], dtype=object), "np.timedelta64"),
    "datetime64": (np.array(["2026-01-01"], dtype="datetime64[D]"), "first date"),
    "date": ([datetime.date(2026, 1, 1)], "first date"),
    "only NaT": (np.array(["NaT"], dtype="timedelta64[ns]"), "np.timedelta64"),
    "text": (["777", "20"], "astype"),
    "text among numbers": ([10, "777"], "astype"),
    "bytes": (np.array([b"777"]), "astype"),
    "complex": (np.array([777 + 1j]), "astype"),
    "records": (np.zeros(3, dtype=[("a", int)]), "astype"),
    "beyond 2^53": ([2**53 + 1, 2], "identifiers"),
    "beyond 2^53 in an array": (np.array([2**53 + 1, 2]), "identifiers"),
    "beyond all floats": ([10**400], "identifiers"),
    "generator": ((day for day in (777, 20)), "list"),
    "map": (map(int, "777"), "list"),
    "set": ({777, 20}, "list"),
    "dict": ({777: 1}, "list"),
    "one number": (777.0, "list"),
    "ragged": ([[777], [1, 2]], ""),
    "infinite": ([777.0, np.inf], "impute"),
}


@pytest.mark.parametrize("name", SAME)
def test_whatever_holds_them_numbers_are_the_same(name):
    assert column(SAME[name]).tolist() == [10, 20, 30]
    assert labels(SAME[name], "x") == [10, 20, 30]


@pytest.mark.parametrize("name", MISSING)
def test_missing_is_missing_however_it_is_written(name):
    for read in (column, lambda values: labels(values, "x")):
        with pytest.raises(InputError, match=r"1 missing .* position 1\n") as caught:
            read(MISSING[name])
        assert "999" not in caught.value.message
    kept = table(MISSING[name], 1, missing="skip")[:, 0]
    assert np.isnan(kept).tolist() == [False, True, False]
    moments = analytics.dry_run(analytics.Moments([analytics.Grid(1, 0, 2000)], missing="skip"), [(MISSING[name],)])
    assert (moments.n.tolist(), moments.mean.tolist()) == ([2], [20.0])


@pytest.mark.parametrize("name", OTHER)
def test_what_is_no_plain_number_is_refused_with_what_to_do(name):
    values, hint = OTHER[name]
    with pytest.raises(InputError) as caught:
        column(values)
    assert hint in caught.value.hint
    assert "777" not in str(caught.value)


def test_a_torch_tensor_that_asks_for_gradients_is_explained():
    torch = pytest.importorskip("torch")
    assert column(torch.tensor([10, 20, 30])).tolist() == [10, 20, 30]
    with pytest.raises(InputError, match="Tensor") as caught:
        column(torch.tensor([1.0], requires_grad=True))
    assert "detach" in caught.value.hint


def test_yes_and_no():
    for yes in ([True, False], [1, 0], np.array([1.0, 0.0]), pd.Series([True, False], dtype="boolean"), [[1], [0]]):
        assert flags(yes, "events", 2).tolist() == [True, False]
    for other in ([1, 2], [True, pd.NA], ["1", "0"], np.ma.array([1, 0], mask=[False, True]), [1], [0.5, 1]):
        with pytest.raises(InputError, match="events"):
            flags(other, "events", 2)


def test_classes_are_whole_and_within():
    assert classes([0, 2.0, 1], "truth", 3).tolist() == [0, 2, 1]
    for other in ([0, 3], [-1], [0.5], [None], ["0"]):
        with pytest.raises(InputError, match="truth"):
            classes(other, "truth", 3)


def test_labels_keep_what_they_are():
    assert labels(["a", 1, "1"], "x") == ["a", 1, "1"]
    assert labels(pd.Series(["f", "m"], dtype="category"), "x") == ["f", "m"]
    for other in ("fmf", {"f": 1}, {"f"}, iter("fm"), [["f", "m"]], pd.DataFrame({"f": [1], "m": [2]}), ["f", None]):
        with pytest.raises(InputError):
            labels(other, "x")
    with pytest.raises(InputError, match="dates"):
        labels(np.array(["2026-01-01"], dtype="datetime64[ns]"), "x")  # not the integers in it


SPANS = DAYS.astype("timedelta64[D]").astype("timedelta64[ns]")
MASKED = np.ma.array(DAYS, mask=[False, True, False])
GRID = analytics.Grid(1, 0, 100)
DOORS = {
    "Histogram": lambda days: analytics.Histogram((0, 50, 100)).prepared(days),
    "Moments": lambda days: analytics.Moments([GRID]).prepared(days),
    "Quantiles": lambda days: analytics.Quantiles(GRID).prepared(days),
    "KMeans": lambda days: analytics.KMeans(1, GRID, 1).prepared(days),
    "PCA": lambda days: analytics.PCA(1, [GRID]).prepared(days),
    "PowerPCA": lambda days: analytics.PowerPCA(1, GRID, 1).prepared(days),
    "KaplanMeier": lambda days: analytics.KaplanMeier(1, 1000).prepared(days, [1, 1, 0]),
    "KaplanMeier events": lambda flag: analytics.KaplanMeier(1, 1000).prepared([1, 1, 1], flag),
    "LogisticRegression": lambda x: analytics.LogisticRegression(1, 100).prepared(x, [1, 0, 1]),
    "LogisticRegression outcomes": lambda y: analytics.LogisticRegression(1).prepared([1, 2, 3], y),
    "Counts": lambda days: analytics.Counts({"days": [10, 20, 30]}).prepared(days),
    "BinaryScores": lambda y: BinaryScores().count((y, [0.5, 0.5, 0.5])),
    "BinaryScores scores": lambda p: BinaryScores().count(([0, 1, 1], p)),
    "ClassCounts": lambda y: ClassCounts(31).count((y, [0, 1, 1])),
    "ClassCounts predictions": lambda p: ClassCounts(31).count(([0, 1, 1], p)),
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("days", [SPANS, MASKED, pd.Series([10, None, 30], dtype="Int64"), iter([1, 2, 3])])
def test_every_door_is_the_same_door(door, days):
    with pytest.raises(InputError) as caught:
        DOORS[door](days)
    assert caught.value.reason in (Reason.WRONG_DTYPE, Reason.NON_FINITE)
