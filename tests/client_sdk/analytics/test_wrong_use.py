"""Data that do not fit are refused at the site, before anything is sent, without telling values."""

from __future__ import annotations

import numpy as np
import pytest

from client_sdk import analytics
from he_agg import InputError, Reason

GRID = analytics.Grid(1, 0, 100)

WRONG: dict[str, tuple[analytics.Analysis, tuple, tuple]] = {
    "unknown category": (analytics.Counts({"sex": ["f", "m"]}), (["f", "x7"],), (["f", "m"],)),
    "one variable missing": (analytics.Counts({"a": [1], "b": [1]}), ([1],), ([1], [1])),
    "unequal lengths": (analytics.Counts({"a": [1], "b": [1]}), ([1, 1], [1]), ([1, 1], [1, 1])),
    "nan": (analytics.Histogram((0, 1)), ([0.5, np.nan],), ([0.5, 0.7],)),
    "text": (analytics.Histogram((0, 1)), (["half"],), ([0.5],)),
    "off the grid": (analytics.Moments([GRID]), ([777.25],), ([77],)),
    "columns": (analytics.Moments([GRID]), (np.zeros((3, 2)),), (np.zeros((3, 1)),)),
    "too many rows": (analytics.Moments([GRID], max_rows=2), (np.zeros(3),), (np.zeros(2),)),
    "infinite": (analytics.Quantiles(GRID), ([np.inf],), ([1.0],)),
    "negative time": (analytics.KaplanMeier(1, 10), ([-3], [1]), ([3], [1])),
    "event 2": (analytics.KaplanMeier(1, 10), ([3], [2]), ([3], [1])),
    "group missing": (analytics.KaplanMeier(1, 10, ["a", "b"]), ([3], [1]), ([3], [1], ["a"])),
    "outcome 777": (analytics.LogisticRegression(1, l2=1), ([[1.0]], [777]), ([[1.0], [2.0]], [1, 0])),
    "beyond all grids": (analytics.Quantiles(GRID), ([1e300],), ([1.0],)),
    "two tables": (analytics.Moments([GRID]), ([1], [2]), ([1],)),
    "no events": (analytics.KaplanMeier(1, 10), ([3],), ([3], [1])),
    "no outcomes": (analytics.LogisticRegression(1), ([3],), ([3], [1])),
    "no data": (analytics.Histogram((0, 1)), (), ([1],)),
    "feature beyond": (analytics.LogisticRegression(1, l2=1), ([[777.25]], [1]), ([[7.0], [1.0]], [1, 0])),
}


@pytest.mark.parametrize("name", WRONG)
def test_refused(name):
    question, wrong, right = WRONG[name]
    with pytest.raises(InputError) as caught:
        question.prepared(*wrong)
    for value in ("777", "x7", "half"):
        assert value not in caught.value.message
    question.prepared(*right)


@pytest.mark.parametrize(
    "make",
    [
        lambda: analytics.Grid(0, 0, 1),
        lambda: analytics.Grid(1, 1, 1),
        lambda: analytics.Grid(1, 0, np.inf),
        lambda: analytics.Grid(1e-20, 0, 1),
        lambda: analytics.Counts({}),
        lambda: analytics.Counts({"a": [1, 1]}),
        lambda: analytics.Histogram((1,)),
        lambda: analytics.Histogram((1, 1)),
        lambda: analytics.Moments([]),
        lambda: analytics.Moments([GRID], covariance=True, missing="skip"),
        lambda: analytics.Quantiles(GRID, (1.5,)),
        lambda: analytics.KMeans(0, GRID, 2),
        lambda: analytics.KMeans(2, GRID, 2, initial=((1.0, 2.0),)),
        lambda: analytics.PCA(3, [GRID] * 2),
        lambda: analytics.PowerPCA(3, GRID, 2),
        lambda: analytics.KaplanMeier(1, 10, []),
        lambda: analytics.LogisticRegression(0),
        lambda: analytics.SmallCells(0),
    ],
)
def test_questions_that_make_no_sense(make):
    with pytest.raises(InputError) as caught:
        make()
    assert caught.value.reason == Reason.BAD_ARGUMENT


def test_small_cells_warn_or_are_masked():
    labels = ["a"] * 20 + ["b"] * 3 + ["c"] * 9 + ["d"] * 30
    categories = {"x": ["a", "b", "c", "d", "none"]}
    with pytest.warns(analytics.SmallCellWarning, match="1 of 5 counts are below 5"):
        plain = analytics.dry_run(analytics.Counts(categories), [(labels,)])
    assert plain.counts.tolist() == [20, 3, 9, 30, 0]
    hidden = analytics.dry_run(analytics.Counts(categories, analytics.SmallCells(5, "suppress")), [(labels,)])
    # c goes with b: b alone would be the total minus the rest.
    assert hidden.counts.tolist() == [20, None, None, 30, 0]
    assert "3" not in str(hidden.counts).replace("30", "")
    assert hidden.counts.data.tolist() == [20, 0, 0, 30, 0]
    enough = analytics.dry_run(analytics.Counts(categories, analytics.SmallCells(3, "suppress")), [(labels,)])
    assert enough.counts.tolist() == [20, 3, 9, 30, 0]


def test_missing_rows_are_asked_for():
    with pytest.raises(InputError, match="at least one site"):
        analytics.dry_run(analytics.Quantiles(GRID), [])
    with pytest.raises(InputError, match="have none"):
        analytics.dry_run(analytics.Quantiles(GRID), [([],), ([],)])
    with pytest.raises(InputError, match="at least 2 rows"):
        analytics.dry_run(analytics.KMeans(2, GRID, 1), [([[1.0]],), (np.empty((0, 1)),)])
    with pytest.raises(InputError, match="two rows"):
        analytics.dry_run(analytics.PCA(1, [GRID]), [([[1.0]],)])


def test_a_list_of_grids_is_the_same_question_as_a_tuple():
    assert len({analytics.Moments([GRID, GRID]), analytics.Moments((GRID, GRID))}) == 1
    assert len({analytics.PCA(1, [GRID, GRID]), analytics.PCA(1, (GRID, GRID))}) == 1


def test_an_empty_hospital_changes_nothing(rng):
    values = rng.integers(0, 100, 50)
    question = analytics.Quantiles(GRID)
    with_empty = analytics.dry_run(question, [(values,), ([],)])
    assert with_empty.values.tolist() == analytics.dry_run(question, [(values,)]).values.tolist()


def test_the_center_of_a_suppressed_cluster_goes_with_its_count():
    rows = np.array([[0.0, 1.0]] * 9 + [[50.0, 51.0]] * 9 + [[97.0, 98.0]])
    start = ((1.0, 1.0), (49.0, 50.0), (90.0, 90.0))
    shown = analytics.KMeans(3, GRID, 2, initial=start, small_cells=analytics.SmallCells(1))
    assert analytics.dry_run(shown, [(rows,)]).centers.tolist() == [[0, 1], [50, 51], [97, 98]]
    hiding = analytics.KMeans(3, GRID, 2, initial=start, small_cells=analytics.SmallCells(5, "suppress"))
    result = analytics.dry_run(hiding, [(rows,)])
    assert result.counts.tolist() == [None, 9, None]
    assert np.isnan(result.centers).all(axis=1).tolist() == [True, False, True]
    assert set(result.labels(rows[9:]).tolist()) == {1}
