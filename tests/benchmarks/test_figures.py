"""What figures are made of: fits, ratios, comparisons."""

from __future__ import annotations

import pytest

from benchmarks.rounds.charts import fitted
from benchmarks.rounds.compare import compare
from benchmarks.rounds.links import RATES
from benchmarks.rounds.measuring import summary
from benchmarks.rounds.models import MODELS
from benchmarks.rounds.promises import PROMISES
from benchmarks.rounds.run import cells
from benchmarks.rounds.schemes import SCHEMES, skip_reason


def test_fitted_exponent_of_a_power_law():
    assert fitted([(x, 3 * x**0.75) for x in (10, 100, 1000)]) == pytest.approx(0.75)
    assert fitted([(10, 1), (100, 2)]) is None
    assert fitted([(10, 1), (10, 1), (100, 2)]) is None


def one_round(seconds, size=100.0):
    figures = {"round_s": seconds, "seconds": {"upload": seconds / 2}, "bytes_up": size, "bytes_down": size}
    return figures | {"cpu_s_server": 0.1, "cpu_s_sites": 0.2, "site_rss": 5}


def test_ratios_are_taken_within_a_repetition():
    """The second repetition was slow for both: the median of ratios does not mind, the ratio of medians would."""
    row = summary([one_round(2.0), one_round(40.0), one_round(6.0)], [one_round(1.0), one_round(20.0), one_round(2.0)])
    assert row["ratio_to_plaintext"] == 2.0
    assert (row["ratio_min"], row["ratio_max"]) == (2.0, 3.0)
    assert row["round_s_median"] == 6.0
    assert [each["ratio"] for each in row["repetitions"]] == [2.0, 2.0, 3.0]


def result(ratios, label="hybrid-16", up=100.0):
    repetitions = [{"round_s": ratio, "ratio": ratio} for ratio in ratios]
    names = {"label": label, "model": "cnn", "sites": 3, "link": "loopback", "shaping": "loopback"}
    return {"rows": [names | {"repetitions": repetitions, "bytes_up": up, "bytes_down": 100.0}]}


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ([1.0, 1.1, 1.2], [1.15, 1.3, 1.4], "same"),  # they overlap
        ([1.0, 1.01, 1.02], [1.03, 1.035, 1.04], "same"),  # apart, but less than any two runs differ
        ([1.0, 1.1, 1.2], [1.5, 1.6, 1.7], "worse"),
        ([1.5, 1.6, 1.7], [1.0, 1.1, 1.2], "better"),
        ([1.0, 3.0, 5.0], [5.1, 5.2, 5.3], "worse"),
        ([1.0, 3.0, 9.0], [9.1, 9.1, 9.1], "worse"),
    ],
)
def test_a_change_has_to_be_beyond_noise(before, after, verdict):
    found = {change.figure: change.verdict for change in compare(result(before), result(after))}
    assert found == {"ratio_to_plaintext": verdict, "bytes_up": "same", "bytes_down": "same"}


def test_bytes_do_not_vary():
    found = {c.figure: c.verdict for c in compare(result([1.0], up=100), result([1.0], up=101.5))}
    assert found["bytes_up"] == "worse"


def test_rows_of_one_result_only_are_not_compared():
    assert compare(result([1.0]), result([1.0], label="hybrid-8")) == []


def test_what_is_promised_is_measured_first():
    todo = cells(["logreg", "lora", "ten-million"], [30, 3], ["loopback", "1gbit"], every=False)
    assert [str(cell) for cell in todo[:2]] == [
        "ten-million (10,000,000 values), 3 sites, loopback",
        "ten-million (10,000,000 values), 3 sites, 1gbit",
    ]
    assert all(cell.sites == 3 for cell in todo if cell.values == 10**8)
    assert len(cells(["logreg", "lora"], [30, 3], ["loopback", "1gbit"], every=True)) == 8


def test_every_promise_is_measured_by_default():
    todo = {(cell.values, cell.sites, cell.link) for cell in cells(MODELS, [3, 10, 30], RATES, every=False)}
    assert {link for _, link, _, _ in PROMISES} <= RATES.keys()
    assert todo >= {(10**7, 3, link) for _, link, _, _ in PROMISES}
    assert [cell for cell in todo if cell[2] == "20mbit"] == [(10**7, 3, "20mbit")]
    for label, link, _, _ in PROMISES:
        assert skip_reason(SCHEMES[label], 10**7, 3, RATES[link]) == ""
