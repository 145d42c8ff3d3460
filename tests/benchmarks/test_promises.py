"""What `make bench` says of promises: from rows, of the right plan and size."""

from __future__ import annotations

import pytest

from benchmarks.codecs import jobs
from benchmarks.mac import measure
from benchmarks.promises import PLANS, promises, told
from he_agg.plan.hybrid_parameters import HybridParameters

RATIO = "encrypt_speed_vs_tenseal_stock"


def row(values=10**7, bits=16, sites=31, up=3.0, scheme="hybrid"):
    names = {"scheme": scheme, "value_bits": bits, "max_sites": sites, "values": values, "sites": 3}
    return names | {"bytes_per_value_up": up}


def mac(values=10**7, tag=0.2, verify=0.3):
    names = {"value_bits": 24, "max_sites": 31, "values": values}
    return names | {"tag_over_encrypt": tag, "verify_over_open": verify}


def verdicts(*rows, macs=(), ratio=None):
    ratios = {} if ratio is None else {RATIO: {"median": ratio, "least": 0.0, "most": 1e9}}
    return {(p["figure"], p["values"]): p["holds"] for p in promises(list(rows), list(macs), ratios)}


def test_bytes_are_judged_by_plan_and_size():
    up = "bytes_per_value_up"
    assert verdicts(row(up=3.02), row(10**4, up=5.51)) == {(up, 10**7): True, (up, 10**4): False}
    assert verdicts(row(up=3.021)) == {(up, 10**7): False}
    assert verdicts(row(sites=8, up=2.67)) == {(up, 10**7): False}
    # Nothing is promised of these.
    assert verdicts(row(10**6, up=9.0), row(bits=24, up=9.0), row(10**4, bits=24, up=9.0)) == {}
    assert verdicts(row(sites=300, up=9.0), row(scheme="ckks", up=9.0)) == {}


def test_speed_and_tags_are_judged_at_ten_million_values():
    assert verdicts(row(), ratio=199.9)[RATIO, 10**7] is False
    assert verdicts(row(), ratio=200.0)[RATIO, 10**7] is True
    assert verdicts(row(10**6), ratio=100.0) == {}
    assert verdicts(macs=[mac(), mac(10**6, 9.0, 9.0)]) == {
        ("tag_over_encrypt", 10**7): True,
        ("verify_over_open", 10**7): True,
    }
    assert set(verdicts(macs=[mac(tag=0.26, verify=0.41)]).values()) == {False}


def test_a_promise_is_told_in_a_line():
    first, second = promises([row(up=3.5)], [], {RATIO: {"median": 250.0}})
    assert told(first) == "16 bits, 31 sites, 1e7 values: bytes_per_value_up 3.500, at most 3.02: FALLS SHORT"
    assert told(second) == f"16 bits, 31 sites, 1e7 values: {RATIO} 250.000, at least 200: holds"


def test_a_whole_run_measures_all_that_is_promised():
    """Every plan at both sizes and with tags; one of them with residues of two limbs and one value a coefficient."""
    todo = jobs(quick=False)
    for bits, sites in PLANS:
        of_plan = [job for job in todo if (job.scheme, job.bits, job.max_sites) == ("hybrid", bits, sites)]
        assert {10**4, 10**7} <= {job.values for job in of_plan if not job.mac}
        assert [job.values for job in of_plan if job.mac] == [10**7]
    stock = [job for job in todo if job.scheme == "tenseal-stock" and job.values == 10**7]
    assert len(stock) == 3
    wide = HybridParameters.choose((1 << 23) - 1, 31)
    assert (wide.packing, len(wide.moduli)) == (1, 2)
    assert (24, 31) in PLANS


@pytest.mark.parametrize("bits", [8, 24])
def test_the_mac_is_measured_on_sums_that_it_accepts(bits):
    found = measure(70_000, bits, 31, repetitions=1)
    assert found["tags"].keys() == {"key", "limb-0", "limb-1"}
    assert found["verify_over_open"] > 0
    assert -1 < found["tag_over_encrypt"] < 100
